"""The cache that layers hand on while decoding."""

from __future__ import annotations

from typing import Any


class Cache:
    """One dictionary of states per layer, in order."""

    def __init__(self, seen_tokens: int = 0) -> None:
        self.states: list[dict[str, Any]] = []
        self._seen_tokens = seen_tokens

    def __getitem__(self, layer_idx: int) -> dict[str, Any]:
        return self.states[layer_idx]

    def __len__(self) -> int:
        return len(self.states)

    def update(
        self,
        recurrent_state: Any = None,
        attn_state: Any = None,
        conv_state: Any = None,
        ffn_state: Any = None,
        layer_idx: int = 0,
        offset: int | None = 1,
        cache_kwargs: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Stores what is not None as the state of `layer_idx`; the first layer counts the `offset` tokens seen."""
        given = {
            "recurrent_state": recurrent_state,
            "attn_state": attn_state,
            "conv_state": conv_state,
            "ffn_state": ffn_state,
        }
        while len(self.states) <= layer_idx:
            self.states.append(dict.fromkeys(given))
        self.states[layer_idx].update({name: state for name, state in given.items() if state is not None})
        self._seen_tokens += (offset or 0) if layer_idx == 0 else 0
        return self.states[layer_idx]

    def get_seq_length(self, layer_idx: int | None = 0) -> int:
        return self._seen_tokens
