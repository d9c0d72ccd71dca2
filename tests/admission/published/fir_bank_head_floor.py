# ruff: noqa
"""DeltaNet with a bank of five causal filters and a floor of every path that each head learns."""

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


@torch.compile
def delta_rule_chunkwise(q, k, v, beta, forget: Optional[torch.Tensor] = None, *, chunk_size: int = 32):
    """Chunked delta rule; `forget` [H] scales the state once per chunk."""
    b, h, L, d_k = q.shape
    pad_len = (-L) % chunk_size
    if pad_len:
        q, k, v = (F.pad(t, (0, 0, 0, pad_len)) for t in (q, k, v))
        beta = F.pad(beta, (0, pad_len))
    q = l2norm(q)
    k = l2norm(k)
    v = v * beta.unsqueeze(-1)
    kb = k * beta.unsqueeze(-1)
    q, k, v, kb = [rearrange(t, "b h (n c) d -> b h n c d", c=chunk_size) for t in (q, k, v, kb)]
    tri = torch.tril(torch.ones(chunk_size, chunk_size, device=q.device, dtype=torch.bool), -1)
    inv = -(kb @ rearrange(k, "b h n c d -> b h n d c")) * tri
    for i in range(1, chunk_size):
        inv[..., i, :i] += torch.einsum("...j,...jk->...k", inv[..., i, :i].clone(), inv[..., :i, :i].clone())
    inv = inv + torch.eye(chunk_size, dtype=inv.dtype, device=q.device)
    u, w = inv @ v, inv @ kb
    state = q.new_zeros(b, h, d_k, v.size(-1))
    lam = None if forget is None else rearrange(forget, "h -> 1 h 1 1")
    causal = tri | torch.eye(chunk_size, device=q.device, dtype=torch.bool)
    outs = []
    for idx in range(q.shape[2]):
        qi, ki = q[:, :, idx], k[:, :, idx]
        if lam is not None:
            state = state * lam
        local = (qi @ ki.transpose(-1, -2)).masked_fill(~causal, 0.0)
        ui = u[:, :, idx] - w[:, :, idx] @ state
        outs.append(qi @ state + local @ ui)
        state = state + ki.transpose(-1, -2) @ ui
    out = rearrange(torch.stack(outs, dim=2), "b h n c d -> b h (n c) d")[:, :, :L]
    return out.contiguous(), state.detach()


class _DepthwiseFIRConv1d(nn.Module):
    """Per-head, per-channel causal FIR filter, Dirac at the present token plus noise."""

    def __init__(self, num_heads: int, head_dim: int, kernel_size: int = 31, noise_std: float = 1e-2):
        super().__init__()
        self.kernel_size = int(kernel_size)
        filters = torch.zeros(num_heads, head_dim, self.kernel_size)
        with torch.no_grad():
            filters[..., -1] = 1.0
            filters.add_(noise_std * torch.randn_like(filters))
        self.filters = nn.Parameter(filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # x: [B, L, H, D]
        b, L, h, d = x.shape
        weight = rearrange(self.filters, "h d k -> (h d) 1 k")
        x_f = rearrange(x, "b l h d -> b (h d) l")
        x_pad = F.pad(x_f, (self.kernel_size - 1, 0))
        y = F.conv1d(x_pad, weight=weight, groups=h * d)
        return rearrange(y, "b (h d) l -> b l h d", h=h)


def _per_head_stats(x: torch.Tensor) -> torch.Tensor:  # [B, L, H, D] -> [B, L, H, 4]
    mean = x.mean(dim=-1, keepdim=True)
    var = x.var(dim=-1, unbiased=False, keepdim=True)
    abs_mean = x.abs().mean(dim=-1, keepdim=True)
    l2 = x.norm(dim=-1, keepdim=True)
    return torch.cat([mean, var, abs_mean, l2], dim=-1)


class DeltaNet(nn.Module):
    """DeltaNet with a bank of five causal filters and a floor of every path that each head learns."""

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
        bank: Tuple[int, ...] = (1, 3, 7, 15, 31),
        value_kappa: float = 0.05,
        path_dropout: float = 0.1,
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

        self.bank = nn.ModuleList([_DepthwiseFIRConv1d(num_heads, self.head_v_dim, k, noise_std=1e-3) for k in bank])
        self.num_streams = len(bank) + 2
        self.value_kappa = value_kappa
        self.path_dropout = nn.Dropout(path_dropout)
        self.gate_w = nn.Parameter(torch.randn(num_heads, self.head_v_dim + 4, self.num_streams) * 0.02)
        self.gate_b = nn.Parameter(torch.tensor([-0.2] * len(bank) + [1.0, 3.0]).repeat(num_heads, 1))
        self.floor_param = nn.Parameter(torch.full((num_heads, self.num_streams), -3.0))

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

        streams = [f(v_direct) for f in self.bank] + [delta_out, v_direct]
        features = torch.cat([v_direct, _per_head_stats(delta_out)], dim=-1)
        logits = torch.einsum("b l h i, h i s -> b l h s", features, self.gate_w) + self.gate_b
        weights = logits.softmax(dim=-1)
        floor = torch.sigmoid(self.floor_param) / self.num_streams
        weights = weights * (1.0 - floor.sum(dim=-1, keepdim=True)) + floor
        weights = self.path_dropout(weights)
        identity = weights[..., -1:]
        o = torch.zeros_like(v_direct)
        for s, stream in enumerate(streams[:-1]):
            o = o + weights[..., s : s + 1] * stream
        o = o + (identity + self.value_kappa) * streams[-1]

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
