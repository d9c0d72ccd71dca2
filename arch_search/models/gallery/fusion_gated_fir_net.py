"""FusionGatedFIRNet: two FIR filters, a delta rule that forgets between chunks and the values, each with its own gate.

Published: index 879, delta_net_psfr, of the gallery of ASI-Arch (arXiv 2507.18074).
Paths: FIR of 3 and of 63 taps that start as the identity (noise 0.01), delta rule with retention, values themselves.
Gates: Linear(D + 4 H -> 2 D), GELU, Linear(2 D -> 4 H) of the token beside the mean absolute channel of every path and
head; bias -1, -1, 1, 3; logits over exp(log_temp) of the head, 1 at the start; 0.02 + 0.98 sigmoid, neither shared out
nor normalised.
Retention: S <- lambda S + K^T U once per chunk of 32 tokens, not per token, lambda = 0.6 + 0.4 sigmoid(theta) of the
head, 0.99996 at the start, where the sigmoid is nearly flat. What is older than a chunk decays by how many multiples
of 32 lie between: outputs depend on where the sequence begins in this grid, and are causal all the same.
Chosen: reads of a chunk see the state before its decay, as the formula is written.
Parameters over DeltaNet: 2 D (D + 4 H + 1) + 4 H (2 D + 1) + 66 D + 2 H a layer; 55.15 M at 24 layers, D 1024, H 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST_RETENTION = math.log(0.9999 / 0.0001)  # sigmoid of it: 0.9999


def retained_delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, keep: Tensor, chunk: int = 32) -> Tensor:
    """The delta rule in chunks, S <- keep * S + K^T U after each: what is older than a chunk decays once per chunk.

    q, k, v [B, T, H, d], k of unit length, beta [B, T, H], keep [H] -> [B, T, H, d].
    """
    B, T, H, d = q.shape
    n = -(-T // chunk)
    dtype = torch.promote_types(v.dtype, torch.float32)
    q_, k_, v_, beta_ = (
        F.pad(t.to(dtype).transpose(1, 2), (0, 0, 0, n * chunk - T)).view(B, H, n, chunk, -1)
        for t in (q, k, v, beta.unsqueeze(-1))
    )
    kb = k_ * beta_
    lower = (kb @ k_.mT).tril(-1).to(dtype)
    right = torch.cat([v_ * beta_, kb], -1)
    u, w = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True).chunk(2, -1)
    keep_ = keep.to(dtype).view(H, 1, 1)
    within = (q_ @ k_.mT).tril()
    state, out = torch.zeros(B, H, d, d, dtype=dtype, device=q.device), []
    for i in range(n):
        new = u[:, :, i] - w[:, :, i] @ state
        out.append(q_[:, :, i] @ state + within[:, :, i] @ new)
        state = keep_ * state + k_[:, :, i].mT @ new
    return torch.cat(out, 2)[:, :, :T].transpose(1, 2).to(v.dtype)


def causal_fir(x: Tensor, taps: Tensor) -> Tensor:
    """Each channel of x [B, T, D] filtered by its taps [D, K]; the last tap meets the present token."""
    D, K = taps.shape
    return F.conv1d(F.pad(x.mT, (K - 1, 0)), taps.unsqueeze(1), groups=D).mT


def fir_mix(v: Tensor, filters: Sequence[Tensor], paths: Sequence[Tensor], weights: Tensor, scale: Tensor) -> Tensor:
    """Filtered values, further paths and the values, each times its weight, then RMSNorm over the channels of a head.

    v and paths [B, T, H, d], filters [D, K], weights [B, T, H, P] in that order, scale [d] -> [B, T, H, d].
    """
    first, *others = [*(causal_fir(v.flatten(-2), taps).view(v.shape) for taps in filters), *paths, v]
    mixed = weights[..., :1] * first
    for i, path in enumerate(others, 1):
        mixed = torch.addcmul(mixed, weights[..., i : i + 1], path)
    return F.rms_norm(mixed, (v.shape[-1],), scale, 1e-5)


def dirac(channels: int, taps: int, noise: float) -> nn.Parameter:
    """Filters [D, K] that start as the identity, up to noise."""
    filters = noise * torch.randn(channels, taps)
    filters[:, -1] += 1.0
    return nn.Parameter(filters)


def unit(x: Tensor) -> Tensor:
    """x scaled to unit length along its last axis."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


class FusionGatedFIRNet(nn.Module):
    """Token mixer: hidden_states [B, T, D] -> [B, T, D]."""

    def __init__(
        self, hidden_size: int = 1024, num_heads: int = 4, layer_idx: int | None = None, **kwargs: object
    ) -> None:
        super().__init__()
        D, H = hidden_size, num_heads
        self.num_heads = H
        self.qkv = nn.Linear(D, 3 * D, bias=False)
        self.short = nn.Parameter(torch.empty(3 * D, 4).uniform_(-0.5, 0.5))  # as torch.nn.Conv1d starts
        self.beta = nn.Linear(D, H, bias=False)
        self.retention = nn.Parameter(torch.full((H,), FIRST_RETENTION))
        self.fir_3 = dirac(D, 3, 0.01)
        self.fir_63 = dirac(D, 63, 0.01)
        self.gate_in = nn.Linear(D + 4 * H, 2 * D)
        self.gate_out = nn.Linear(2 * D, 4 * H)
        with torch.no_grad():
            self.gate_out.bias.copy_(torch.tensor([-1.0, -1.0, 1.0, 3.0]).repeat(H))
        self.log_temp = nn.Parameter(torch.zeros(H, 1))
        self.scale = nn.Parameter(torch.ones(D // H))
        self.out = nn.Linear(D, D, bias=False)

    def heads(self, x: Tensor) -> Tensor:
        """The last axis cut into heads, [B, T, H n] -> [B, T, H, n]."""
        return x.view(*x.shape[:2], self.num_heads, -1)

    def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
        x = hidden_states
        q, k, value = F.silu(causal_fir(self.qkv(x), self.short)).chunk(3, dim=-1)
        v = self.heads(value)
        keep = 0.6 + 0.4 * self.retention.sigmoid()
        unit_q, unit_k = unit(self.heads(q)), unit(self.heads(k))
        delta = retained_delta_rule(unit_q, unit_k, v, self.beta(x).sigmoid(), keep)
        local = self.heads(causal_fir(value, self.fir_3))
        wide = self.heads(causal_fir(value, self.fir_63))
        paths = [local, wide, delta]
        weights = self.gates(x, [*paths, v])
        mixed: Tensor = self.out(fir_mix(v, [], paths, weights, self.scale).flatten(-2))
        return mixed

    def gates(self, x: Tensor, paths: Sequence[Tensor]) -> Tensor:
        """Weight of each path for every token and head [B, T, H, 4], in 0.02..1 each."""
        size = torch.stack([path.abs().mean(-1) for path in paths], -1).flatten(-2)
        logits = self.heads(self.gate_out(F.gelu(self.gate_in(torch.cat([x, size], -1)))))
        return 0.02 + 0.98 * torch.sigmoid(logits * torch.exp(-self.log_temp))
