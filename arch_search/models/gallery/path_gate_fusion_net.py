"""PathGateFusionNet: copy against context first, then a softmax among the context paths, and a small residual.

Published: index 1505, delta_net_hpg, in the text of ASI-Arch (arXiv 2507.18074) only; its program is not.
Described: stage one splits the budget between a copy of the values and a pool of context, stage two shares the pool by
a softmax among short FIR, long FIR and delta rule; a small residual that is always on; an output gate for each head.
Inferred from the published relatives 1434, 843, 1167 and 933: FIR of 3 and of 31 taps; stage one is a sigmoid with
bias 1.25 (copy starts at 0.77) of an MLP of the token beside four statistics (mean, deviation, mean absolute value,
length) of every path and head; the pool has at least 0.01; temperature softplus(tau) + 0.05 of the head; residual
sigmoid(gamma) sigmoid(Linear x) short FIR; output gate 2 sigmoid(Linear x), 1 at the start.
Chosen: both stages read one hidden layer of width D (SiLU); FIR noise 0.01; temperature 1 and gamma -2 at the start
(residual near 0.06); the floor of the pool is where the schedule of 1434 ends, since a schedule counts steps that a
program is not told; the length is over sqrt(d), so that all statistics are of one size; the output gate is behind the
norm, which would undo it otherwise.
Parameters over DeltaNet: D (D + 16 H + 1) + 4 H (D + 1) + 2 H (D + 1) + 34 D + 2 H a layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST_TAU = math.log(math.expm1(0.95))  # temperature 1
POOL_FLOOR = 0.01


def delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, chunk: int = 32) -> Tensor:
    """S_t = (I - beta_t k_t k_t^T) S_(t-1) + beta_t k_t v_t^T and o_t = S_t^T q_t, in chunks.

    q, k, v [B, T, H, d], k of unit length, beta [B, T, H] -> [B, T, H, d]. Source: arXiv 2406.06484, section 3.2.
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
    within = (q_ @ k_.mT).tril()
    state, out = torch.zeros(B, H, d, d, dtype=dtype, device=q.device), []
    for i in range(n):
        new = u[:, :, i] - w[:, :, i] @ state
        out.append(q_[:, :, i] @ state + within[:, :, i] @ new)
        state = state + k_[:, :, i].mT @ new
    return torch.cat(out, 2)[:, :, :T].transpose(1, 2).to(v.dtype)


def causal_fir(x: Tensor, taps: Tensor) -> Tensor:
    """Each channel of x [B, T, D] filtered by its taps [D, K]; the last tap meets the present token."""
    D, K = taps.shape
    return F.conv1d(F.pad(x.mT, (K - 1, 0)), taps.unsqueeze(1), groups=D).mT


def four_statistics(paths: Sequence[Tensor]) -> Tensor:
    """Mean, deviation, mean absolute value and root mean square over the channels of P paths [B, T, H, d].

    Together [B, T, 4 P H]. 1e-6 under the roots, since a root has no gradient at 0.
    """
    found = []
    for path in paths:
        var, mean = torch.var_mean(path, dim=-1, correction=0)
        square = var + mean.square()
        found += [mean, (var + 1e-6).sqrt(), path.abs().mean(-1), (square + 1e-6).sqrt()]
    return torch.cat(found, -1)


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


class PathGateFusionNet(nn.Module):
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
        self.fir_3 = dirac(D, 3, 0.01)
        self.fir_31 = dirac(D, 31, 0.01)
        self.gate_in = nn.Linear(D + 16 * H, D)
        self.gate_out = nn.Linear(D, 4 * H)
        with torch.no_grad():
            self.gate_out.bias.copy_(torch.tensor([1.25, 0.0, 0.0, 0.0]).repeat(H))
        self.tau = nn.Parameter(torch.full((H, 1), FIRST_TAU))
        self.gamma = nn.Parameter(torch.full((H,), -2.0))
        self.residual = nn.Linear(D, H)
        self.head_gate = nn.Linear(D, H)
        nn.init.zeros_(self.head_gate.weight)
        nn.init.zeros_(self.head_gate.bias)
        self.scale = nn.Parameter(torch.ones(D // H))
        self.out = nn.Linear(D, D, bias=False)

    def heads(self, x: Tensor) -> Tensor:
        """The last axis cut into heads, [B, T, H n] -> [B, T, H, n]."""
        return x.view(*x.shape[:2], self.num_heads, -1)

    def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
        x = hidden_states
        q, k, value = F.silu(causal_fir(self.qkv(x), self.short)).chunk(3, dim=-1)
        v = self.heads(value)
        delta = delta_rule(unit(self.heads(q)), unit(self.heads(k)), v, self.beta(x).sigmoid())
        local = self.heads(causal_fir(value, self.fir_3))
        wide = self.heads(causal_fir(value, self.fir_31))
        paths = [local, wide, delta]
        o = fir_mix(v, [], paths, self.gates(x, [*paths, v]), self.scale)
        o = o * (2 * self.head_gate(x).sigmoid()).unsqueeze(-1)
        mixed: Tensor = self.out(o.flatten(-2))
        return mixed

    def gates(self, x: Tensor, paths: Sequence[Tensor]) -> Tensor:
        """Weight of each path for every token and head [B, T, H, 4]; they sum to 1 and the residual."""
        logits = self.heads(self.gate_out(F.silu(self.gate_in(torch.cat([x, four_statistics(paths)], -1)))))
        copy = (1 - POOL_FLOOR) * logits[..., :1].sigmoid()
        pool = (logits[..., 1:] / (F.softplus(self.tau) + 0.05)).softmax(-1)
        local, wide, delta = ((1 - copy) * pool).chunk(3, dim=-1)
        residual = (self.gamma.sigmoid() * self.residual(x).sigmoid()).unsqueeze(-1)
        return torch.cat([local + residual, wide, delta, copy], -1)
