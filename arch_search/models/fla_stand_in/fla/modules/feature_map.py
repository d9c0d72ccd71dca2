"""Feature maps of linear attention, [..., head_dim] -> [..., features]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class HedgehogFeatureMap(nn.Module):
    """softmax of (2 y, -2 y) for a learned y that starts as x. Source: arXiv 2402.04347."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.layer = nn.Linear(head_dim, head_dim)
        nn.init.eye_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = 2 * self.layer(x)
        return torch.cat([y, -y], dim=-1).softmax(-1)


class T2RFeatureMap(nn.Module):
    """relu of a learned map. Source: arXiv 2103.13076."""

    def __init__(self, head_dim: int, dot_dim: int | None = None, bias: bool | None = False) -> None:
        super().__init__()
        self.layer = nn.Linear(head_dim, head_dim if dot_dim is None else dot_dim, bias=bool(bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).relu()


class DPFPFeatureMap(nn.Module):
    """Products of (relu(x), relu(-x)) with itself, rolled by 1 to `nu`. Source: arXiv 2102.11174."""

    def __init__(self, head_dim: int, nu: int = 4) -> None:
        super().__init__()
        self.nu = nu

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([x.relu(), (-x).relu()], dim=-1)
        return torch.cat([both * both.roll(shifts=shift, dims=-1) for shift in range(1, self.nu + 1)], dim=-1)


class HadamardFeatureMap(nn.Module):
    """The product of two learned maps."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.layer1 = nn.Linear(head_dim, head_dim)
        self.layer2 = nn.Linear(head_dim, head_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer1(x) * self.layer2(x)


class TaylorFeatureMap(nn.Module):
    """phi(x) phi(y) = 1 + xy / sqrt(d) + (xy)^2 / (2 d), the Taylor series of exp. Source: arXiv 2402.18668."""

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim

    def forward(self, x: Tensor) -> Tensor:
        d = self.head_dim
        pairs = x.unsqueeze(-1) * x.unsqueeze(-2)
        rows, columns = torch.triu_indices(d, d, 1, device=x.device)
        squares = pairs.diagonal(dim1=-2, dim2=-1) / (2 * d) ** 0.5
        return torch.cat(
            [torch.ones_like(x[..., :1]), x / d**0.25, squares, pairs[..., rows, columns] / d**0.5], dim=-1
        )


class ReLUFeatureMap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class SwishFeatureMap(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x)
