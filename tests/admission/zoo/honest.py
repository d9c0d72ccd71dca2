"""Correct mixers: whole layers as a model writes them, and published mechanisms on one base."""

from __future__ import annotations

HEAD = """
import math
import torch
import torch.nn.functional as F
from torch import Tensor, nn

"""

# whole layers
LAYERS = {
    "window attention": """
class DeltaNet(nn.Module):
    def __init__(self, hidden_size=32, num_heads=2, **kwargs):
        super().__init__()
        self.h = num_heads
        self.qkv, self.out = nn.Linear(hidden_size, 3 * hidden_size), nn.Linear(hidden_size, hidden_size)

    def forward(self, x, attention_mask=None, **kwargs):
        B, T, D = x.shape
        w = 32
        q, k, v = (F.pad(t, (0, 0, 0, -T % w)).view(B, -1, w, D) for t in self.qkv(x).chunk(3, -1))
        k, v = (torch.cat([F.pad(t, (0, 0, 0, 0, 1, 0))[:, :-1], t], 2) for t in (k, v))
        i = torch.arange(w)
        seen = torch.cat([i[:, None] < i, i[:, None] >= i], 1)
        first = torch.ones(q.shape[1], 1, 2 * w, dtype=torch.bool)
        first[0, :, :w] = False
        a = (q @ k.mT * D**-0.5).masked_fill(~(seen & first), -1e9).softmax(-1)
        return self.out((a @ v).reshape(B, -1, D)[:, :T]), None, None
""",
    "causal convolution and gate": """
class DeltaNet(nn.Module):
    def __init__(self, d_model, num_heads, layer_idx=0):
        super().__init__()
        self.conv = nn.Conv1d(d_model, d_model, 4, groups=d_model, padding=3)
        self.gate = nn.Linear(d_model, d_model)
        self.drop = nn.Dropout(0.1)

    @torch.compile
    def forward(self, x):
        return self.drop(self.conv(x.mT)[..., : x.shape[1]].mT * torch.sigmoid(self.gate(x)))
""",
    "recurrent unit": """
class Recurrent(nn.Module):
    def __init__(self, d_model=32):
        super().__init__()
        self.rnn = nn.GRU(d_model, d_model, batch_first=True)

    def forward(self, x):
        return self.rnn(x)
""",
    "zero-padded spectral filter": """
class DeltaNet(nn.Module):
    def __init__(self, d_model=32, **kwargs):
        super().__init__()
        self.decay = nn.Parameter(torch.linspace(-4, 1, d_model))
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(self, x):
        T = x.shape[1]
        f = torch.exp(-F.softplus(self.decay) * torch.arange(T, dtype=x.dtype)[:, None])
        y = torch.fft.irfft(torch.fft.rfft(x, 2 * T, dim=1) * torch.fft.rfft(f, 2 * T, dim=0), 2 * T, dim=1)
        return self.out(y[:, :T])
""",
    "running maximum and online softmax": """
class DeltaNet(nn.Module):
    def __init__(self, d_model=32, **kwargs):
        super().__init__()
        self.k, self.v = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def forward(self, x):
        k, v = self.k(x), self.v(x)
        top = k.cummax(1).values
        total = torch.logcumsumexp(k, 1)
        return v * torch.exp(k - total) + top
""",
    "half precision inside": """
class DeltaNet(nn.Module):
    def __init__(self, d_model=32, **kwargs):
        super().__init__()
        self.v = nn.Linear(d_model, d_model)
        self.register_buffer("mask", torch.tril(torch.ones(16, 16)))
        self.steps = torch.arange(16)

    def forward(self, x):
        B, T, D = x.shape
        v = F.pad(self.v(x), (0, 0, 0, -T % 16)).view(B, -1, 16, D).to(torch.bfloat16)
        y = (self.mask.to(v.dtype) @ v).float() / (self.steps + 1)[:, None].float()
        return y.view(B, -1, D)[:, :T].to(x.dtype)
""",
    "keeps its last output for a plot": """
class DeltaNet(nn.Module):
    def __init__(self, d_model=32, **kwargs):
        super().__init__()
        self.v, self.last, self.table = nn.Linear(d_model, d_model), None, {}

    def forward(self, x):
        T = x.shape[1]
        if T not in self.table:
            self.table[T] = torch.arange(1, T + 1)[:, None]
        self.last = self.v(x).cumsum(1) / self.table[T]
        return self.last
""",
    "sorting inside a position, with layer norm": """
class Mixer(nn.Module):
    def __init__(self, d_model=32, n_heads=2):
        super().__init__()
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x):
        return self.norm(x.sort(-1).values.cumsum(1)) + x


class _Helper(nn.Module):
    pass
""",
    "loop over tokens": """
class DeltaNet(nn.Module):
    def __init__(self, d_model=32, **kwargs):
        super().__init__()
        self.a, self.b = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def forward(self, x):
        a, b = torch.sigmoid(self.a(x)), self.b(x)
        state, out = torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            state = a[:, t] * state + (1 - a[:, t]) * b[:, t]
            out.append(torch.tanh(state))
        return torch.stack(out, 1)
""",
}

