"""The small causal language model candidates are trained in: nothing but its mixers moves anything between tokens.

B batch, T tokens, D width, F feed-forward width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arch_search.models.loading import mix
from kernels.linear_cross_entropy.fast import linear_cross_entropy

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
        make_feed_forward: Callable[[int], nn.Module] | None = None,
    ) -> None:
        """`make_mixer(layer_idx)` builds the mixer of one layer; `feed_forward=0` leaves the SwiGLU out.

        `make_feed_forward(layer_idx)` builds what takes the place of the SwiGLU.
        """
        super().__init__()
        self.embedding = nn.Embedding(vocab, d_model)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_STD)

        def second(layer_idx: int) -> nn.Module | None:
            if make_feed_forward is not None:
                return _Normed(make_feed_forward(layer_idx), d_model)
            return _SwiGLU(d_model, feed_forward) if feed_forward else None

        self.blocks = nn.ModuleList(_Block(make_mixer(i), d_model, second(i)) for i in range(n_layers))
        self.norm = nn.RMSNorm(d_model, eps=NORM_EPS)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(self._states(tokens), self.embedding.weight)

    def loss(self, tokens: Tensor, targets: Tensor, *, count: Tensor) -> Tensor:
        """Sum of the losses of all targets [B, T] that are not -100, over `count`, without holding the logits."""
        states, head = self._states(tokens).flatten(0, 1), self.embedding.weight
        if torch.is_autocast_enabled(states.device.type):
            narrow = torch.get_autocast_dtype(states.device.type)
            states, head = states.to(narrow), head.to(narrow)
        return linear_cross_entropy(states, head, targets.flatten(), count=count)

    def _states(self, tokens: Tensor) -> Tensor:
        """What the head reads [B, T, D]."""
        x: Tensor = self.embedding(tokens)
        for block in self.blocks:
            x = block(x)
        normed: Tensor = self.norm(x)
        return normed


def parameters_beside_mixers(*, vocab: int, d_model: int, n_layers: int, feed_forward: int) -> int:
    """Parameters of a LanguageModel outside its mixers: embedding, norms and SwiGLUs."""
    norms = d_model * (1 + n_layers * (2 if feed_forward else 1))
    return vocab * d_model + norms + 3 * d_model * feed_forward * n_layers


class _Block(nn.Module):
    def __init__(self, mixer: nn.Module, d_model: int, feed_forward: nn.Module | None) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(d_model, eps=NORM_EPS)
        self.mixer = mixer
        self.feed_forward = feed_forward

    def forward(self, x: Tensor) -> Tensor:
        x = x + mix(self.mixer, self.mixer_norm(x))
        return x if self.feed_forward is None else x + self.feed_forward(x)


class _Normed(nn.Module):
    """A program in the place of the feed-forward, which is given the normed x."""

    def __init__(self, program: nn.Module, d_model: int) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(d_model, eps=NORM_EPS)
        self.program = program

    def forward(self, x: Tensor) -> Tensor:
        return mix(self.program, self.norm(x))


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
