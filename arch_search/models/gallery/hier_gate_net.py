"""HierGateNet: a coarse gate between local and global paths, a fine gate in each, and floors that no path falls below.

Published in the text of ASI-Arch (arXiv 2507.18074) only: index 570, 944 or 1785; its program is not.
Described: a coarse gate, then fine gates; learned floors for each path and head that depend on the context.
Inferred from the published relatives 709 and 712: coarse softmax local (FIR of 5 and of 64 taps) against global (delta
rule, values), fine softmax of two in each; logits linear in the token for each head; temperature exp of a parameter in
0.1..10 for each head and gate; floor 0.05 sigmoid(parameter); weights = floor + (1 - sum of floors) coarse fine.
Chosen: FIR noise 0.01; temperatures 1; the floor's parameter has a part linear in the token, 0 at the start (floors
start at 0.025); biases give the four paths the start of 712, the softmax of -0.5, -0.5, 0.5, 1.5 (709's own bias adds
the same to both sides and does nothing).
Parameters over DeltaNet: 10 H (D + 1) + 69 D + 3 H a layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GLOBAL_BIAS = math.log((math.exp(0.5) + math.exp(1.5)) / (2 * math.exp(-0.5)))


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


class HierGateNet(nn.Module):
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
        self.fir_5 = dirac(D, 5, 0.01)
        self.fir_64 = dirac(D, 64, 0.01)
        self.gate = nn.Linear(D, 6 * H)  # of a head: local, global; two local paths; two global paths
        with torch.no_grad():
            self.gate.bias.copy_(torch.tensor([0.0, GLOBAL_BIAS, 0.0, 0.0, 0.0, 1.0]).repeat(H))
        self.log_temp = nn.Parameter(torch.zeros(H, 3, 1))
        self.floor = nn.Linear(D, 4 * H)
        nn.init.zeros_(self.floor.weight)
        nn.init.zeros_(self.floor.bias)
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
        o = fir_mix(v, [self.fir_5, self.fir_64], [delta], self.gates(x), self.scale)
        mixed: Tensor = self.out(o.flatten(-2))
        return mixed

    def gates(self, x: Tensor) -> Tensor:
        """Weight of each path for every token and head [B, T, H, 4]; they sum to 1."""
        logits = self.gate(x).view(*x.shape[:2], self.num_heads, 3, 2)
        coarse, near, far = (logits / self.log_temp.exp().clamp(0.1, 10.0)).softmax(-1).unbind(-2)
        share = torch.cat([coarse[..., :1] * near, coarse[..., 1:] * far], -1)
        floor = 0.05 * self.heads(self.floor(x)).sigmoid()
        weights: Tensor = floor + (1 - floor.sum(-1, keepdim=True)) * share
        return weights
