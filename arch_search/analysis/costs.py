"""What a campaign costs: hours of what its work units hold."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Hours of allocated GPUs and cores a campaign has used.

    `by_outcome` and `left` are in `unit`: GPU-hours where work units ask for GPUs, core-hours where they ask for none.
    `left` is None without a limit, and never below 0.
    """

    unit: Literal["GPU-hours", "core-hours"]
    gpu_hours: float
    core_hours: float
    by_outcome: dict[str, float] = field(default_factory=dict)
    limit: float | None = None

    @property
    def used(self) -> float:
        """Hours in `unit`."""
        return math.fsum(self.by_outcome.values())

    @property
    def left(self) -> float | None:
        return None if self.limit is None else max(0.0, self.limit - self.used)
