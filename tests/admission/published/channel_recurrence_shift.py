# ruff: noqa
"""A recurrence of each channel with data-dependent forgetting, its inputs shifted by learned shares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange, repeat
from fla.layers.utils import get_layer_cache, repad_hidden_states, unpad_hidden_states, update_layer_cache
from fla.modules import FusedRMSNormGated
from fla.modules.activations import swiglu
from fla.modules.token_shift import token_shift
from fla.ops.hgrn import chunk_hgrn, fused_recurrent_hgrn

if TYPE_CHECKING:
    from fla.models.utils import Cache


class DeltaNet(nn.Module):
    def __init__(
        self,
        mode: str = "chunk",
        d_model: int = 1024,
        num_heads: int = 4,
        expand_ratio: int = 1,
        norm_eps: float = 1e-5,
        layer_idx: Optional[int] = None,
        **kwargs,
    ) -> None:
        super().__init__()
        self.mode, self.layer_idx, self.num_heads = mode, layer_idx, num_heads
        self.input_dim = d_model * expand_ratio
        self.shift_share = nn.Parameter(torch.zeros(3, d_model))
        self.i_proj = nn.Linear(d_model, self.input_dim, bias=False)
        self.f_proj = nn.Linear(d_model, self.input_dim, bias=False)
        self.g_proj = nn.Linear(d_model, self.input_dim, bias=False)
        self.lower_bound = nn.Parameter(torch.full((self.input_dim,), -4.0))
        self.g_norm = FusedRMSNormGated(self.input_dim // num_heads, eps=norm_eps, activation="sigmoid")
        self.o_proj = nn.Linear(self.input_dim, d_model, bias=False)

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
        delta = token_shift(hidden_states, cu_seqlens)
        x_i, x_f, x_g = (hidden_states + delta * share for share in self.shift_share.sigmoid().unbind(0))
        bound = self.lower_bound.sigmoid()
        f = torch.logaddexp(bound.log(), torch.log1p(-bound) + F.logsigmoid(self.f_proj(x_f)))
        i = swiglu(self.i_proj(x_i), 1 - f.exp())
        if mode == "chunk" and cu_seqlens is None:
            h, recurrent_state = chunk_hgrn(x=i, g=f, initial_state=recurrent_state, output_final_state=use_cache)
        else:
            h, recurrent_state = fused_recurrent_hgrn(
                x=i, g=f, initial_state=recurrent_state, output_final_state=use_cache, cu_seqlens=cu_seqlens
            )
        o, g = (rearrange(t, "b t (h d) -> b t h d", h=self.num_heads) for t in (h, self.g_proj(x_g)))
        o = self.g_norm(o, g)
        update_layer_cache(self, past_key_values, recurrent_state=recurrent_state, offset=q_len)
        o = self.o_proj(rearrange(o, "b t h d -> b t (h d)"))
        o = repad_hidden_states(o, indices, batch_size, q_len)
        return o, None, past_key_values
