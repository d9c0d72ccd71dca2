"""Search policies at equal budget on landscapes whose truth is known (tests/selection/landscape.py).

Run: python tests/benchmarks/bench_policies.py [repeats]     default: 200

A row is a policy; a number is the true improvement of the program that a campaign of 240 trainings ranks first, as the
mean over all repeats with its 95 % interval, in standard deviations of an option's effect. All rows of a repeat search
the same landscapes, so that rows are compared in pairs. Whatever is bought (repeats with hidden seeds) is paid for.
"""

from __future__ import annotations

import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from arch_search.analysis.noise import t_interval
from arch_search.config import Selection
from arch_search.settings import load_config
from cognition_db.records import Arm
from tests.benchmarks.recorded_slurm import keep_table
from tests.selection.landscape import EFFECT, Kind, Landscape, Searcher, search

ROWS: dict[str, tuple[Arm, list[str]]] = {
    "best_of_n": ("best_of_n", []),
    "mutate, paired": ("mutate", []),
    "paired": ("evolve", []),
    "paired, 2 of 8 crossed": ("evolve", []),
    "mutate, paired, 2 of 8 crossed": ("mutate", []),
    "paired, stagnation=3": ("evolve", ["selection.stagnation=3"]),
    "paired, repeat_seeds=2": ("evolve", ["selection.repeat_seeds=2"]),
    "islands": ("evolve", ["selection=islands"]),
    "map_elites": ("evolve", ["selection=map_elites"]),
    "bandit": ("evolve", ["selection=bandit", "selection.parents_from_top=8"]),
    # a published campaign has 1,773 programs, of which 200 are the cold start, and renews its pool after 50
    "asi_arch, to scale": ("evolve", ["selection=asi_arch", "selection.cold_start=12", "selection.pool_refresh=3"]),
}
# slots of eight that cross two programs instead of changing one
CROSSINGS = {"paired, 2 of 8 crossed": 2, "mutate, paired, 2 of 8 crossed": 2}
NOISES = {"low": 0.1, "high": 1.0}  # of one training, in standard deviations of an option's effect
SETTINGS = [(kind, noise) for kind in get_args(Kind) for noise in NOISES]


def main(repeats: int) -> None:
    with ProcessPoolExecutor() as pool:
        gains = {name: np.array(list(pool.map(_repeat, [name] * repeats, range(repeats)))) for name in ROWS}
    heads = [f"{kind} {noise}"[:14] for kind, noise in SETTINGS]
    lines = [f"{'':24}{'all':>20}{''.join(f'{head:>16}' for head in heads)}{'all, over best_of_n':>24}"]
    for name, values in gains.items():
        cells = [_interval(values[:, column]) for column in range(len(SETTINGS))]
        ahead = _interval((values - gains["best_of_n"]).mean(axis=1)) if name != "best_of_n" else ""
        lines.append(
            f"{name:24}{_interval(values.mean(axis=1)):>20}{''.join(f'{cell:>16}' for cell in cells)}{ahead:>24}"
        )
    lines += [
        "",
        f"n = {repeats} repeats of {len(SETTINGS)} landscapes each; +- is half of the 95 % interval.",
    ]
    keep_table("policies", lines)


def _repeat(name: str, repeat: int) -> list[float]:
    """Gains of one row on the landscapes of one repeat."""
    arm, overrides = ROWS[name]
    searcher = Searcher(selection=_selection(overrides), arm=arm, crossings=CROSSINGS.get(name, 0))
    gains = []
    for index, (kind, noise) in enumerate(SETTINGS):
        landscape = Landscape.draw(kind, np.random.default_rng([1, index, repeat]))
        rng = np.random.default_rng([2, index, repeat])
        gains.append(search(landscape, searcher, noise_sd=NOISES[noise] * EFFECT, rng=rng) / EFFECT)
    return gains


def _selection(overrides: list[str]) -> Selection:
    return load_config(["campaign=smoke", *overrides, "selection.metric=recall_accuracy"]).selection


def _interval(values: NDArray[np.float64]) -> str:
    mean = float(values.mean())
    low, high = t_interval(mean, float(values.std(ddof=1)) / len(values) ** 0.5, len(values) - 1, 0.95)
    return f"{mean:.2f} +- {(high - low) / 2:.2f}"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
