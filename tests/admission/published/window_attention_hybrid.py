# ruff: noqa
"""DeltaNet with a path of softmax attention inside windows of two blocks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Dict, List, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from einops import rearrange, repeat
from fla.layers.utils import get_unpad_data, index_first_axis, pad_input
from fla.modules import FusedRMSNormGated, RMSNorm, ShortConvolution
from fla.modules.l2norm import l2norm

if TYPE_CHECKING:
    from fla.models.utils import Cache


def elu_p1(x: torch.Tensor) -> torch.Tensor:
    return (F.elu(x, 1.0, False) + 1.0).to(x)


def sum_norm(x: torch.Tensor) -> torch.Tensor:
    return (x / x.sum(-1, keepdim=True)).to(x)


@torch.compile(dynamic=True)
def delta_rule_chunkwise(q, k, v, beta, chunk_size: int = 32):
    assert q.dim() == 4, f"expected [B, H, L, D], got {q.dim()} dims"
    b, h, L, _ = q.shape
    pad = (chunk_size - L % chunk_size) % chunk_size
    q, k, v = (F.pad(t.float(), (0, 0, 0, pad)) for t in (q, k, v))
    beta = F.pad(beta.float(), (0, pad))
    q, k = l2norm(q), l2norm(k)
    q, k, v = (rearrange(t, "b h (n c) d -> b h n c d", c=chunk_size) for t in (q, k, v))
    beta = rearrange(beta, "b h (n c) -> b h n c 1", c=chunk_size)
    kk = torch.einsum("bhncd,bhnmd->bhncm", k * beta, k).tril(-1)
    eye = torch.eye(chunk_size, device=q.device, dtype=q.dtype).expand_as(kk)
    t_mat = torch.linalg.solve_triangular(eye + kk, eye, upper=False)
    u = t_mat @ (v * beta)
    w = t_mat @ (k * beta)
    qk = torch.einsum("bhncd,bhnmd->bhncm", q, k).tril()
    state = torch.zeros(b, h, k.shape[-1], v.shape[-1], device=q.device, dtype=q.dtype)
    out = torch.empty_like(v)
    for n in range(u.shape[2]):
        change = u[:, :, n] - torch.matmul(w[:, :, n], state)
        out[:, :, n] = torch.matmul(q[:, :, n], state) + torch.matmul(qk[:, :, n], change)
        state = state + torch.matmul(k[:, :, n].transpose(-2, -1), change)
    return rearrange(out, "b h n c d -> b h (n c) d")[:, :, :L], state


def sliding_block_attention(q, k, v, block: int = 32):
    """Each query sees its own block up to itself and the whole block before; q, k, v [B, H, L, D]."""
    b, h, L, d = q.shape
    pad = -L % block
    q, k, v = (F.pad(t, (0, 0, 0, pad)) for t in (q, k, v))
    q, k, v = (rearrange(t, "b h (n c) d -> b h n c d", c=block) for t in (q, k, v))
    k_prev, v_prev = (torch.cat([torch.zeros_like(t[:, :, :1]), t[:, :, :-1]], dim=2) for t in (k, v))
    k2, v2 = torch.cat([k_prev, k], dim=3), torch.cat([v_prev, v], dim=3)
    scores = torch.einsum("bhncd,bhnmd->bhncm", q, k2) * d**-0.5
    row = torch.arange(block, device=q.device)[:, None]
    col = torch.arange(2 * block, device=q.device)[None, :] - block
    allowed = repeat(col <= row, "i j -> n i j", n=q.shape[2]).clone()
    allowed[0, :, :block] = False
    scores = scores.masked_fill(~allowed, float("-inf"))
    out = torch.softmax(scores, dim=-1) @ v2
    return rearrange(out, "b h n c d -> b h (n c) d")[:, :, :L]


class DeltaNet(nn.Module):
    """DeltaNet with a path of softmax attention inside windows of two blocks."""

    def __init__(
        self,
        mode: str = "chunk1",
        d_model: Optional[int] = None,
        hidden_size: int = 1024,
        expand_k: float = 1.0,
        expand_v: float = 1.0,
        num_heads: int = 4,
        use_beta: bool = True,
        use_gate: bool = False,
        use_short_conv: bool = True,
        conv_size: int = 4,
        conv_bias: bool = False,
        allow_neg_eigval: bool = False,
        layer_idx: Optional[int] = None,
        qk_activation: str = "silu",
        qk_norm: str = "l2",
        norm_eps: float = 1e-5,
        window: int = 32,
        **kwargs: Dict,
    ) -> None:
        super().__init__()
        self.mode = mode
        assert qk_activation in ["silu", "relu", "elu", "identity"]
        assert qk_norm in ["l2", "sum"]
        if d_model is not None:
            hidden_size = d_model
        self.hidden_size = hidden_size
        self.num_heads = num_heads
        self.use_beta = use_beta
        self.use_gate = use_gate
        self.use_short_conv = use_short_conv
        self.allow_neg_eigval = allow_neg_eigval
        self.layer_idx = layer_idx if layer_idx is not None else 0
        self.qk_activation = qk_activation
        self.qk_norm = qk_norm
        self.key_dim = int(hidden_size * expand_k)
        self.value_dim = int(hidden_size * expand_v)
        assert self.key_dim % num_heads == 0, f"key dim must be divisible by num_heads of {num_heads}"
        assert self.value_dim % num_heads == 0, f"value dim must be divisible by num_heads of {num_heads}"
        self.head_k_dim = self.key_dim // num_heads
        self.head_v_dim = self.value_dim // num_heads

        self.q_proj = nn.Linear(hidden_size, self.key_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, self.key_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, self.value_dim, bias=False)
        if self.use_beta:
            self.b_proj = nn.Linear(hidden_size, num_heads, bias=False)
        if self.use_short_conv:
            activation = "silu" if qk_activation == "silu" else None
            self.q_conv1d = ShortConvolution(self.key_dim, kernel_size=conv_size, activation=activation, bias=conv_bias)
            self.k_conv1d = ShortConvolution(self.key_dim, kernel_size=conv_size, activation=activation, bias=conv_bias)
            self.v_conv1d = ShortConvolution(self.value_dim, kernel_size=conv_size, activation="silu", bias=conv_bias)
        else:
            raise UserWarning("ShortConvolution is crucial to the performance. Do not turn it off.")

        self.window = window
        self.fusion = nn.Linear(2 * self.head_v_dim, 1)
        self.q_scale = nn.Parameter(torch.ones(num_heads, 1, self.head_k_dim))

        if use_gate:
            self.g_proj = nn.Linear(hidden_size, self.value_dim, bias=False)
            self.o_norm = FusedRMSNormGated(self.head_v_dim, eps=norm_eps)
        else:
            self.o_norm = RMSNorm(self.head_v_dim, eps=norm_eps)
        self.o_proj = nn.Linear(self.value_dim, hidden_size, bias=False)

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
            assert attention_mask.ndim == 2, "attention_mask must be [batch, seq_len]"
        batch_size, seq_len, _ = hidden_states.shape
        last_state = None
        if past_key_values is not None and len(past_key_values) > self.layer_idx:
            last_state = past_key_values[self.layer_idx]
        cu_seqlens = kwargs.get("cu_seqlens", None)
        indices = None
        if attention_mask is not None:
            indices, cu_seqlens, _ = get_unpad_data(attention_mask[:, -seq_len:])
            hidden_states = index_first_axis(rearrange(hidden_states, "b s ... -> (b s) ..."), indices).unsqueeze(0)

        conv_state_q, conv_state_k, conv_state_v = None, None, None
        if last_state is not None and last_state.get("conv_state") is not None:
            conv_state_q, conv_state_k, conv_state_v = last_state["conv_state"]
        q, conv_state_q = self.q_conv1d(
            x=self.q_proj(hidden_states), cache=conv_state_q, output_final_state=use_cache, cu_seqlens=cu_seqlens
        )
        k, conv_state_k = self.k_conv1d(
            x=self.k_proj(hidden_states), cache=conv_state_k, output_final_state=use_cache, cu_seqlens=cu_seqlens
        )
        v, conv_state_v = self.v_conv1d(
            x=self.v_proj(hidden_states), cache=conv_state_v, output_final_state=use_cache, cu_seqlens=cu_seqlens
        )
        q, k = map(lambda t: rearrange(t, "... (h d) -> ... h d", d=self.head_k_dim), (q, k))
        v = rearrange(v, "... (h d) -> ... h d", d=self.head_v_dim)
        if self.qk_activation != "silu":
            if self.qk_activation == "relu":
                q, k = q.relu(), k.relu()
            elif self.qk_activation == "elu":
                q, k = elu_p1(q), elu_p1(k)
            elif self.qk_activation != "identity":
                raise NotImplementedError
        if self.qk_norm == "sum":
            q, k = sum_norm(q).to(q), sum_norm(k).to(k)
        beta = self.b_proj(hidden_states).sigmoid() if self.use_beta else torch.ones_like(q[..., 0])
        if self.allow_neg_eigval:
            beta = beta * 2.0
        v_direct = v
        delta_out, recurrent_state = delta_rule_chunkwise(
            rearrange(q, "b l h d -> b h l d"),
            rearrange(k, "b l h d -> b h l d"),
            rearrange(v, "b l h d -> b h l d"),
            rearrange(beta, "b l h -> b h l"),
        )
        delta_out = rearrange(delta_out, "b h l d -> b l h d")

        q_a = rearrange(q, "b l h d -> b h l d") * self.q_scale
        attended = sliding_block_attention(
            q_a, rearrange(k, "b l h d -> b h l d"), rearrange(v_direct, "b l h d -> b h l d"), block=self.window
        )
        attended = rearrange(attended, "b h l d -> b l h d")
        alpha = torch.sigmoid(self.fusion(torch.cat([attended, delta_out.to(attended)], dim=-1)))
        o = alpha * attended + (1.0 - alpha) * delta_out

        if past_key_values is not None and use_cache:
            past_key_values.update(
                recurrent_state=recurrent_state,
                conv_state=(conv_state_q, conv_state_k, conv_state_v),
                layer_idx=self.layer_idx,
                offset=seq_len,
            )
        if self.use_gate:
            g = rearrange(self.g_proj(hidden_states), "... (h d) -> ... h d", d=self.head_v_dim)
            o = self.o_norm(o, g)
        else:
            o = self.o_norm(o)
        o = rearrange(o, "b l h d -> b l (h d)")
        o = self.o_proj(o)
        if attention_mask is not None:
            o = pad_input(o.squeeze(0), indices, batch_size, seq_len)
        return o, None, past_key_values
