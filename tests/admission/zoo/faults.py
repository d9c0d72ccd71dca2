"""Faults of one kind each on `MIXER`, with the one check that is meant to see each."""

from __future__ import annotations

# name: (check that refuses, lines of __init__, lines of forward)
FAULTS = {
    "unmasked attention": ("causality", "", "y = torch.softmax(self.q(x) @ self.k(x).mT, -1) @ self.v(x)"),
    "softmax over time": ("causality", "", "y = y * torch.softmax(self.q(x), 1)"),
    "chunk statistics": (
        "causality",
        "",
        "p = F.pad(x, (0, 0, 0, -T % 16)).view(B, -1, 16, D)\n"
        "y = y + (p - p.mean(2, keepdim=True)).view(B, -1, D)[:, :T]",
    ),
    "off by one": ("causality", "", "y = y + 1e-3 * F.pad(x, (0, 0, 0, 1))[:, 1:]"),
    "faint flip": ("causality", "", "y = y + 1e-7 * x.flip(1)"),
    "batch norm over time": (
        "causality",
        "",
        "y = F.batch_norm(y.mT, None, None, training=True).mT if self.training and B * T > 1 else y",
    ),
    "detached mean": ("causality", "", "y = y + x.detach().mean(1, keepdim=True)"),
    "argmax": ("causality", "", "y = y + (x.sum(-1).argmax(1).to(x.dtype) / T)[:, None, None]"),
    "median": ("causality", "", "y = y - 0.1 * x.detach().median(1, keepdim=True).values"),
    "chunk size from data": (
        "causality",
        "",
        "c = 8 if x.abs().max() < 20 else 16\ny = y + 0.1 * F.pad(torch.tanh(x), (0, 0, c, 0))[:, :T] * c",
    ),
    "rare trigger": ("causality", "", "y = y + (x.abs().amax(1, keepdim=True) > 20).to(x.dtype)"),
    "zero branch": (
        "causality",
        "self.gate = nn.Parameter(torch.zeros(d_model))",
        "y = y + self.gate * x.mean(1, keepdim=True)",
    ),
    "only with gradients": ("causality", "", "y = y + x.mean(1, keepdim=True) if torch.is_grad_enabled() else y"),
    "only in training": ("causality", "", "y = y + x.mean(1, keepdim=True) if self.training else y"),
    "only in use": ("causality", "", "y = y if self.training else y + x.mean(1, keepdim=True)"),
    "only at multiples of 256": ("causality", "", "y = y + x.mean(1, keepdim=True) if T % 256 == 0 else y"),
    "equal tokens ahead": (
        "causality",
        "",
        "same = (x[:, :, None] - x[:, None]).abs().amax(-1) < 1e-12\n"
        "y = y + same.to(x.dtype).triu(1).sum(-1, keepdim=True)",
    ),
    "circular convolution": (
        "causality",
        "self.decay = nn.Parameter(torch.ones(d_model))",
        "f = torch.exp(-F.softplus(self.decay) * (count - 1))\n"
        "y = torch.fft.irfft(torch.fft.rfft(x, dim=1) * torch.fft.rfft(f, dim=0), n=T, dim=1)",
    ),
    "mean over the batch": ("batch_rows", "", "y = y + x.mean(0, keepdim=True)"),
    "first row for all": ("batch_rows", "", "y = y + 0.01 * x[:1]"),
    "rows before": ("batch_rows", "", "y = y + torch.cumsum(x, 0) - x"),
    "memory of the last call": (
        "state_between_calls",
        "self.last = 0.0",
        "y = y + self.last\nself.last = float(x.detach().mean())",
    ),
    "running mean in a buffer": (
        "state_between_calls",
        "self.register_buffer('mean', torch.zeros(d_model))",
        "y = y - self.mean\nself.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 1))",
    ),
    "acts after 500 calls": (
        "state_between_calls",
        "self.calls = 0",
        "self.calls += 1\ny = y + x.mean(1, keepdim=True) if self.calls > 500 else y",
    ),
    "memory in a global": ("state_between_calls", "", "CALLS[0] += 1\ny = y + CALLS[0]"),
    "weights in a list": (
        "hidden_parameters",
        "self.ws = [nn.Parameter(torch.randn(d_model, d_model))]",
        "y = y @ self.ws[0]",
    ),
    "modules in a dict": (
        "hidden_parameters",
        "self.parts = {'out': nn.Linear(d_model, d_model)}",
        "y = self.parts['out'](y)",
    ),
    "trainable tensor": (
        "hidden_parameters",
        "self.w = torch.randn(d_model, requires_grad=True)",
        "y = y * self.w",
    ),
    "weights in a closure": (
        "hidden_parameters",
        "w = nn.Parameter(torch.randn(d_model)); self.act = lambda z: z * w",
        "y = self.act(y)",
    ),
    "random projection not saved": (
        "hidden_parameters",
        "self.projection = torch.randn(d_model, d_model)",
        "y = y @ self.projection.to(y.dtype)",
    ),
    "logarithm of anything": ("outputs", "", "y = torch.log(x)"),
    "wrong shape": ("outputs", "", "y = y[..., : D // 2]"),
    "returns nothing": ("outputs", "", "return None"),
    "needs multiples of 32": ("outputs", "", "y = y.view(B, T // 32, 32, D).reshape(B, T, D)"),
    "fails for long inputs": ("outputs", "", "assert T < 200, 'sequence too long'"),
    "infinite gradient": ("gradients", "", "y = torch.where(y > 9e9, y, torch.sqrt(y - y.detach()))"),
    "prints without end": ("output_volume", "", "print('x' * 10_000)"),
    "leaves": ("outputs", "", "raise SystemExit(0)"),
    "quadratic elementwise": (
        "cost",
        "",
        "y = ((x[:, :, None, :1] * x[:, None, :, :1])[..., 0].tril() @ x) / count",
    ),
    "causal softmax attention": (
        "cost",
        "",
        "y = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x), is_causal=True)",
    ),
    "sum over every prefix": ("cost", "", "y = torch.stack([x[:, : t + 1].mean(1) for t in range(T)], 1)"),
}
