# ruff: noqa
"""A gated delta rule and a plain one side by side, mixed by the token; operators of fla.ops."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange, repeat
from fla.layers.utils import get_layer_cache, repad_hidden_states, unpad_hidden_states, update_layer_cache
from fla.modules import FusedRMSNormGated, RMSNorm, ShortConvolution
from fla.ops.delta_rule import chunk_delta_rule, fused_recurrent_delta_rule
from fla.ops.gated_delta_rule import chunk_gated_delta_rule, fused_recurrent_gated_delta_rule

if TYPE_CHECKING:
    from fla.models.utils import Cache


@torch.compile
def mix_memories(a: torch.Tensor, b: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
    return gate * a + (1 - gate) * b


class DeltaNet(nn.Module):
    def __init__(
        self,
        mode: str = "chunk",
        d_model: Optional[int] = None,
        hidden_size: int = 2048,
        num_heads: int = 6,
        expand_v: float = 1.0,
        use_short_conv: bool = True,
        conv_size: int = 4,
        allow_neg_eigval: bool = False,
        layer_idx: Optional[int] = None,
        norm_eps: float = 1e-5,
        **kwargs,
    ) -> None:
        super().__init__()
        assert mode in ["chunk", "fused_recurrent"], f"Not supported mode `{mode}`."
        hidden_size = d_model or hidden_size
        self.mode, self.layer_idx, self.allow_neg_eigval = mode, layer_idx, allow_neg_eigval
        self.num_heads, self.head_dim = num_heads, hidden_size // num_heads
        self.head_v_dim = int(self.head_dim * expand_v)
        self.qk_proj = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, num_heads * self.head_v_dim, bias=False)
        self.ab_proj = nn.Linear(hidden_size, 2 * num_heads, bias=False)
        self.A_log = nn.Parameter(torch.empty(num_heads, dtype=torch.float32).uniform_(0.1, 16).log())
        self.dt_bias = nn.Parameter(torch.ones(num_heads))
        self.qk_conv1d = ShortConvolution(2 * hidden_size, kernel_size=conv_size, activation="silu")
        self.v_conv1d = ShortConvolution(num_heads * self.head_v_dim, kernel_size=conv_size, activation="silu")
        self.mix_proj = nn.Linear(hidden_size, num_heads)
        self.g_proj = nn.Linear(hidden_size, num_heads * self.head_v_dim, bias=False)
        self.o_norm = FusedRMSNormGated(self.head_v_dim, eps=norm_eps)
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
        qk, _ = self.qk_conv1d(x=self.qk_proj(hidden_states), output_final_state=use_cache, cu_seqlens=cu_seqlens)
        v, _ = self.v_conv1d(x=self.v_proj(hidden_states), output_final_state=use_cache, cu_seqlens=cu_seqlens)
        q, k = (rearrange(t, "b t (h d) -> b t h d", d=self.head_dim) for t in qk.chunk(2, dim=-1))
        v = rearrange(v, "b t (h d) -> b t h d", d=self.head_v_dim)
        a, b = self.ab_proj(hidden_states).chunk(2, dim=-1)
        beta = b.sigmoid() * (2.0 if self.allow_neg_eigval else 1.0)
        g = -self.A_log.float().exp() * F.softplus(a.float() + self.dt_bias)
        gated_rule = chunk_gated_delta_rule if mode == "chunk" else fused_recurrent_gated_delta_rule
        plain_rule = chunk_delta_rule if mode == "chunk" else fused_recurrent_delta_rule
        forgetting, recurrent_state = gated_rule(
            q=q,
            k=k,
            v=v,
            g=g,
            beta=beta,
            initial_state=recurrent_state,
            output_final_state=use_cache,
            cu_seqlens=cu_seqlens,
            use_qk_l2norm_in_kernel=True,
        )
        keeping, _ = plain_rule(q=q, k=k, v=v, beta=beta, use_qk_l2norm_in_kernel=True, cu_seqlens=cu_seqlens)
        o = mix_memories(forgetting, keeping, self.mix_proj(hidden_states).sigmoid().unsqueeze(-1))
        o = self.o_norm(o, rearrange(self.g_proj(hidden_states), "b t (h d) -> b t h d", d=self.head_v_dim))
        update_layer_cache(self, past_key_values, recurrent_state=recurrent_state, offset=q_len)
        o = self.o_proj(rearrange(o, "b t h d -> b t (h d)"))
        o = repad_hidden_states(o, indices, batch_size, q_len)
        return o, None, past_key_values
