# ruff: noqa
"""Retention with rotary positions, grouped keys, and a gated linear unit after the read-out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange, repeat
from fla.layers.utils import get_layer_cache, repad_hidden_states, unpad_hidden_states, update_layer_cache
from fla.modules import GroupNorm, RotaryEmbedding
from fla.modules.activations import ACT2FN, swiglu
from fla.ops.retention import chunk_retention, fused_recurrent_retention, parallel_retention

if TYPE_CHECKING:
    from fla.models.utils import Cache


class RetentionMixer(nn.Module):
    def __init__(
        self,
        mode: str = "chunk",
        hidden_size: int = 1024,
        num_heads: int = 8,
        num_kv_heads: int = 1,
        expand_v: float = 2.0,
        hidden_act: str = "swish",
        layer_idx: Optional[int] = None,
        **kwargs,
    ) -> None:
        super().__init__()
        self.mode, self.layer_idx = mode, layer_idx
        self.num_heads, self.num_kv_groups = num_heads, num_heads // num_kv_heads
        self.head_dim = hidden_size // num_heads
        self.head_v_dim = int(self.head_dim * expand_v)
        assert self.head_dim % 2 == 0, "rotary positions need an even head size"
        self.q_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, num_kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, num_kv_heads * self.head_v_dim, bias=False)
        self.g_proj = nn.Linear(hidden_size, num_heads * self.head_v_dim, bias=False)
        self.rotary = RotaryEmbedding(dim=self.head_dim)
        self.act = ACT2FN[hidden_act]
        self.norm = GroupNorm(num_groups=num_heads, hidden_size=num_heads * self.head_v_dim, is_rms_norm=True)
        self.o_proj = nn.Linear(num_heads * self.head_v_dim, hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: Optional[torch.Tensor] = None,
        past_key_values: Optional[Cache] = None,
        use_cache: Optional[bool] = False,
        output_attentions: Optional[bool] = False,
        **kwargs,
    ) -> Tuple[torch.Tensor, Optional[torch.Tensor], Optional[Cache]]:
        if attention_mask is not None:
            assert len(attention_mask.shape) == 2, "Expected attention_mask as a 0-1 matrix [batch_size, seq_len]"
        batch_size, q_len, _ = hidden_states.shape
        mode = "fused_recurrent" if (q_len <= 64 and not self.training) else self.mode
        last_state = get_layer_cache(self, past_key_values)
        hidden_states, indices, cu_seqlens = unpad_hidden_states(
            hidden_states, kwargs.get("cu_seqlens"), attention_mask, q_len
        )
        recurrent_state = last_state["recurrent_state"] if last_state is not None else None
        q = rearrange(self.q_proj(hidden_states), "b t (h d) -> b t h d", d=self.head_dim)
        k = rearrange(self.k_proj(hidden_states), "b t (h d) -> b t h d", d=self.head_dim)
        offset = 0 if past_key_values is None else past_key_values.get_seq_length(self.layer_idx)
        q, k = self.rotary(q, k, seqlen_offset=offset, max_seqlen=q_len + offset, cu_seqlens=cu_seqlens)
        k = repeat(k, "b t h d -> b t (h g) d", g=self.num_kv_groups)
        v = repeat(self.v_proj(hidden_states), "b t (h d) -> b t (h g) d", g=self.num_kv_groups, d=self.head_v_dim)
        retention = chunk_retention if mode == "chunk" else fused_recurrent_retention
        o, recurrent_state = retention(
            q=q,
            k=k,
            v=self.act(v),
            initial_state=recurrent_state,
            output_final_state=use_cache,
            cu_seqlens=cu_seqlens,
        )
        if self.mode == "parallel":
            o, _ = parallel_retention(q, k, v, cu_seqlens=cu_seqlens)
        o = self.norm(rearrange(o, "b t h d -> b t (h d)"))
        o = rearrange(swiglu(self.g_proj(hidden_states), o), "b t (h d) -> b t h d", h=self.num_heads)
        update_layer_cache(self, past_key_values, recurrent_state=recurrent_state, offset=q_len)
        o = self.o_proj(rearrange(o, "b t h d -> b t (h d)"))
        o = repad_hidden_states(o, indices, batch_size, q_len)
        return o, None, past_key_values
