"""Rows: tokens per second of the trainer at the two published sizes, as programs are written and on our kernels."""

from __future__ import annotations

import importlib.util
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from arch_search.models.compiled import compiled_blocks
from arch_search.models.fast_path import replacements, verified
from arch_search.models.language_model import LanguageModel
from arch_search.models.loading import build_mixer, load_mixer_class
from arch_search.training import trainer
from arch_search.training.adamw import AdamW
from arch_search.training.trainer import Numerics, Recipe
from kernels.dispatch import UnsupportedError, recorded_choices
from tests.benchmarks.gpu_rows import Line, Row
from tests.benchmarks.gpu_timing import Ceilings, interleaved, is_steady, measure_ceilings, stopwatch

PROGRAMS = "arch_search.domains.linear_attention", "arch_search.models.gallery"
WRITTEN, KERNELS, COMPILED = "as written", "on kernels", "on kernels, compiled"
COMPILE_S = 90
# both ways in bfloat16 against the program as written in float32, over all gradients
TOLERANCE = 0.05
# passes over [tokens, d] in bfloat16 that a layer of DeltaNet and SwiGLU makes forward if every step is fused
PASSES_A_LAYER = 43


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    width: int
    layers: int
    heads: int
    feed_forward: int
    micro_batch: int
    sequences: int  # of a step
    length: int = 2048
    vocab: int = 50_257

    @property
    def tokens(self) -> int:
        return self.sequences * self.length

    def limit(self, ceilings: Ceilings) -> float:
        """Tokens per second of the roofline: the layers bound by memory, the head by its products."""
        layer_bytes = 3 * PASSES_A_LAYER * 2 * self.width
        # projections of DeltaNet and SwiGLU; at d 256 they take less than the bytes, at d 1024 more
        layer_flops = 6 * (4 * self.width**2 + 3 * self.width * self.feed_forward)
        layer_s = max(layer_bytes / ceilings.copy_bytes, layer_flops / ceilings.matrix_flops)
        return 1 / (self.layers * layer_s + 6 * self.vocab * self.width / ceilings.matrix_flops)


