"""A delta-rule mixer in the words of the published contract: fla imports, torch.compile, hard casts to bfloat16."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from einops import rearrange
from fla.layers.utils import get_unpad_data, index_first_axis, pad_input
from fla.modules import FusedRMSNormGated, RMSNorm, ShortConvolution
from fla.modules.l2norm import l2norm
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from fla.models.utils import Cache


@torch.compile
def chunked_delta(q, k, v, beta, chunk_size: int = 32):
    b, h, length, d_k = q.shape
    pad = -length % chunk_size
    if pad:
        q, k, v = (F.pad(x, (0, 0, 0, pad)) for x in (q, k, v))
        beta = F.pad(beta, (0, pad))
    q, k = l2norm(q), l2norm(k)
    v, k_beta = v * beta[..., None], k * beta[..., None]
    q, k, v, k_beta = (rearrange(x, "b h (n c) d -> b h n c d", c=chunk_size) for x in (q, k, v, k_beta))
    upper = torch.ones(chunk_size, chunk_size, dtype=torch.bool, device=q.device).triu(0)
    inverse = -(k_beta @ k.transpose(-1, -2)).masked_fill(upper, 0)
    for i in range(1, chunk_size):
        row = inverse[..., i, :i] + (inverse[..., i, :, None].clone() * inverse[..., :, :i].clone()).sum(-2)
        inverse[..., i, :i] = row
    inverse = inverse + torch.eye(chunk_size, dtype=torch.float, device=q.device)
    inverse = inverse.to(torch.bfloat16)
    u, w = inverse @ v, inverse @ k_beta
    state = k.new_zeros(b, h, d_k, v.shape[-1])
    o = torch.zeros_like(v)
    later = upper.triu(1)
    for n in range(q.shape[2]):
        scores = (q[:, :, n] @ k[:, :, n].transpose(-1, -2)).masked_fill_(later, 0)
        change = u[:, :, n] - w[:, :, n] @ state
        o[:, :, n] = q[:, :, n] @ state + scores @ change
        state = state + k[:, :, n].transpose(-1, -2) @ change
    return rearrange(o, "b h n c d -> b h (n c) d")[:, :, :length], state


@torch.compile(dynamic=True)
def blend(a, b, gate):
    return gate * a + (1 - gate) * b


class GateHelper(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.proj = nn.Linear(width, 1).bfloat16()

    def forward(self, x):
        return self.proj(x.to(torch.bfloat16)).float().sigmoid()


class DeltaNet(nn.Module):
    def __init__(
        self,
        mode: str = "chunk",
        d_model: int | None = None,
        hidden_size: int = 1024,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        num_heads: int = 4,
        use_beta: bool = True,
        use_gate: bool = True,
        use_short_conv: bool = True,
        conv_size: int = 4,
        conv_bias: bool = False,
        allow_neg_eigval: bool = False,
        layer_idx: int | None = None,
        norm_eps: float = 1e-5,
        **kwargs,
    ):
        super().__init__()
        hidden_size = hidden_size if d_model is None else d_model
        self.layer_idx = layer_idx
        self.head_k_dim = int(hidden_size * expand_k) // num_heads
        self.head_v_dim = int(hidden_size * expand_v) // num_heads
        self.q_proj = nn.Linear(hidden_size, self.head_k_dim * num_heads, bias=False)
        self.k_proj = nn.Linear(hidden_size, self.head_k_dim * num_heads, bias=False)
        self.v_proj = nn.Linear(hidden_size, self.head_v_dim * num_heads, bias=False)
        self.b_proj = nn.Linear(hidden_size, num_heads, bias=False)
        self.q_conv1d = ShortConvolution(self.head_k_dim * num_heads, kernel_size=conv_size, activation="silu")
        self.k_conv1d = ShortConvolution(self.head_k_dim * num_heads, conv_size, bias=conv_bias, activation="silu")
        self.v_conv1d = ShortConvolution(hidden_size=self.head_v_dim * num_heads, kernel_size=conv_size)
        self.g_proj = nn.Linear(hidden_size, self.head_v_dim * num_heads, bias=False)
        self.o_norm = FusedRMSNormGated(self.head_v_dim, eps=norm_eps)
        self.skip_norm = RMSNorm(self.head_v_dim, eps=norm_eps)
        self.helper = GateHelper(hidden_size)
        self.o_proj = nn.Linear(self.head_v_dim * num_heads, hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = False,
        output_attentions: bool | None = False,
        **kwargs,
    ):
        batch_size, q_len, _ = hidden_states.shape
        cu_seqlens = kwargs.get("cu_seqlens")
        if attention_mask is not None:
            indices, cu_seqlens, _ = get_unpad_data(attention_mask[:, -q_len:])
            hidden_states = index_first_axis(rearrange(hidden_states, "b s d -> (b s) d"), indices).unsqueeze(0)
        q, conv_q = self.q_conv1d(
            x=self.q_proj(hidden_states), cache=None, output_final_state=use_cache, cu_seqlens=cu_seqlens
        )
        k, _ = self.k_conv1d(x=self.k_proj(hidden_states), output_final_state=use_cache, cu_seqlens=cu_seqlens)
        v, _ = self.v_conv1d(x=self.v_proj(hidden_states), output_final_state=use_cache, cu_seqlens=cu_seqlens)
        q, k = (rearrange(x, "b l (h d) -> b h l d", d=self.head_k_dim) for x in (q, k))
        v = rearrange(v, "b l (h d) -> b h l d", d=self.head_v_dim)
        beta = rearrange(self.b_proj(hidden_states).sigmoid(), "b l h -> b h l")
        o, state = chunked_delta(q=q, k=k, v=v, beta=beta)
        o, v = rearrange(o, "b h l d -> b l h d"), rearrange(v, "b h l d -> b l h d")
        if past_key_values is not None:
            past_key_values.update(recurrent_state=state, conv_state=(conv_q,), layer_idx=self.layer_idx, offset=q_len)
        o = blend(o, self.skip_norm(v), self.helper(hidden_states).unsqueeze(-1))
        o = self.o_norm(o, rearrange(self.g_proj(hidden_states), "... (h d) -> ... h d", d=self.head_v_dim))
        o = self.o_proj(rearrange(o, "b t h d -> b t (h d)"))
        if attention_mask is not None:
            o = pad_input(o.squeeze(0), indices, batch_size, q_len)
        return o, None, past_key_values
