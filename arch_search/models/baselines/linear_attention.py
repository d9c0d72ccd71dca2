"""Linear attention: a matrix that every key-value pair is added to and nothing leaves.

Source: Transformers are RNNs, arXiv 2006.16236, equations 16-20. The feature map is the SiLU of a short convolution, as
in the other linear baselines, so that they differ in the rule of the state; the paper's elu + 1 stays near a constant
in models this small and learns overwrite recall no better than chance in 300 steps. An RMSNorm of the output stands for
the normaliser (arXiv 2210.10340).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kernels.causal_conv.layer import ShortConvolution
from kernels.linear_attention.chunk import linear_attention_chunk


class LinearAttention(nn.Module):
    def __init__(
        self, hidden_size: int = 1024, num_heads: int = 4, layer_idx: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv_proj = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.conv = ShortConvolution(3 * hidden_size)
        self.o_norm = nn.RMSNorm(hidden_size // num_heads, eps=1e-5)
        self.o_proj = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        batch, length, width = hidden_states.shape
        shape = (batch, length, self.num_heads, width // self.num_heads)
        q, k, v = (x.reshape(shape) for x in self.conv(self.qkv_proj(hidden_states)).chunk(3, dim=-1))
        mixed = linear_attention_chunk(q, k, v)
        output: Tensor = self.o_proj(self.o_norm(mixed).reshape(batch, length, width))
        return output