class Training:
    """A model and what its steps need, by the trainer of the search."""

    def __init__(self, program: type[nn.Module], size: Size, device: torch.device) -> None:
        torch.manual_seed(0)
        self.size = size
        self.model = LanguageModel(
            lambda layer: build_mixer(program, d_model=size.width, n_heads=size.heads, layer_idx=layer),
            vocab=size.vocab,
            d_model=size.width,
            n_layers=size.layers,
            feed_forward=size.feed_forward,
        ).to(device)
        self.numerics = Numerics(device=device, precision=torch.bfloat16, micro_batch=size.micro_batch)
        self.optimiser = AdamW(self.model.parameters(), weight_decay=0.1, is_fused=device.type == "cuda")
        self.record = trainer._Record()
        steps = 1_000_000  # no end in sight
        self.recipe = Recipe(
            steps=steps, lr=3e-4, warmup_steps=200, weight_decay=0.1, clip_norm=1.0, seed=0, checkpoint_every_s=1e9
        )

    def step(self) -> None:
        cause = trainer._one_step(self.model, self.optimiser, self._batch, self.recipe, self.record, self.numerics)
        if cause:
            raise ArithmeticError(cause)

    def gradient(self, sequences: int, precision: torch.dtype) -> Tensor:
        """Of the first sequences of the first batch, all parameters in one row."""
        tokens, targets = (x[:sequences].to(self.numerics.device) for x in self._batch(0, np.random.default_rng(0)))
        self.optimiser.zero_grad()
        trainer._backward_in_parts(self.model, tokens, targets, replace(self.numerics, precision=precision))
        return torch.cat([one.grad.flatten() for one in self.model.parameters() if one.grad is not None])

    def _batch(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        shape = (self.size.sequences, self.size.length + 1)
        tokens = torch.from_numpy(rng.integers(0, self.size.vocab, shape))
        return tokens[:, :-1], tokens[:, 1:]


def file_of(name: str) -> Path:
    """The file of the program of this name that the repository ships."""
    for folder in PROGRAMS:
        found = importlib.util.find_spec(f"{folder}.{name}")
        if found is not None and found.origin is not None:
            return Path(found.origin)
    raise ModuleNotFoundError(f"no program {name} in {', '.join(PROGRAMS)}", name=name)


def as_written(name: str) -> type[nn.Module]:
    return load_mixer_class(file_of(name), None, default_class="DeltaNet")


def on_kernels(name: str) -> type[nn.Module]:
    """The same program on the operators of kernels/, as the search runs it.

    Raises:
        UnsupportedError: nothing in it computes what an operator does.
    """
    program = as_written(name)
    text = sys.modules[program.__module__]
    mixer = build_mixer(program, d_model=64, n_heads=2, layer_idx=0)
    chosen = verified(text, replacements(text), mixer, d_model=64)
    if not chosen:
        raise UnsupportedError(f"no function of {name} computes what an operator of kernels/ does")
    for one in chosen:
        setattr(text, one.function, one.stand_in)
    return program


def both(name: str) -> dict[str, Callable[[], type[nn.Module]]]:
    return {WRITTEN: lambda: as_written(name), KERNELS: lambda: on_kernels(name)}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRow:
    """One program at one size. `variants` build the class of its mixer; the last is compared with the first.

    The blocks of the variant COMPILED are compiled, as the search does it.
    """

    name: str
    size: Size
    variants: dict[str, Callable[[], type[nn.Module]]]
    over_first: float | None = None  # target of the last variant
    over_limit: float | None = None

    def lines(self, device: torch.device) -> Iterator[Line]:
        with ExitStack() as stack:
            yield from self._lines(device, stack)

    def _lines(self, device: torch.device, stack: ExitStack) -> Iterator[Line]:
        size, title = self.size, f"{self.name}, {self.size.sequences} x {self.size.length} tokens a step, bfloat16"
        seconds = stopwatch(device)
        ceilings = measure_ceilings(device, seconds)
        steps: dict[str, Callable[[], object]] = {}
        notes: dict[str, str] = {}
        expected: Tensor | None = None
        for variant, make in self.variants.items():
            try:
                training = Training(make(), size, device)
                path = _compiled(training, stack) if variant == COMPILED else ""
                if expected is None:
                    expected = training.gradient(1, torch.float32)
                off = _distance(training.gradient(1, torch.bfloat16), expected)
                facts = _facts(training, device)
            except (ImportError, UnsupportedError) as error:
                yield Line(row=title, variant=variant, note=f"not there: {error}")
            except torch.OutOfMemoryError:
                yield Line(row=title, variant=variant, note="out of memory")
            else:
                if off <= TOLERANCE:
                    steps[variant], notes[variant] = training.step, "; ".join(filter(None, (path, facts)))
                    continue
                note = f"wrong, not timed: gradient off by {off:.2g} of its size, tolerance {TOLERANCE}"
                yield Line(row=title, variant=variant, note=note, is_failure=True)
        yield from self._rates(title, interleaved(steps, seconds), notes, size.limit(ceilings))

    def _rates(self, title: str, times: dict[str, list[float]], notes: dict[str, str], limit: float) -> Iterator[Line]:
        rates = {name: [self.size.tokens / one for one in found] for name, found in times.items()}
        steady = {name: statistics.median(found) for name, found in rates.items() if is_steady(found)}
        best = steady.get(list(self.variants)[-1])
        for name, found in rates.items():
            low, median, high = statistics.quantiles(found, n=4, method="inclusive")
            is_first = name == next(iter(self.variants)) and len(self.variants) > 1
            ratio = best / steady[name] if is_first and best and name in steady else None
            yield Line(
                row=title,
                variant=name,
                median=median,
                low=low,
                high=high,
                unit="tokens/s",
                ratio=ratio,
                target=self.over_first if is_first else None,
                note=notes[name],
            )
        ratio = limit / best if best else None
        yield Line(
            row=title,
            variant="roofline",
            median=limit,
            unit="tokens/s",
            ratio=ratio,
            target=self.over_limit,
            at_most=True,
        )


def _compiled(training: Training, stack: ExitStack) -> str:
    """Compile the blocks until the stack is left; which path they take, in words."""
    size, precision = training.size, training.numerics.precision
    cache = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    shape = (size.micro_batch, size.length)
    with recorded_choices() as choices:
        stack.enter_context(
            compiled_blocks(training.model, shape=shape, precision=precision, limit_s=COMPILE_S, cache=cache)
        )
    return ", ".join(f"{one.operator} ran {one.path}" for one in choices)


def _distance(found: Tensor, expected: Tensor) -> float:
    """Relative to the size of `expected`; infinite where it is of another shape or no number."""
    if found.shape != expected.shape:
        return math.inf
    off = ((found - expected).norm() / expected.norm()).item()
    return off if math.isfinite(off) else math.inf


def _facts(training: Training, device: torch.device) -> str:
    """Which operators of a step did not take their fastest path, and its peak memory."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with recorded_choices() as choices:
        training.step()
    facts = [f"{one.operator} ran on {one.path}: {one.reason}" for one in choices if one.reason]
    if device.type == "cuda":
        facts.append(f"peak memory {torch.cuda.max_memory_allocated() / 1e9:.1f} GB")
    return "; ".join(facts)


SMALL = Size(width=256, layers=8, heads=8, feed_forward=680, micro_batch=64, sequences=64)
LARGE = Size(width=1024, layers=24, heads=8, feed_forward=2728, micro_batch=4, sequences=16)

ROWS: tuple[Row, ...] = (
    TrainRow(
        name="train 19 M, the seed program",
        size=SMALL,
        variants=both("seed_program"),
        over_limit=2.0,
    ),
    TrainRow(
        name="train 19 M, a published winner",
        size=SMALL,
        variants=both("path_gate_fusion_net"),
        over_first=5.0,
    ),
    TrainRow(
        name="train 354 M, the seed program",
        size=LARGE,
        variants=both("seed_program"),
        over_limit=2.2,
    ),
)
