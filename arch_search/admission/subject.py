"""The program under check: building it, calling it in its modes, and the inputs that the checks feed it.

B batch, T length, D model width. Every call is preceded by the same seed, so that dropout draws the same mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arch_search.models.loading import ProgramContractError, build_mixer, mix
from arch_search.models.stand_in import float64_everywhere

JITTER = 0.1
# rows, tokens and width that a check at the sizes of training may multiply to: a second or less of one core for a
# program without a loop over tokens, and the tracker holds a code beside every number
MAX_TRAINED_ELEMENTS = 2**18
_BUILD_SEED, _CALL_SEED, _JITTER_SEED = 11, 12, 13
_REPEATED_VECTORS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to run a module: a leak may act in training only, with gradients only, or behind a zero weight."""

    train: bool
    grad: bool
    jittered: bool

    @property
    def words(self) -> str:
        mode = "train" if self.train else "eval"
        return f"{mode}, gradient {'on' if self.grad else 'off'}, {'jittered' if self.jittered else 'initial'} weights"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A mixer class and the size and layer at which it is checked."""

    mixer: type[nn.Module]
    d_model: int
    n_heads: int
    layer_idx: int = 0

    def build(self, *, seed: int = _BUILD_SEED) -> nn.Module:
        torch.manual_seed(seed)
        return build_mixer(self.mixer, d_model=self.d_model, n_heads=self.n_heads, layer_idx=self.layer_idx)

    def build_as(self, variant: Variant) -> nn.Module:
        """A fresh module in the default dtype, its weights and mode as the variant says."""
        module = self.build().train(variant.train)
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.data = tensor.data.to(torch.get_default_dtype())
        if variant.jittered:
            random = torch.Generator().manual_seed(_JITTER_SEED)
            for parameter in module.parameters():
                noise = torch.randn(parameter.shape, generator=random, dtype=torch.float64)
                parameter.data += JITTER * noise.to(parameter.dtype)
        return module


def call(module: nn.Module, x: Tensor, *, grad: bool, seed: int = _CALL_SEED) -> Tensor:
    """Output of the module [B, T, D], with a graph only if `grad`; the input is then, as in a model, no leaf.

    Raises:
        ProgramContractError: besides what `mix` says, the input was written to or the output is of a class of its own.
    """
    torch.manual_seed(seed)
    if grad and not x.requires_grad:
        x = x.detach().requires_grad_()
    with nullcontext() if grad else torch.no_grad():
        given = x * 1.0
        output = mix(module, given)
    if not torch.equal(given, x):
        raise ProgramContractError("forward changes its input in place; let it write to a copy")
    # a class of its own may answer a comparison as it likes
    if type(output) is not Tensor:
        raise ProgramContractError(f"forward returned a {type(output).__name__}, expected a plain torch.Tensor")
    return output


def affordable_length(seq_len: int, d_model: int) -> int:
    """`seq_len`, or as much of it as one row at this width may have."""
    return max(2, min(seq_len, MAX_TRAINED_ELEMENTS // d_model))


def draw(B: int, T: int, D: int, *, seed: int, scale: float = 1.0) -> Tensor:
    """Inputs [B, T, D] in the default dtype: even rows normal, odd rows text-like, of few vectors that come again.

    Every call draws its repeated vectors from the same few, so that a future can repeat a token of the past.
    """
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(B, T, D, generator=random, dtype=torch.float64)
    vectors = torch.randn(_REPEATED_VECTORS, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chosen = torch.randint(_REPEATED_VECTORS, (B, T), generator=random)
    x[1::2] = vectors[chosen[1::2]]
    return (scale * x).to(torch.get_default_dtype())


@contextmanager
def precision(dtype: torch.dtype) -> Iterator[None]:
    """float64 with the program's own casts widened, or plain float32."""
    if dtype is torch.float64:
        with float64_everywhere():
            yield
    else:
        yield


def is_finite(*tensors: Tensor) -> bool:
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
