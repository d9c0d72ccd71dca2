"""Programs on the operators of kernels/: for how many a function is found, stays, and what that does to their time.

Run: python tests/benchmarks/bench_fast_path.py [mutations]     default: 100; some minutes

A program counts as found where a function of it agrees with an operator, as kept where its whole mixer does as well
(models/fast_path.py). Time is that of forward and backward at [8, 256, 128] with 4 heads on one thread of the CPU, as
written over on the operators, taken in turns: the median and the quartiles over all pairs of the timed programs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.models import stand_in
from arch_search.models.fast_path import Replacement, replaced, replacements, verified
from arch_search.models.loading import build_mixer, load_mixer_class, mix
from tests.benchmarks.bench_novelty import programs
from tests.benchmarks.recorded_slurm import REPOSITORY, keep_table

BATCH, LENGTH, WIDTH, HEADS = 8, 256, 128, 4
TIMED, REPEATS = 5, 7  # programs of a set, and pairs of times of each


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    module: ModuleType
    mixer: nn.Module
    found: tuple[Replacement, ...]
    kept: tuple[Replacement, ...]


def main(mutations: int) -> None:
    torch.set_num_threads(1)
    stand_in.install()
    sets = {
        "seed program": [SEED_PROGRAM],
        "gallery": _texts("arch_search/models/gallery"),
        "published form": _texts("tests/admission/published"),
        "recorded and mutated": list(dict.fromkeys(programs(mutations))),
    }
    lines = [f"{'programs':24}{'n':>5}{'found':>7}{'kept':>6}{'as written / on operators, one CPU thread':>46}"]
    for name, texts in sets.items():
        prepared = list(_prepared(texts))
        kept = [one for one in prepared if one.kept]
        ratios = [ratio for one in kept[:TIMED] for ratio in _ratios(one)]
        low, middle, high = np.percentile(ratios, [25, 50, 75]) if ratios else (np.nan,) * 3
        found = sum(bool(one.found) for one in prepared)
        lines.append(
            f"{name:24}{len(prepared):5}{found:7}{len(kept):6}{middle:24.2f} [{low:.2f}, {high:.2f}], n = {len(ratios)}"
        )
    keep_table("fast_path", lines)


def _texts(folder: str) -> list[str]:
    return [path.read_text() for path in sorted((REPOSITORY / folder).glob("[!_]*.py"))]


def _prepared(texts: Iterable[str]) -> Iterator[Prepared]:
    """The programs that can be built. All are ours or recorded ones that are known, and run without a jail."""
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(texts):
            path = Path(folder) / f"program_{number}.py"
            path.write_text(text)
            try:
                program = load_mixer_class(path, None, default_class="DeltaNet")
                mixer = build_mixer(program, d_model=WIDTH, n_heads=HEADS, layer_idx=0)
                with torch.no_grad():
                    mix(mixer, torch.randn(1, 3, WIDTH))
            except Exception:  # a recorded reply may be wrong in any way
                continue
            module = sys.modules[program.__module__]
            found = replacements(module)
            yield Prepared(module=module, mixer=mixer, found=found, kept=verified(module, found, mixer, d_model=WIDTH))


def _ratios(one: Prepared) -> list[float]:
    ratios = []
    for repeat in range(REPEATS + 1):
        written = _seconds(one.mixer)
        with replaced(one.module, one.kept):
            ratios += [written / _seconds(one.mixer)] if repeat else [_seconds(one.mixer)]
    return ratios[1:]  # the first pair warms up


def _seconds(mixer: nn.Module) -> float:
    x = torch.randn(BATCH, LENGTH, WIDTH)
    begun = time.process_time()
    torch.autograd.backward(mix(mixer, x).sum())
    return time.process_time() - begun


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
