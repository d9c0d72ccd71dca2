"""Mamba-2: a state space with one decay per head, input and output maps shared by all heads.

Source: Transformers are SSMs, arXiv 2405.21060, section 7 and figure 6 (parallel projections, short convolution with
SiLU over x, B and C, skip D, norm after the gate), expansion 2. The state is as wide as a head of the other baselines.
The start differs, for models with few heads and short sequences: steps in 0.1..1 instead of 0.001..0.1, rate 0.05
instead of 1..16 (the same decays, but writes are not drowned by the skip), and a gate that starts near 1.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.causal_conv.layer import ShortConvolution
from kernels.ssd.chunk import ssd_chunk

EXPANSION = 2
FIRST_RATE = 0.05
FIRST_STEPS = (0.1, 1.0)
OPEN_GATE = 1.28  # silu(1.28) = 1


class Mamba2(nn.Module):
    def __init__(
        self, hidden_size: int = 1024, num_heads: int = 4, layer_idx: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.inner = EXPANSION * hidden_size
        self.state_width = hidden_size // num_heads
        self.convolved = self.inner + 2 * self.state_width
        self.in_proj = nn.Linear(hidden_size, self.inner + self.convolved + num_heads, bias=False)
        self.conv = ShortConvolution(self.convolved)
        self.step_bias = nn.Parameter(_initial_step_bias(num_heads))
        self.log_rate = nn.Parameter(torch.full((num_heads,), math.log(FIRST_RATE)))
        self.gate_bias = nn.Parameter(torch.full((self.inner,), OPEN_GATE))
        self.skip = nn.Parameter(torch.ones(num_heads))
        self.norm = nn.RMSNorm(self.inner, eps=1e-5)
        self.out_proj = nn.Linear(self.inner, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        gate, xbc, step = self.in_proj(hidden_states).split([self.inner, self.convolved, self.num_heads], dim=-1)
        x, b, c = self.conv(xbc).split([self.inner, self.state_width, self.state_width], dim=-1)
        x = x.unflatten(-1, (self.num_heads, -1))
        dt = F.softplus(step + self.step_bias)
        mixed = ssd_chunk(x, dt, -self.log_rate.exp(), b.unsqueeze(2), c.unsqueeze(2))
        mixed = (mixed + self.skip.unsqueeze(-1) * x).flatten(-2)
        output: Tensor = self.out_proj(self.norm(mixed * F.silu(gate + self.gate_bias)))
        return output


def _initial_step_bias(heads: int) -> Tensor:
    """softplus(bias) is log-uniform in FIRST_STEPS: some heads start with a short memory, some with a long one."""
    step = torch.empty(heads).uniform_(*map(math.log, FIRST_STEPS)).exp()
    return step + torch.log(-torch.expm1(-step))
