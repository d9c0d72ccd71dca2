"""AdaMultiPathGateNet: five paths under a gate that adds what all tokens, each head and each token want.

Published: index 827, delta_net_balanced_sparse_gate, in the text of ASI-Arch (arXiv 2507.18074) only; its program is
not.
Described: logits are the sum of a global vector, one vector for each head and one for each token and head; a small
floor; a constant entropy penalty.
Inferred from the published sibling 902: FIR of 3, 15 and 64 taps, delta rule, values; temperature softplus + 0.5 of
the head; bias 1 on the values.
Chosen: FIR noise 0.01; temperature 1 at the start; the token's logits by one Linear without bias; floor 0.02 for each
path, not learned (902 has learned floors that start at 0.1, half of the budget of five paths: not small).
Left out: the entropy penalty, which the published trainer never adds to the loss.
Parameters over DeltaNet: 5 H (D + 1) + 5 + 82 D + H a layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST_TAU = math.log(math.expm1(0.5))  # temperature 1
FLOOR = 0.02


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


class AdaMultiPathGateNet(nn.Module):
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
        self.fir_15 = dirac(D, 15, 0.01)
        self.fir_64 = dirac(D, 64, 0.01)
        self.of_all = nn.Parameter(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0]))
        self.of_head = nn.Parameter(torch.zeros(H, 5))
        self.of_token = nn.Linear(D, 5 * H, bias=False)
        self.tau = nn.Parameter(torch.full((H, 1), FIRST_TAU))
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
        o = fir_mix(v, [self.fir_3, self.fir_15, self.fir_64], [delta], self.gates(x), self.scale)
        mixed: Tensor = self.out(o.flatten(-2))
        return mixed

    def gates(self, x: Tensor) -> Tensor:
        """Weight of each path for every token and head [B, T, H, 5]; they sum to 1."""
        logits = self.of_all + self.of_head + self.heads(self.of_token(x))
        shares = (logits / (F.softplus(self.tau) + 0.5)).softmax(-1)
        weights: Tensor = FLOOR + (1 - 5 * FLOOR) * shares
        return weights
