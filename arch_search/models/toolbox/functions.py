"""Toolbox functions that rendered programs copy in: causal helpers over (B, H, T, d) vectors, (B, H, T, 1) scalars."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def l2norm(x: Tensor) -> Tensor:
    """x scaled to unit length along its last axis."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def prev(x: Tensor, n: int) -> Tensor:
    """x as it was n tokens earlier; zero before the first token."""
    return F.pad(x, (0, 0, n, 0))[:, :, : x.shape[2]]


def avg(x: Tensor, n: int) -> Tensor:
    """Mean of x over the last n tokens, the present one included; over fewer at the start."""
    count = torch.arange(1, x.shape[2] + 1, device=x.device, dtype=x.dtype).clamp(max=n)
    return torch.stack([prev(x, i) for i in range(n)]).sum(0) / count[:, None]


def peak(x: Tensor, n: int) -> Tensor:
    """Largest value of each channel of x over the last n tokens, the present one included; over fewer at the start."""
    return F.pad(x, (0, 0, n - 1, 0), value=float("-inf")).unfold(2, n, 1).amax(-1)


def rms(x: Tensor) -> Tensor:
    """x scaled to a mean square of 1 along its last axis."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the channels of each token: a feature map that is positive and sums to 1."""
    return x.softmax(-1)


def relu2(x: Tensor) -> Tensor:
    """Squared rectifier, as of Primer (arXiv 2109.08668)."""
    return F.relu(x).square()


def rotate(x: Tensor) -> Tensor:
    """Pairs of channels of x (B, H, T, d) turned by angles that grow with the position (RoPE, arXiv 2104.09864).

    Channel i is paired with i + d / 2; the last channel of an odd d stays as it is.
    """
    half = x.shape[-1] // 2
    rate = 10_000.0 ** (-torch.arange(half, device=x.device, dtype=x.dtype) / max(half, 1))
    angle = torch.arange(x.shape[2], device=x.device, dtype=x.dtype)[:, None] * rate
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([first * cos - second * sin, first * sin + second * cos, rest], -1)


def linear_memory(q: Tensor, k: Tensor, v: Tensor, forget: Tensor, chunk: int = 32) -> Tensor:
    """Gated linear attention with a scalar gate, in chunks: S_t = a_t S_(t-1) + k_t v_t^T, o_t = S_t^T q_t.

    a = sigmoid(forget) ** (1 / 16), as in arXiv 2312.06635; q, k, v [B, H, T, d] are brought to unit length,
    forget [B, H, T, 1] is any number. Any T.
    """
    B, H, T, d = q.shape
    n = -(-T // chunk)
    dtype = torch.promote_types(v.dtype, torch.float32)
    q_, k_, v_, g_ = (
        F.pad(t.to(dtype), (0, 0, 0, n * chunk - T)).view(B, H, n, chunk, -1)
        for t in (l2norm(q), l2norm(k), v, F.logsigmoid(forget) / 16)
    )
    g_ = g_.cumsum(3)
    within = (q_ @ k_.mT) * (g_ - g_.mT).tril().exp().tril()
    last = g_[:, :, :, -1:]
    q_in, k_out, keep = q_ * g_.exp(), (k_ * (last - g_).exp()).mT, last.exp()
    state, out = torch.zeros(B, H, d, d, dtype=dtype, device=q.device), []
    for i in range(n):
        out.append(q_in[:, :, i] @ state + within[:, :, i] @ v_[:, :, i])
        state = state * keep[:, :, i] + k_out[:, :, i] @ v_[:, :, i]
    return torch.cat(out, 2)[:, :, :T].to(v.dtype)


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
