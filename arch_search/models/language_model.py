"""The small causal language model every mixer is trained in: nothing but the mixer moves information between tokens.

B batch, T tokens, D width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from arch_search.models.loading import mix

EMBEDDING_STD = 0.02
NORM_EPS = 1e-6


class LanguageModel(nn.Module):
    """Embedding, pre-norm blocks of mixer and SwiGLU, RMSNorm, head tied to the embedding.

    tokens [B, T] int64 -> logits [B, T, V]. No position embedding: a mixer that needs one brings it. The mixers keep
    the initialisation their program gives them.
    """

    def __init__(
        self,
        make_mixer: Callable[[int], nn.Module],
        *,
        vocab: int,
        d_model: int,
        n_layers: int,
        feed_forward: int,
    ) -> None:
        """`make_mixer(layer_idx)` builds the mixer of one layer; `feed_forward=0` leaves the SwiGLU out."""
        super().__init__()
        self.embedding = nn.Embedding(vocab, d_model)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)
        self.blocks = nn.ModuleList(_Block(make_mixer(i), d_model, feed_forward) for i in range(n_layers))
        self.norm = nn.RMSNorm(d_model, eps=NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        return F.linear(self.norm(x), self.embedding.weight)


def parameters_beside_mixers(*, vocab: int, d_model: int, n_layers: int, feed_forward: int) -> int:
    """Parameters of a LanguageModel outside its mixers: embedding, norms and SwiGLUs."""
    norms = d_model * (1 + n_layers * (2 if feed_forward else 1))
    return vocab * d_model + norms + 3 * d_model * feed_forward * n_layers


class _Block(nn.Module):
    def __init__(self, mixer: nn.Module, d_model: int, feed_forward: int) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(d_model, eps=NORM_EPS)
        self.mixer = mixer
        self.feed_forward = _SwiGLU(d_model, feed_forward) if feed_forward else None

    def forward(self, x: Tensor) -> Tensor:
        x = x + mix(self.mixer, self.mixer_norm(x))
        return x if self.feed_forward is None else x + self.feed_forward(x)


class _SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) of the normed x; GLU Variants Improve Transformer, arXiv 2002.05202, equation 6."""

    def __init__(self, d_model: int, width: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(d_model, eps=NORM_EPS)
        self.gate_and_up = nn.Linear(d_model, 2 * width, bias=False)
        self.down = nn.Linear(width, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_and_up(self.norm(x)).chunk(2, dim=-1)
        down: Tensor = self.down(F.silu(gate) * up)
        return down
