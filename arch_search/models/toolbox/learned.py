"""The class of learned quantities that rendered programs copy in; they keep only the kinds they use."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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

    def lind(self, name: str, x: Tensor) -> Tensor:
        """Learned linear map of x [B, T, D] to one vector per head and token (B, H, T, d)."""
        shape = (self.d_model, self.d_model)
        weight = self.get(f"lind_{name}", lambda rng: torch.randn(shape, generator=rng) * self.d_model**-0.5)
        return (x @ weight).view(*x.shape[:2], self.n_heads, self.d_head).transpose(1, 2)

    def scalar(self, name: str, start: float) -> Tensor:
        """Learned number per head (H, 1, 1), the same for every token."""
        return self.get(f"scalar_{name}", lambda rng: torch.full((self.n_heads, 1, 1), start))

    def vector(self, name: str, start: float) -> Tensor:
        """Learned vector per head (H, 1, d), the same for every token."""
        return self.get(f"vector_{name}", lambda rng: torch.full((self.n_heads, 1, self.d_head), start))

    def conv(self, name: str, x: Tensor, n: int) -> Tensor:
        """Learned causal filter per channel of x (B, H, T, d) over the last n tokens; starts near the present one."""
        shape = (self.d_model, 1, n)
        start = F.pad(torch.ones(self.d_model, 1, 1), (n - 1, 0))
        weight = self.get(f"conv{n}_{name}", lambda rng: start + 0.2 * torch.randn(shape, generator=rng) * n**-0.5)
        flat = F.pad(x.transpose(1, 2).flatten(2).mT, (n - 1, 0))
        out = F.conv1d(flat, weight, groups=self.d_model)
        return out.view(out.shape[0], self.n_heads, self.d_head, out.shape[2]).mT

    def heads(self, name: str, x: Tensor) -> Tensor:
        """Learned mixing of the heads of x (B, H, T, any), the same for every token; starts as no mixing."""
        weight = self.get(f"heads_{name}", lambda rng: torch.eye(self.n_heads))
        return (x.transpose(1, 3) @ weight).transpose(1, 3)

    def ema(self, name: str, x: Tensor, chunk: int = 32) -> Tensor:
        """Leaky average of x (B, H, T, any) with a learned rate per head: h_t = a h_(t-1) + (1 - a) x_t, h_0 = 0.

        The time constants start between 4 and 55 tokens, spread over the heads.
        """
        rate = self.get(f"ema_{name}", lambda rng: torch.linspace(1, 4, self.n_heads)[:, None, None])
        T, n = x.shape[2], -(-x.shape[2] // chunk)
        age = torch.arange(chunk + 1, device=x.device, dtype=x.dtype)
        log_a = F.logsigmoid(rate)
        weights = ((age[:-1, None] - age[:-1]).tril() * log_a).exp().tril()
        x = F.pad(x * torch.sigmoid(-rate), (0, 0, 0, n * chunk - T)).view(*x.shape[:2], n, chunk, -1)
        carried = (age[1:, None] * log_a).exp()
        state, out = torch.zeros_like(x[:, :, 0, :1]), []
        for i in range(n):
            out.append(weights @ x[:, :, i] + carried * state)
            state = out[-1][:, :, -1:]
        return torch.cat(out, 2)[:, :, :T]
