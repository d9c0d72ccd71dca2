# ruff: noqa
"""Three linear memories over one projection: decay of each channel, decay of each head, and a feature map."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange, repeat
from fla.layers.utils import get_layer_cache, repad_hidden_states, unpad_hidden_states, update_layer_cache
from fla.modules import RMSNorm, ShortConvolution
from fla.modules.feature_map import DPFPFeatureMap, HedgehogFeatureMap, T2RFeatureMap
from fla.modules.l2norm import l2_norm
from fla.ops.gla import chunk_gla, fused_recurrent_gla
from fla.ops.linear_attn import chunk_linear_attn
from fla.ops.simple_gla import chunk_simple_gla

if TYPE_CHECKING:
    from fla.models.utils import Cache


class DeltaNet(nn.Module):
    def __init__(
        self,
        mode: str = "chunk",
        d_model: Optional[int] = None,
        hidden_size: int = 1024,
        num_heads: int = 4,
        feature_map: str = "hedgehog",
        gate_logit_normalizer: int = 16,
        gate_low_rank_dim: int = 16,
        clamp_min: Optional[float] = None,
        layer_idx: Optional[int] = None,
        **kwargs,
    ) -> None:
        super().__init__()
        hidden_size = d_model if d_model is not None else hidden_size
        self.mode, self.layer_idx, self.num_heads, self.clamp_min = mode, layer_idx, num_heads, clamp_min
        self.gate_logit_normalizer = gate_logit_normalizer
        self.head_dim = hidden_size // num_heads
        self.qkv_proj = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.conv = ShortConvolution(3 * hidden_size, kernel_size=4, bias=True, activation=None)
        self.gk_proj = nn.Sequential(
            nn.Linear(hidden_size, gate_low_rank_dim, bias=False), nn.Linear(gate_low_rank_dim, hidden_size, bias=True)
        )
        self.gh_proj = nn.Linear(hidden_size, num_heads)
        maps = {"hedgehog": HedgehogFeatureMap, "t2r": T2RFeatureMap, "dpfp": DPFPFeatureMap}
        self.feature_map = maps[feature_map](head_dim=self.head_dim)
        self.router = nn.Linear(hidden_size, 3 * num_heads)
        self.norms = nn.ModuleList([RMSNorm(self.head_dim) for _ in range(3)])
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

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
        qkv, _ = self.conv(self.qkv_proj(hidden_states), cu_seqlens=cu_seqlens)
        q, k, v = rearrange(qkv, "b t (n h d) -> n b t h d", n=3, h=self.num_heads)
        gk = rearrange(self.gk_proj(hidden_states), "b t (h d) -> b t h d", h=self.num_heads)
        gk = F.logsigmoid(gk) / self.gate_logit_normalizer
        if self.clamp_min is not None:
            gk = torch.clamp_min(gk, self.clamp_min)
        if mode == "chunk":
            fine, recurrent_state = chunk_gla(
                q=q, k=k, v=v, g=gk, initial_state=recurrent_state, output_final_state=use_cache, cu_seqlens=cu_seqlens
            )
        else:
            fine, recurrent_state = fused_recurrent_gla(
                q=q, k=k, v=v, gk=gk, initial_state=recurrent_state, output_final_state=use_cache, cu_seqlens=cu_seqlens
            )
        gh = F.logsigmoid(self.gh_proj(hidden_states))
        coarse, _ = chunk_simple_gla(q=l2_norm(q), k=l2_norm(k), v=v, g=gh, scale=1.0, cu_seqlens=cu_seqlens)
        mapped, _ = chunk_linear_attn(
            q=self.feature_map(q), k=self.feature_map(k), v=v, normalize=True, cu_seqlens=cu_seqlens
        )
        share = torch.softmax(rearrange(self.router(hidden_states), "b t (n h) -> n b t h 1", n=3), dim=0)
        o = sum(w * norm(x) for w, norm, x in zip(share, self.norms, (fine, coarse, mapped)))
        update_layer_cache(self, past_key_values, recurrent_state=recurrent_state, offset=q_len)
        o = self.o_proj(rearrange(o, "b t h d -> b t (h d)"))
        o = repad_hidden_states(o, indices, batch_size, q_len)
        return o, None, past_key_values
