"""What a row of `make bench-gpu` says of itself, and what is measured of it.

A file tests/benchmarks/gpu/NAME.py holds `ROWS`, a tuple of rows, and is what ROW=NAME selects. It imports nothing but
torch, the standard library, kernels/ and this module, for the machine may have no more; what only a variant needs is
imported by the variant.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

Inputs = dict[str, Tensor]
Outputs = Tensor | tuple[Tensor, ...]
Function = Callable[..., Outputs]  # called with the inputs by keyword
COMPILED = "compile"
Pass = Literal["forward", "both"]  # both: forward and backward


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to compute a row. `make` is called once; where it raises ImportError the table says "not installed"."""

    name: str  # ours, eager, compile, or the package: fla, liger
    make: Callable[[], Function]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """The least that any version does: inputs read once, outputs written once, and the operations of the formula.

    The floor is the longest of the three times that follow from the rates measured on the device.
    """

    bytes: float
    matrix_flops: float = 0.0  # on the matrix units, at the rate of a large bfloat16 product
    vector_flops: float = 0.0  # on the other cores, at the rate of a large float32 product without tf32


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of the table: what a variant took, or why it was not timed."""

    row: str
    variant: str
    note: str = ""
    is_failure: bool = False  # wrong, crashed or out of time
    median: float | None = None
    low: float | None = None  # quartiles
    high: float | None = None
    unit: str = "ms"
    ratio: float | None = None  # how many times faster ours is, at the floor how many times slower than it
    target: float | None = None
    at_most: bool = False  # the target is the largest good ratio, not the least


class Row(Protocol):
    """What bench_gpu.py asks of a row; a kernel is a KernelRow."""

    def lines(self, device: torch.device) -> Iterator[Line]:
        """Measure; each line is kept as soon as it comes, also where the row then runs out of time."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelRow:
    """An operator whose variants give equal results: all are compared with `reference`, then timed in turn.

    `reference` gets the same inputs as float32. `targets` says per pass and variant how many times faster ours has to
    be, at "floor" how many times slower than it ours may be.
    """

    name: str  # with what tells it from other rows of its file, as "delta_rule gated"
    shape: str  # as B32 T2048 H8 D32
    dtype: torch.dtype
    make_inputs: Callable[[torch.device], Inputs]  # random; called once, after torch.manual_seed
    gradients: tuple[str, ...]  # inputs whose gradients are compared and timed
    reference: Function
    variants: tuple[Variant, ...]  # "ours" first; what `compiled` makes is called "compile"
    work: Mapping[Pass, Work]
    tolerance: float  # on |found - reference| / |reference|, Euclidean, of each output and gradient
    targets: Mapping[Pass, Mapping[str, float]] = field(default_factory=dict)

    def lines(self, device: torch.device) -> Iterator[Line]:
        """All but what torch.compile makes of it."""
        # the measuring reads this module
        from tests.benchmarks.gpu_timing import measured

        return measured(self, device, [one for one in self.variants if one.name != COMPILED])

    def compiled_lines(self, device: torch.device) -> Iterator[Line]:
        """What torch.compile makes of it beside ours: after all else, for it can take minutes."""
        from tests.benchmarks.gpu_timing import measured

        chosen = [one for one in self.variants if one.name in ("ours", COMPILED)]
        return (line for line in measured(self, device, chosen) if line.variant == COMPILED)


def compiled(function: Function) -> Callable[[], Function]:
    """`make` of the variant that torch.compile makes of a plain function, for fixed shapes."""
    return lambda: torch.compile(function, dynamic=False)
