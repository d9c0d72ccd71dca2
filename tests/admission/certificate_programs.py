"""Correct mixers of many kinds, for the certificate: lines of __init__ and of forward, which sets y [B, T, D]."""

from __future__ import annotations

PROGRAM = """
import math
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class DeltaNet(nn.Module):
    def __init__(self, d_model=32, num_heads=2, **kwargs):
        super().__init__()
        self.h = num_heads
        self.q, self.k, self.v, self.o = (nn.Linear(d_model, d_model) for _ in range(4))
        self.g = nn.Linear(d_model, num_heads)
        {init}

    def forward(self, x):
        B, T, D = x.shape
        q, k, v = (m(x).view(B, T, self.h, -1).transpose(1, 2) for m in (self.q, self.k, self.v))
        past = torch.ones(T, T, dtype=torch.bool).tril()
        {body}
        return self.o(y)
"""

PROVED = {
    "fused causal attention": (
        "",
        "y = F.scaled_dot_product_attention(q, k, v, is_causal=True)\ny = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "attention masked by minus infinity": (
        "",
        'a = (q @ k.mT).masked_fill(~past, float("-inf")).softmax(-1)\n'
        "y = a @ v\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "attention with a buffer of -1e9 added": (
        'self.register_buffer("m", torch.triu(torch.full((600, 600), -1e9), 1))',
        "a = (q @ k.mT + self.m[:T, :T]).softmax(-1)\ny = a @ v\ny = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "attention masked by the least number": (
        "",
        "a = (q @ k.mT).masked_fill(~past, torch.finfo(q.dtype).min).softmax(-1)\n"
        "y = a @ v\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "softmax written out, maximum after the mask": (
        "",
        "s = (q @ k.mT).masked_fill(~past, -1e9)\n"
        "s = s - s.amax(-1, keepdim=True)\n"
        "e = s.exp()\n"
        "y = (e / e.sum(-1, keepdim=True)) @ v\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "linear attention with a product mask": (
        "",
        "y = ((q @ k.mT) * past) @ v\ny = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "attention to the eight strongest": (
        "",
        's = (q @ k.mT).masked_fill(~past, float("-inf"))\n'
        "th = s.topk(min(8, T), -1).values[..., -1:]\n"
        's = s.masked_fill(s < th, float("-inf"))\n'
        "y = s.softmax(-1) @ v\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "attention masked by where": (
        "",
        "s = torch.where(past, q @ k.mT, torch.tensor(-1e9))\n"
        "y = s.softmax(-1) @ v\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "retention by powers of a decay": (
        "",
        "d = torch.arange(T)[:, None] - torch.arange(T)\n"
        "w = torch.where(d >= 0, 0.9 ** d.clamp(min=0).float(), 0.0)\n"
        "y = ((q @ k.mT) * w) @ v\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "normalised linear attention": (
        "",
        "q, k = F.elu(q) + 1, F.elu(k) + 1\n"
        "S = (k[..., None] * v[..., None, :]).cumsum(2)\n"
        "z = k.cumsum(2)\n"
        'y = torch.einsum("bhtk,bhtkv->bhtv", q, S) / (q * z).sum(-1, keepdim=True)\n'
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "chunked delta rule by forward substitution": (
        "",
        "C = 16\n"
        "p = -T % C\n"
        "q, k, v = (F.pad(t, (0, 0, 0, p)).unflatten(2, (-1, C)) for t in (q, k, v))\n"
        "k = F.normalize(k, dim=-1)\n"
        "A = -(k @ k.mT).tril(-1)\n"
        "for i in range(1, C):\n"
        "    A[..., i, :i] = A[..., i, :i].clone() + (A[..., i, :, None].clone() * A[..., :, :i].clone()).sum(-2)\n"
        "A = A + torch.eye(C)\n"
        "u = A @ v\n"
        "w = A @ k\n"
        "S = torch.zeros(B, self.h, k.shape[-1], v.shape[-1])\n"
        "ys = []\n"
        "for n in range(q.shape[2]):\n"
        "    vi = u[:, :, n] - w[:, :, n] @ S\n"
        "    a = (q[:, :, n] @ k[:, :, n].mT).tril()\n"
        "    ys.append(q[:, :, n] @ S + a @ vi)\n"
        "    S = S + k[:, :, n].mT @ vi\n"
        "y = torch.stack(ys, 2).flatten(2, 3)[:, :, :T]\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "triangular inverse by doubling": (
        "",
        "C = 16\n"
        "p = -T % C\n"
        "q, k, v = (F.pad(t, (0, 0, 0, p)).unflatten(2, (-1, C)) for t in (q, k, v))\n"
        "A = -(k @ k.mT).tril(-1)\n"
        "R = torch.eye(C) + A\n"
        "P = A\n"
        "for _ in range(3):\n"
        "    P = P @ P\n"
        "    R = R + R @ P\n"
        "y = (R @ v).flatten(2, 3)[:, :, :T]\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "depthwise convolution padded in front": (
        "self.c = nn.Conv1d(d_model, d_model, 7, groups=d_model)",
        "y = self.c(F.pad(x.mT, (6, 0))).mT\n",
    ),
    "convolution with masked taps": (
        "self.c = nn.Conv1d(d_model, d_model, 5, padding=2)\n"
        "self.register_buffer('cm', torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0]))",
        "y = F.conv1d(x.mT, self.c.weight * self.cm, self.c.bias, padding=2).mT\n",
    ),
    "dilated convolution cut at the end": (
        "self.c = nn.Conv1d(d_model, d_model, 3, dilation=4, padding=8)",
        "y = self.c(x.mT)[..., :T].mT\n",
    ),
    "filter bank by unfold": (
        "self.f = nn.Parameter(torch.randn(2, 4, 1))",
        "xs = F.pad(v, (0, 0, 3, 0)).unfold(2, 4, 1)\n"
        "y = (xs * self.f.view(1, 2, 1, 1, 4)).sum(-1)\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "parallel prefix scan": (
        "",
        "a = torch.sigmoid(q)\n"
        "b = v\n"
        "d = 1\n"
        "while d < T:\n"
        "    pb = F.pad(b, (0, 0, d, 0))[:, :, :T]\n"
        "    pa = F.pad(a, (0, 0, d, 0), value=1.0)[:, :, :T]\n"
        "    b = b + a * pb\n"
        "    a = a * pa\n"
        "    d *= 2\n"
        "y = b\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "recurrent unit of torch": (
        "self.r = nn.GRU(d_model, d_model, batch_first=True)",
        "y = self.r(x)[0]\n",
    ),
    "guard against NaN": (
        "",
        "y = v.cumsum(2)\n"
        "y = torch.where(torch.isnan(y), torch.zeros_like(y), y)\n"
        "if torch.isnan(y).any():\n"
        "    raise ValueError\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "gated attention from cumulated log decay": (
        "",
        "lg = F.logsigmoid(self.g(x)).transpose(1, 2).cumsum(-1)\n"
        'D_ = (lg[..., :, None] - lg[..., None, :]).masked_fill(~past, float("-inf")).exp()\n'
        "y = ((q @ k.mT) * D_) @ v\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "the same, exp before the mask": (
        "",
        "lg = F.logsigmoid(self.g(x)).transpose(1, 2).cumsum(-1)\n"
        "D_ = (lg[..., :, None] - lg[..., None, :]).tril().exp().tril()\n"
        "y = ((q @ k.mT) * D_) @ v\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "axes moved by einops": (
        "",
        'z = rearrange(self.v(x), "b t (h d)->b h t d", h=self.h)\ny = rearrange(z.cumsum(2), "b h t d->b t (h d)")\n',
    ),
    "rows written one by one": (
        "",
        "y = torch.zeros_like(v)\n"
        "for t in range(T):\n"
        "    y[:, :, t] = v[:, :, : t + 1].mean(2)\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "one triangular solve": (
        "",
        "C = T\n"
        "A = torch.eye(T) + (k @ k.mT * 0.1).tril(-1)\n"
        "y = torch.linalg.solve_triangular(A, v, upper=False, unitriangular=True)\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "group norm per position": (
        "self.n = nn.GroupNorm(2, d_model)",
        "y = v.cumsum(2)\ny = y.transpose(1, 2).reshape(B, T, D)\ny = self.n(y.reshape(B * T, D)).view(B, T, D)\n",
    ),
    "norm and dropout": (
        "self.n = nn.RMSNorm(d_model)\nself.d = nn.Dropout(0.1)",
        "y = v.cumsum(2)\ny = y.transpose(1, 2).reshape(B, T, D)\ny = self.d(self.n(y))\n",
    ),
    "roll with the first row cleared": (
        "",
        "y = torch.roll(x, 1, 1).clone()\ny[:, 0] = 0\ny = self.v(y)\n",
    ),
    "token shift": (
        "self.mu = nn.Parameter(torch.rand(d_model))",
        "s = F.pad(x, (0, 0, 1, -1))\ny = self.v(x + (s - x) * self.mu)\n",
    ),
    "running maximum": (
        "",
        "y = v.cummax(2).values\ny = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "paths mixed by a softmax over paths": (
        "",
        "w = self.g(x).softmax(-1)\n"
        "a = v.cumsum(2).transpose(1, 2).reshape(B, T, D)\n"
        "b = x\n"
        "y = w[..., :1] * a + w[..., 1:] * b\n",
    ),
    "local attention in blocks": (
        "",
        "W = 16\n"
        "p = -T % W\n"
        "q, k, v = (F.pad(t, (0, 0, 0, p)).unflatten(2, (-1, W)) for t in (q, k, v))\n"
        "y = ((q @ k.mT).masked_fill(torch.ones(W, W).triu(1).bool(), -1e4).softmax(-1) @ v).flatten(2, 3)[:, :, :T]\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "rotary positions by complex numbers": (
        "",
        "z = torch.view_as_complex(q.contiguous().float().unflatten(-1, (-1, 2)))\n"
        "f = torch.polar(torch.ones(T, q.shape[-1] // 2), torch.arange(T)[:, None] * torch.rand(q.shape[-1] // 2))\n"
        "q = torch.view_as_real(z * f).flatten(-2)\n"
        "y = ((q @ k.mT) * past) @ v\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "learned temperature": (
        "self.t = nn.Parameter(torch.ones(1))",
        "s = (q @ k.mT) / self.t.clamp(min=0.1)\n"
        "y = s.masked_fill(~past, -1e9).softmax(-1) @ v\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "long filter by a padded transform": (
        "self.f = nn.Parameter(torch.randn(d_model, 512) * 0.1)",
        "n = 2 * T\n"
        "f = self.f[:, :T]\n"
        "X = torch.fft.rfft(x.mT, n=n)\n"
        "K = torch.fft.rfft(f, n=n)\n"
        "y = torch.fft.irfft(X * K, n=n)[..., :T].mT\n",
    ),
    "running log-sum-exp": (
        "",
        "y = torch.logcumsumexp(v, 2)\ny = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "channels routed to the strongest by scatter and gather": (
        "",
        "top, which = q.topk(2, -1)\n"
        'sparse = torch.full_like(q, float("-inf")).scatter(-1, which, top).softmax(-1)\n'
        "counts = torch.zeros_like(v).scatter_add(-1, which, v[..., :2])\n"
        "most = torch.zeros_like(v).scatter_reduce(-1, which, top, 'amax')\n"
        "y = (sparse + most).cumsum(2) + counts + v.gather(-1, which).sum(-1, keepdim=True)\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "channels of a state written in place where data says": (
        "",
        "state = v.clone()\n"
        "which = q.argmax(-1, keepdim=True)\n"
        "state.scatter_(-1, which, k[..., :1])\n"
        "state[:, :, 1:].scatter_(3, which[:, :, :-1], 0.5)\n"
        "y = state.cumsum(2).transpose(1, 2).reshape(B, T, D)\n",
    ),
    "matrix state, token by token": (
        "",
        "S = torch.zeros(B, self.h, q.shape[-1], q.shape[-1])\n"
        "ys = []\n"
        "for t in range(T):\n"
        "    S = 0.9 * S + k[:, :, t, :, None] * v[:, :, t, None]\n"
        "    ys.append((q[:, :, t, None] @ S).squeeze(2))\n"
        "y = torch.stack(ys, 2)\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
    "a summary of the chunks before, of none for the first": (
        "",
        "ys = []\n"
        "for start in range(0, T, 16):\n"
        "    before = v[:, :, :start]\n"
        "    memory = k[:, :, :start].mT @ before + before.sum(2, keepdim=True)\n"
        "    ys.append(q[:, :, start:start + 16] @ memory)\n"
        "y = torch.cat(ys, 2)\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
}

# correct, yet out of reach: what the verdict must blame
UNKNOWN = {
    "gather from a place in the past that data chooses": (
        "",
        "i = (self.g(x)[..., 0].sigmoid() * torch.arange(T)).long()\n"
        "y = self.v(x).gather(1, i[..., None].expand(B, T, D))\n",
    ),
    "entropy kept as a Python number": (
        "",
        "p = self.g(x).softmax(-1)\n"
        "self.ent = float((p * p.log()).sum())\n"
        "y = v.cumsum(2)\n"
        "y = y.transpose(1, 2).reshape(B, T, D)\n",
    ),
}
