"""Row: what torch's compiler adds to a program on our kernels; a process of its own, because it takes minutes."""

from __future__ import annotations

from tests.benchmarks.gpu.train import COMPILED, KERNELS, SMALL, TrainRow, on_kernels
from tests.benchmarks.gpu_rows import Row

ROWS: tuple[Row, ...] = (
    TrainRow(
        name="compile 19 M, a published winner",
        size=SMALL,
        variants={name: lambda: on_kernels("path_gate_fusion_net") for name in (KERNELS, COMPILED)},
    ),
)
