"""ContentSharpRouter as it was trained: four paths and a softmax over 4 H of which the first four entries are used.

Published: index 703, delta_net_csm, of the gallery of ASI-Arch (arXiv 2507.18074).
Paths: FIR of 3 and of 25 taps that start as the identity (noise 0.02), delta rule, values themselves.
Router: SiLU(Linear D -> D/2) of the token beside mean and standard deviation of the four paths of a head, one Linear
shared by the heads, temperature softplus(log_temp) of each head, 1.5 at the start; bias 2 on the values.
The published last Linear has 4 H rows for every head, so the other 4 H - 4 entries of the softmax are null slots that
take mass (bias 2 on every fourth): with 8 heads the values start at 0.109 and each other path at 0.0054. The norm
behind the mixture restores the scale. content_sharp_router_intended.py is the mechanism as it was described.
Left out: the entropy term, which the published trainer never adds to the loss. Chosen: 1e-6 under the root of the
deviation.
Parameters over DeltaNet: D/2 (D + 1) + 4 H (D/2 + 9) + 28 D + H a layer; 13.68 M at 24 layers, D 1024, H 8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FIRST_TEMPERATURE = math.log(math.expm1(1.5))  # before the softplus


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


def mean_and_std(paths: Sequence[Tensor]) -> Tensor:
    """Mean and standard deviation over the channels of P paths [B, T, H, d]: [B, T, H, 2 P].

    1e-6 under the root, since the root has no gradient at 0.
    """
    pairs = [torch.var_mean(path, dim=-1, correction=0) for path in paths]
    return torch.stack([one for var, mean in pairs for one in (mean, (var + 1e-6).sqrt())], -1)


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


class ContentSharpRouter(nn.Module):
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
        self.fir_3 = dirac(D, 3, 0.02)
        self.fir_25 = dirac(D, 25, 0.02)
        self.router_in = nn.Linear(D, D // 2)
        self.router_out = nn.Linear(D // 2 + 8, 4 * H)  # for every head
        with torch.no_grad():
            self.router_out.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 2.0]).repeat(H))
        self.log_temp = nn.Parameter(torch.full((H, 1), FIRST_TEMPERATURE))
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
        wide = self.heads(causal_fir(value, self.fir_25))
        paths = [local, wide, delta]
        weights = self.route(x, [*paths, v])
        mixed: Tensor = self.out(fir_mix(v, [], paths, weights, self.scale).flatten(-2))
        return mixed

    def route(self, x: Tensor, paths: Sequence[Tensor]) -> Tensor:
        """Weight of each path for every token and head [B, T, H, 4]; the rest of 1 is in null slots."""
        hidden = F.silu(self.router_in(x))
        weight, width = self.router_out.weight, hidden.shape[-1]
        # the token's part is the same for all heads: computed once, not on copies of the hidden layer
        from_token = F.linear(hidden, weight[:, :width], self.router_out.bias).unsqueeze(-2)
        logits = from_token + F.linear(mean_and_std(paths), weight[:, width:])
        sharpened = logits * (F.softplus(self.log_temp) + 1e-4)
        return sharpened.softmax(-1)[..., : len(paths)]
