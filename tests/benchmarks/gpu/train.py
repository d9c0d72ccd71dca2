"""Rows: tokens per second of the trainer at the two published sizes, as programs are written and on our kernels."""

from __future__ import annotations

import importlib
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from arch_search.models.language_model import LanguageModel
from arch_search.models.loading import build_mixer
from arch_search.training import trainer
from arch_search.training.adamw import AdamW
from arch_search.training.trainer import Numerics, Recipe
from tests.benchmarks.gpu_rows import Line, Row
from tests.benchmarks.gpu_timing import Ceilings, interleaved, measure_ceilings, stopwatch

PROGRAMS = "arch_search.domains.linear_attention", "arch_search.models.gallery"
WRITTEN, KERNELS = "as written", "on kernels"
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


def as_written(name: str, class_name: str = "DeltaNet") -> type[nn.Module]:
    """The program of this name that the repository ships."""
    for folder in PROGRAMS:
        try:
            found: type[nn.Module] = getattr(importlib.import_module(f"{folder}.{name}"), class_name)
            return found
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError(f"no program {name} in {', '.join(PROGRAMS)}", name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainRow:
    """One program at one size. `variants` build the class of its mixer; the first is the program as written."""

    name: str
    size: Size
    variants: dict[str, Callable[[], type[nn.Module]]]
    over_written: float | None = None  # target of the last variant
    over_limit: float | None = None

    def lines(self, device: torch.device) -> Iterator[Line]:
        size, title = self.size, f"{self.name}, {self.size.sequences} x {self.size.length} tokens a step, bfloat16"
        seconds = stopwatch(device)
        ceilings = measure_ceilings(device, seconds)
        steps: dict[str, Callable[[], object]] = {}
        notes: dict[str, str] = {}
        expected: Tensor | None = None
        for variant, make in self.variants.items():
            try:
                training = Training(make(), size, device)
                if expected is None:
                    expected = training.gradient(1, torch.float32)
                off = _distance(training.gradient(1, torch.bfloat16), expected)
                peak = _peak(training, device)
            except ImportError as error:
                yield Line(row=title, variant=variant, note=f"not there ({error.name})")
            except torch.OutOfMemoryError:
                yield Line(row=title, variant=variant, note="out of memory")
            else:
                if off <= TOLERANCE:
                    steps[variant], notes[variant] = training.step, peak
                    continue
                note = f"wrong, not timed: gradient off by {off:.2g} of its size, tolerance {TOLERANCE}"
                yield Line(row=title, variant=variant, note=note, is_failure=True)
        yield from self._rates(title, interleaved(steps, seconds), notes, size.limit(ceilings))

    def _rates(self, title: str, times: dict[str, list[float]], notes: dict[str, str], limit: float) -> Iterator[Line]:
        rates = {name: [self.size.tokens / one for one in found] for name, found in times.items()}
        written, best = rates.get(WRITTEN), rates.get(list(self.variants)[-1])
        for name, found in rates.items():
            low, median, high = statistics.quantiles(found, n=4, method="inclusive")
            is_written = name == WRITTEN and len(self.variants) > 1
            ratio = statistics.median(best) / statistics.median(written) if is_written and best and written else None
            yield Line(
                row=title,
                variant=name,
                median=median,
                low=low,
                high=high,
                unit="tokens/s",
                ratio=ratio,
                target=self.over_written if is_written else None,
                note=notes[name],
            )
        ratio = limit / statistics.median(best) if best else None
        yield Line(
            row=title,
            variant="roofline",
            median=limit,
            unit="tokens/s",
            ratio=ratio,
            target=self.over_limit,
            at_most=True,
        )


def _distance(found: Tensor, expected: Tensor) -> float:
    """Relative to the size of `expected`; infinite where it is of another shape or no number."""
    if found.shape != expected.shape:
        return math.inf
    off = ((found - expected).norm() / expected.norm()).item()
    return off if math.isfinite(off) else math.inf


def _peak(training: Training, device: torch.device) -> str:
    if device.type != "cuda":
        return ""
    torch.cuda.reset_peak_memory_stats()
    training.step()
    return f"peak memory {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"


SMALL = Size(width=256, layers=8, heads=8, feed_forward=680, micro_batch=32, sequences=64)
LARGE = Size(width=1024, layers=24, heads=8, feed_forward=2728, micro_batch=4, sequences=16)

ROWS: tuple[Row, ...] = (
    TrainRow(
        name="train 19 M, the seed program",
        size=SMALL,
        variants={WRITTEN: lambda: as_written("seed_program")},
        over_limit=2.0,
    ),
    TrainRow(
        name="train 19 M, a published winner",
        size=SMALL,
        variants={WRITTEN: lambda: as_written("path_gate_fusion_net")},
    ),
    TrainRow(
        name="train 354 M, the seed program",
        size=LARGE,
        variants={WRITTEN: lambda: as_written("seed_program")},
        over_limit=2.2,
    ),
)
