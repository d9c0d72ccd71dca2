"""A program in its place of the language model of a stage, as the contract of its domain says.

Runs the program's code: only for a child process.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import cache

from torch import nn

from arch_search.config import Stage
from arch_search.contract import Contract
from arch_search.models.language_model import LanguageModel, parameters_beside_mixers
from arch_search.models.loading import build_mixer
from arch_search.models.matching import MatchedModel, match_feed_forward, match_inner_width


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    program: type[nn.Module]
    contract: Contract
    stage: Stage
    vocab: int

    def matched(self, target_parameters: int | None) -> MatchedModel:
        """The width that matches the model to `target_parameters`; draws from the global random generator."""
        stage = self.stage
        if self.contract.place == "token_mixer":
            return match_feed_forward(
                self._program,
                vocab=self.vocab,
                d_model=stage.d_model,
                n_layers=stage.n_layers,
                target_parameters=target_parameters,
            )
        norms = stage.d_model * stage.n_layers
        around = norms + parameters_beside_mixers(
            vocab=self.vocab, d_model=stage.d_model, n_layers=stage.n_layers, feed_forward=0
        )
        around += sum(_count(self._fixed_mixer(layer)) for layer in range(stage.n_layers))
        return match_inner_width(
            lambda width: around + sum(_count(self._program(layer, width)) for layer in range(stage.n_layers)),
            target_parameters=target_parameters,
        )

    def model(self, width: int) -> LanguageModel:
        """The language model at the matched width, its weights from the global random generator."""
        stage = self.stage
        is_mixer = self.contract.place == "token_mixer"
        return LanguageModel(
            self._program if is_mixer else self._fixed_mixer,
            vocab=self.vocab,
            d_model=stage.d_model,
            n_layers=stage.n_layers,
            feed_forward=width if is_mixer else 0,
            make_feed_forward=None if is_mixer else lambda layer: self._program(layer, width),
        )

    def programs(self, model: LanguageModel) -> list[nn.Module]:
        """The program's module of every layer of a model made here."""
        place = "mixer" if self.contract.place == "token_mixer" else "feed_forward.program"
        return [block.get_submodule(place) for block in model.blocks]

    def _program(self, layer: int, width: int = 0) -> nn.Module:
        stage = self.stage
        return build_mixer(
            self.program, d_model=stage.d_model, n_heads=stage.n_heads, layer_idx=layer, inner_width=width
        )

    def _fixed_mixer(self, layer: int) -> nn.Module:
        """The same token mixer beside every feed-forward."""
        mixer = mixer_beside(self.contract)
        assert mixer is not None, "a contract of a feed-forward names a mixer"
        return build_mixer(mixer, d_model=self.stage.d_model, n_heads=self.stage.n_heads, layer_idx=layer)


@cache
def mixer_beside(contract: Contract) -> type[nn.Module] | None:
    """The mixer that stands beside a program of this contract, None where the program is the mixer.

    It is ours: load it before the program and before the framework is looked at, so that a change of it is seen.
    """
    if not contract.mixer:
        return None
    module, _, name = contract.mixer.partition(":")
    found: type[nn.Module] = getattr(importlib.import_module(module), name)
    return found


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
