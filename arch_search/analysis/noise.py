"""The noise of a metric: what remains after the means of programs and of seeds.

Model: metric[program, seed] = program + seed + error, the errors independent with one standard deviation for all
programs. Pairing removes the seed's part; the error is estimated from every program trained with more than one seed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

# candidate id -> seed -> value
Values = Mapping[str, Mapping[int, float]]

# A sum of squared residuals below this, per value, is rounding and not noise.
_ROUNDING = 1e-24


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Standard deviation of the metric between runs of one program; NaN and 0 degrees of freedom where unknown.

    `pooled_sd` is what remains after each program's and each seed's mean, over all programs; `floor_sd` is the same
    over the reference and its placebos, which are one program in several texts. `sd`, the larger of both, makes the
    intervals: a crowd of broken programs that all score alike must not make the reference look noiseless.
    `unpaired_sd` keeps the seed's part; it serves where no seed is shared with the reference.
    """

    sd: float
    df: int
    pooled_sd: float
    floor_sd: float
    floor_df: int
    unpaired_sd: float
    unpaired_df: int

    def half_width(self, n: int, confidence: float) -> float:
        """Smallest paired difference over `n` seeds whose interval leaves out zero; NaN where noise is unknown."""
        if self.df < 1 or n < 1:
            return math.nan
        return _critical(self.df, confidence) * self.sd * math.sqrt(2.0 / n)


def noise(values: Values, *, same_program: Iterable[str]) -> Noise:
    """Noise from values alone; `same_program` names the reference and its placebos."""
    same = set(same_program)
    pooled_sd, df = _residual_sd(values)
    floor_sd, floor_df = _residual_sd({key: seeds for key, seeds in values.items() if key in same})
    unpaired_sd, unpaired_df = _within_sd(values)
    return Noise(
        sd=max(pooled_sd, floor_sd) if floor_df else pooled_sd,
        df=df,
        pooled_sd=pooled_sd,
        floor_sd=floor_sd,
        floor_df=floor_df,
        unpaired_sd=unpaired_sd,
        unpaired_df=unpaired_df,
    )


def t_interval(mean: float, standard_error: float, df: float, confidence: float) -> tuple[float, float]:
    """Student's interval around `mean`."""
    half = _critical(df, confidence) * standard_error
    return mean - half, mean + half


def _critical(df: float, confidence: float) -> float:
    return float(stdtrit(df, 0.5 + confidence / 2.0))


def _residual_sd(values: Values) -> tuple[float, int]:
    """Standard deviation after the means of programs and of seeds, and its degrees of freedom; (NaN, 0) if none."""
    cells = [(key, seed, value) for key, seeds in values.items() for seed, value in seeds.items()]
    if not cells:
        return math.nan, 0
    program = np.unique([key for key, _, _ in cells], return_inverse=True)[1]
    seeds = np.unique([seed for _, seed, _ in cells], return_inverse=True)[1]
    # the mean of each program is taken out first (Frisch, Waugh and Lovell): what is left to solve has a column a seed
    measured = _within(np.array([[value] for _, _, value in cells]), program)
    dummies = _within(np.eye(seeds.max() + 1)[seeds], program)
    fitted, _, rank, _ = np.linalg.lstsq(dummies, measured, rcond=None)
    df = len(cells) - (int(program.max()) + 1) - int(rank)
    return _sd(float(np.sum((measured - dummies @ fitted) ** 2)), len(cells), df)


def _within(columns: NDArray[np.float64], group: NDArray[np.intp]) -> NDArray[np.float64]:
    """The columns without the mean of each group."""
    sums = np.zeros((int(group.max()) + 1, columns.shape[1]))
    np.add.at(sums, group, columns)
    return columns - (sums / np.bincount(group)[:, None])[group]


def _within_sd(values: Values) -> tuple[float, int]:
    """Standard deviation between seeds, pooled over programs: the seed's own part stays in."""
    squares = [
        np.sum((np.array(list(seeds.values())) - np.mean(list(seeds.values()))) ** 2)
        for seeds in values.values()
        if seeds
    ]
    cells = sum(len(seeds) for seeds in values.values())
    return _sd(float(np.sum(squares)), cells, cells - len(squares))


def _sd(sum_of_squares: float, cells: int, df: int) -> tuple[float, int]:
    # Seeds that agree to the last digit (all at chance, all perfect) tell nothing about noise: it counts as unknown.
    if df < 1 or sum_of_squares <= _ROUNDING * cells:
        return math.nan, 0
    return math.sqrt(sum_of_squares / df), df
