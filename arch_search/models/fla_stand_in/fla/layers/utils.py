"""Padded batches to one row of tokens and back, and a layer's place in the cache."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from fla.ops.utils.index import prepare_cu_seqlens_from_mask


def get_unpad_data(attention_mask: Tensor) -> tuple[Tensor, Tensor, int]:
    """Positions of the real tokens in the flattened mask [B, T], bounds of the sequences [B + 1] int32, longest one."""
    indices, bounds = get_unpad_indices_and_cu(attention_mask)
    return indices, bounds, int(bounds.diff().max())


def get_unpad_indices_and_cu(attention_mask: Tensor, q_len: int | None = None) -> tuple[Tensor, Tensor]:
    """As `get_unpad_data` for the last `q_len` tokens, without the longest length."""
    mask = attention_mask if q_len is None else attention_mask[:, -q_len:]
    return mask.flatten().nonzero().flatten(), prepare_cu_seqlens_from_mask(mask)


def index_first_axis(x: Tensor, indices: Tensor) -> Tensor:
    """Rows `indices` of x [B * T, ...]."""
    return x[indices]


def pad_input(hidden_states: Tensor, indices: Tensor, batch_size: int, seq_len: int) -> Tensor:
    """[real tokens, ...] -> [B, T, ...], zeros where the mask was 0."""
    flat = hidden_states.new_zeros(batch_size * seq_len, *hidden_states.shape[1:])
    return flat.index_copy(0, indices, hidden_states).unflatten(0, (batch_size, seq_len))


def unpad_hidden_states(
    hidden_states: Tensor, cu_seqlens: Tensor | None, attention_mask: Tensor | None, q_len: int
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The real tokens as one row [1, tokens, ...], their positions and bounds; unchanged where bounds are given."""
    if cu_seqlens is not None or attention_mask is None:
        return hidden_states, None, cu_seqlens
    indices, bounds = get_unpad_indices_and_cu(attention_mask, q_len)
    return index_first_axis(hidden_states.flatten(0, 1), indices).unsqueeze(0), indices, bounds


def repad_hidden_states(hidden_states: Tensor, indices: Tensor | None, batch_size: int, q_len: int) -> Tensor:
    """The way back from `unpad_hidden_states`."""
    if indices is None:
        return hidden_states
    return pad_input(hidden_states.squeeze(0), indices, batch_size, q_len)


def unpad_input(
    q: Tensor | tuple[Tensor, ...],
    states: tuple[Tensor, ...],
    attention_mask: Tensor,
    q_len: int,
    keepdim: bool = False,
) -> tuple[Any, tuple[Tensor, ...], Tensor, tuple[Tensor, Tensor], tuple[int, int]]:
    """Queries and states [B, T, ...] as rows of real tokens, where queries are as many as states."""
    if q_len != states[0].shape[1]:
        raise NotImplementedError(f"q_len={q_len}: the CPU stand-in of fla unpads as many queries as states")
    indices, bounds, longest = get_unpad_data(attention_mask)

    def cut(x: Tensor) -> Tensor:
        rows = index_first_axis(x.flatten(0, 1), indices)
        return rows.unsqueeze(0) if keepdim else rows

    queries = cut(q) if isinstance(q, Tensor) else tuple(cut(x) for x in q)
    return queries, tuple(cut(x) for x in states), indices, (bounds, bounds), (longest, longest)


def require_cache_layer_idx(module: nn.Module, past_key_values: Any) -> int | None:
    layer_idx = getattr(module, "layer_idx", None)
    if past_key_values is not None and layer_idx is None:
        raise ValueError(f"{type(module).__name__} requires layer_idx where past_key_values is given")
    return layer_idx


def get_layer_cache(module: nn.Module, past_key_values: Any) -> dict[str, Any] | None:
    """The state of this layer, None where there is no cache or nothing in it."""
    layer_idx = require_cache_layer_idx(module, past_key_values)
    if past_key_values is not None and len(past_key_values) > layer_idx:
        return past_key_values[layer_idx]
    return None


def update_layer_cache(module: nn.Module, past_key_values: Any, **states: Any) -> dict[str, Any] | None:
    layer_idx = require_cache_layer_idx(module, past_key_values)
    return None if past_key_values is None else past_key_values.update(layer_idx=layer_idx, **states)
