"""DeltaNet, the reference of the search: one memory per head, corrected by the delta rule.

S_t = exp(g_t) (I - beta_t k_t k_t^T) S_(t-1) + beta_t k_t v_t^T,   o_t = S_t^T q_t,   here with log decay g = 0.
Source: arXiv 2406.06484, equation of section 2.2, with the decay of arXiv 2412.06464 left open.
Hooks work on vectors (B, H, T, d) and scalars (B, H, T, 1); x is the input (B, T, D).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def l2norm(x: Tensor) -> Tensor:
    """x scaled to unit length along its last axis."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def gated_delta_rule(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, chunk: int = 32) -> Tensor:
    """Delta rule in chunks: S_t = exp(g_t) (I - beta_t k_t k_t^T) S_(t-1) + beta_t k_t v_t^T, o_t = S_t^T q_t.

    q, k, v [B, H, T, d] with k of unit length; beta in 0..2 and log decay g <= 0 [B, H, T, 1]. Any T.
    """
    B, H, T, d = q.shape
    n = -(-T // chunk)
    dtype = torch.promote_types(v.dtype, torch.float32)
    q_, k_, v_, beta_, g_ = (
        F.pad(t.to(dtype), (0, 0, 0, n * chunk - T)).view(B, H, n, chunk, -1) for t in (q, k, v, beta, g)
    )
    g_ = g_.cumsum(3)
    decay = (g_ - g_.mT).tril().exp().tril()
    kb = k_ * beta_
    lower = (kb @ k_.mT) * decay
    right = torch.cat([v_ * beta_, kb * g_.exp()], -1)
    u, w = torch.linalg.solve_triangular(lower, right, upper=False, unitriangular=True).chunk(2, -1)
    within = (q_ @ k_.mT) * decay
    q_in, last = q_ * g_.exp(), g_[:, :, :, -1:]
    k_out, keep = (k_ * (last - g_).exp()).mT, last.exp()
    state, out = torch.zeros(B, H, d, d, dtype=dtype, device=q.device), []
    for i in range(n):
        new = u[:, :, i] - w[:, :, i] @ state
        out.append(q_in[:, :, i] @ state + within[:, :, i] @ new)
        state = state * keep[:, :, i] + k_out[:, :, i] @ new
    return torch.cat(out, 2)[:, :, :T].to(v.dtype)


class Learned(nn.Module):
    """Learned quantities by kind and name, made at first use in the dry call of the constructor.

    Each has its own random stream, so that one more quantity leaves the initial weights of all others as they are.
    """

    def __init__(self, d_model: int, n_heads: int) -> None:
        super().__init__()
        self.d_model, self.n_heads, self.d_head = d_model, n_heads, d_model // n_heads
        self.seed = int(torch.randint(2**31, ()))
        self.made = nn.ParameterDict()
        self.sealed = False

    def get(self, key: str, make: Callable[[torch.Generator], Tensor]) -> Tensor:
        if key not in self.made:
            if self.sealed:
                raise KeyError(f"{key} was not reached by the dry call of the constructor")
            rng = torch.Generator().manual_seed(self.seed + zlib.crc32(key.encode()))
            self.made[key] = nn.Parameter(make(rng).to(torch.get_default_dtype()))
        quantity: Tensor = self.made[key]
        return quantity

    def lin1(self, name: str, x: Tensor) -> Tensor:
        """Learned linear map of x [B, T, D] to one scalar per head and token (B, H, T, 1)."""
        shape = (self.d_model, self.n_heads)
        weight = self.get(f"lin1_{name}", lambda rng: torch.randn(shape, generator=rng) * self.d_model**-0.5)
        return (x @ weight).mT.unsqueeze(-1)


class DeltaNet(nn.Module):
    """Token mixer: hidden_states [B, T, D] -> [B, T, D]."""

    def __init__(
        self,
        hidden_size: int = 1024,
        num_heads: int = 4,
        layer_idx: int | None = None,
        conv_size: int = 4,
        **kwargs: object,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.short = nn.Conv1d(
            3 * hidden_size, 3 * hidden_size, conv_size, groups=3 * hidden_size, padding=conv_size - 1, bias=False
        )
        self.norm = nn.RMSNorm(hidden_size // num_heads, eps=1e-5)
        self.out = nn.Linear(hidden_size, hidden_size, bias=False)
        self.p = Learned(hidden_size, num_heads)
        with torch.no_grad():
            self(torch.zeros(1, 2, hidden_size))
        self.p.sealed = True

    def feature_map(self, q: Tensor, k: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return F.silu(q), F.silu(k)

    def values(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return F.silu(v)

    def write_strength(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return torch.sigmoid(self.p.lin1("beta", x))

    def decay(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return torch.zeros_like(k[..., :1])

    def mix(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return self.read(q, k, v, self.write_strength(q, k, v, x), self.decay(q, k, v, x))

    def mix_paths(self, o: Tensor, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:
        return o

    def output_gate(self, o: Tensor, x: Tensor) -> Tensor:
        return o

    def read(self, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, g: Tensor) -> Tensor:
        """Gated delta memory with guards: unit q and k, write strength in 0..2, log decay in -20..0."""
        zero = torch.zeros_like(q[..., :1])
        beta, g = (zero + beta).clamp(0, 2), (zero + g).clamp(-20, 0)
        return gated_delta_rule(l2norm(q), l2norm(k), v, beta, g)

    def forward(self, hidden_states: Tensor, **kwargs: object) -> Tensor:
        x, T = hidden_states, hidden_states.shape[1]
        qkv = self.short(self.qkv(x).mT)[..., :T].mT
        q, k, v = (t.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
        q, k = self.feature_map(q, k, x)
        v = self.values(q, k, v, x)
        o = self.mix_paths(self.mix(q, k, v, x), q, k, v, x)
        o = self.output_gate(self.norm(o), x)
        mixed: Tensor = self.out(o.transpose(1, 2).flatten(2))
        return mixed