_BASE = """
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
        {body}
        return self.o(y.transpose(1, 2).reshape(B, T, D))
"""
_LINEAR = "y = (q.unsqueeze(-2) @ (k.unsqueeze(-1) * v.unsqueeze(-2)).cumsum(2)).squeeze(-2) / T0\n"
_CHUNKS = (
    "C = 16\nq, k, v = (F.pad(t, (0, 0, 0, -T % C)).unflatten(2, (-1, C)) for t in (q, k, v))\n"
    "S = (k.mT @ v).cumsum(2)\nS = F.pad(S, (0, 0, 0, 0, 1, -1))\n"
    "y = (q @ S + (q @ k.mT).tril() @ v).flatten(2, 3)[:, :, :T]\n"
)
_STEPS = "T0 = torch.arange(1, T + 1, dtype=x.dtype)[:, None]\n"

# published mechanisms: lines of __init__ and of forward, which sets y [B, H, T, V]
MECHANISMS = {
    "feature map elu": ("", _STEPS + "q, k = F.elu(q) + 1, F.elu(k) + 1\n" + _LINEAR),
    "feature map relu": ("", _STEPS + "q, k = F.relu(q), F.relu(k)\n" + _LINEAR),
    "feature map of the second order": (
        "",
        _STEPS
        + "q, k = (torch.cat([torch.ones_like(t[..., :1]), t, t.square() / 2**0.5], -1) for t in (q, k))\n"
        + _LINEAR,
    ),
    "random features in a buffer": (
        "self.register_buffer('w', torch.randn(d_model // num_heads, 24))",
        _STEPS
        + "q, k = (torch.exp(t @ self.w * 0.1 - t.square().sum(-1, keepdim=True) / 2) for t in (q, k))\n"
        + _LINEAR,
    ),
    "random features by an own generator": (
        "self.register_buffer('w', torch.randn(d_model // num_heads, 24, generator=torch.Generator().manual_seed(3)))",
        _STEPS + "q, k = (torch.cos(t @ self.w) for t in (q, k))\n" + _LINEAR,
    ),
    "softmax inside a position": ("", _STEPS + "q, k = q.softmax(-1), k.softmax(-1)\n" + _LINEAR),
    "keys of unit length": ("", _STEPS + "q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)\n" + _LINEAR),
    "chunked linear attention": ("", _CHUNKS),
    "chunked retention": (
        "",
        "C = 16\nq, k, v = (F.pad(t, (0, 0, 0, -T % C)).unflatten(2, (-1, C)) for t in (q, k, v))\n"
        "i = torch.arange(C)\n"
        "w = torch.where(i[:, None] >= i, 0.9 ** (i[:, None] - i).clamp(min=0).to(x.dtype), 0.0)\n"
        "S, ys = 0, []\n"
        "for n in range(q.shape[2]):\n"
        "    ys.append((q[:, :, n] @ k[:, :, n].mT * w) @ v[:, :, n])\n"
        "    ys[-1] = ys[-1] + (q[:, :, n] * 0.9 ** (i[:, None] + 1.0)) @ S if n else ys[-1]\n"
        "    S = 0.9**C * S + (k[:, :, n] * 0.9 ** (C - 1.0 - i[:, None])).mT @ v[:, :, n]\n"
        "y = torch.cat(ys, 2)[:, :, :T]\n",
    ),
    "chunked decay from data in log space": (
        "",
        "C = 16\nlg = F.logsigmoid(self.g(x)).mT\n"
        "q, k, v = (F.pad(t, (0, 0, 0, -T % C)).unflatten(2, (-1, C)) for t in (q, k, v))\n"
        "lg = F.pad(lg, (0, -T % C)).unflatten(2, (-1, C)).cumsum(-1)[..., None]\n"
        "S, ys = 0, []\n"
        "for n in range(q.shape[2]):\n"
        "    c = lg[:, :, n]\n"
        "    w = (c - c.mT).masked_fill(torch.ones(C, C).triu(1).bool(), float('-inf')).exp()\n"
        "    out = (q[:, :, n] @ k[:, :, n].mT * w) @ v[:, :, n]\n"
        "    ys.append(out + (q[:, :, n] * c.exp()) @ S if n else out)\n"
        "    S = c[:, :, -1:].exp() * S + (k[:, :, n] * (c[:, :, -1:] - c).exp()).mT @ v[:, :, n]\n"
        "y = torch.cat(ys, 2)[:, :, :T]\n",
    ),
    "low rank": (
        "self.a, self.b = nn.Linear(d_model, 4, bias=False), nn.Linear(4, d_model, bias=False)",
        _STEPS + "v = v + self.b(self.a(x)).view(B, T, self.h, -1).transpose(1, 2)\n" + "y = v.cumsum(2) / T0\n",
    ),
    "layer norm per head": (
        "self.n = nn.LayerNorm(d_model // num_heads)",
        "y = self.n(v.cumsum(2))\n",
    ),
    "root mean square norm by hand": (
        "",
        "y = v.cumsum(2)\ny = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + 1e-6)\n",
    ),
    "gate on the output": ("", _STEPS + "y = v.cumsum(2) / T0 * F.silu(q)\n"),
    "cumulative softmax": (
        "",
        "m = k.cummax(2).values\ns = torch.logcumsumexp(k - 8, 2)\ne = (k - 8 - s).exp()\ny = v * e + 0 * m\n",
    ),
    "exponential average by a filter": (
        "self.a = nn.Parameter(torch.full((num_heads,), 2.0))",
        "i = torch.arange(T, dtype=x.dtype)\n"
        "f = torch.exp(F.logsigmoid(self.a)[:, None] * i)\n"
        "V = torch.fft.rfft(v, 2 * T, dim=2) * torch.fft.rfft(f, 2 * T, dim=1)[..., None]\n"
        "y = torch.fft.irfft(V, 2 * T, dim=2)[:, :, :T]\n",
    ),
    "short convolution on queries and keys": (
        "self.c = nn.Conv1d(d_model, d_model, 4, groups=d_model, padding=3)",
        _STEPS + "k = F.silu(self.c(x.mT)[..., :T]).view(B, self.h, -1, T).mT\n" + _LINEAR,
    ),
    "rotary positions on halves": (
        "",
        _STEPS + "d = q.shape[-1] // 2\n"
        "a = torch.arange(T, dtype=x.dtype)[:, None] * 0.01 ** (torch.arange(d, dtype=x.dtype) / d)\n"
        "c, s = a.cos(), a.sin()\n"
        "q, k = (torch.cat([t[..., :d] * c - t[..., d:] * s, t[..., d:] * c + t[..., :d] * s], -1) for t in (q, k))\n"
        + _LINEAR,
    ),
    "experts chosen for each token": (
        "self.e = nn.Parameter(torch.randn(4, d_model, d_model) * 0.1)",
        _STEPS + "w = (x @ self.e[0][:, :4]).softmax(-1)\n"
        "w = w * (w >= w.topk(2, -1).values[..., -1:])\n"
        "z = torch.einsum('btd,edf,bte->btf', x, self.e, w).view(B, T, self.h, -1).transpose(1, 2)\n"
        "y = (v + z).cumsum(2) / T0\n",
    ),
    "hash of each token": (
        "self.t = nn.Embedding(16, d_model)",
        _STEPS + "i = ((x[..., :4] > 0).long() * torch.tensor([1, 2, 4, 8])).sum(-1)\n"
        "y = (v + self.t(i).view(B, T, self.h, -1).transpose(1, 2)).cumsum(2) / T0\n",
    ),
    "memory tokens in front": (
        "self.m = nn.Parameter(torch.randn(4, d_model // num_heads))",
        "mem = self.m.expand(B, self.h, -1, -1)\n"
        "y = (q @ mem.mT).softmax(-1) @ mem + F.silu(torch.cat([mem, v], 2).cumsum(2)[:, :, 4:])\n",
    ),
    "time before the batch": (
        "",
        "z = v.permute(2, 0, 1, 3).contiguous()\ny = z.cumsum(0).permute(1, 2, 0, 3) * torch.sigmoid(q)\n",
    ),
    "heads folded into the batch": (
        "",
        "z = v.reshape(B * self.h, T, -1).cumsum(1)\ny = z.view(B, self.h, T, -1) * torch.sigmoid(q)\n",
    ),
    "dropout on keys": ("self.d = nn.Dropout(0.2)", _STEPS + "k = self.d(k)\n" + _LINEAR),
    "running sum that forgets at borders": (
        "",
        "p = -T % 32\nz = F.pad(v, (0, 0, 0, p)).unflatten(2, (-1, 32)).cumsum(3)\ny = z.flatten(2, 3)[:, :, :T]\n",
    ),
    "empty slices": ("", "n = T // 64 * 64\ny = torch.cat([v[:, :, :n] * 2, v[:, :, n:] * 3], 2)\n"),
    "pooling over the past": (
        "",
        "y = F.max_pool1d(F.pad(v.flatten(0, 1).mT, (3, 0), value=-9.0), 4, 1).mT.unflatten(0, (B, -1))\n",
    ),
    "projection of the weights in place": (
        "",
        "with torch.no_grad():\n    self.g.weight.clamp_(-1, 1)\n"
        "y = v.cumsum(2) * torch.sigmoid(self.g(x)).mT[..., None]\n",
    ),
    "warns and logs": (
        "import logging, warnings\nself.say = lambda: (warnings.warn('slow'), logging.getLogger('x').debug('call'))",
        "self.say()\ny = v.cumsum(2)\n",
    ),
    "parameters and state in functions": (
        "self.act = lambda z, power=2: F.relu(z) ** power",
        "y = self.act(v).cumsum(2)\n",
    ),
}


def mechanism(name: str) -> str:
    init, body = MECHANISMS[name]
    indent = "\n        "
    return HEAD + _BASE.format(init=indent.join(init.splitlines()), body=indent.join(body.splitlines()))
