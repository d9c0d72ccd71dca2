"""Rows: the delta rule and the gated one at the size of the 20M model, heads of 32, and at heads of 64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.delta_rule.chunk import delta_rule_chunk
from kernels.delta_rule.fast import delta_rule
from kernels.gated_delta_rule.chunk import gated_delta_rule_chunk
from kernels.gated_delta_rule.fast import gated_delta_rule
from kernels.with_fla import delta_rule_fla, gated_delta_rule_fla
from tests.benchmarks.gpu_rows import Inputs, KernelRow, Variant, Work, compiled

CHUNK = 32
# of the definition in float32; operands of products are rounded to bfloat16
TOLERANCE = 3e-2


def inputs(device: torch.device, *, B: int, T: int, H: int, D: int, gated: bool) -> Inputs:
    q, k, v = (torch.randn(B, T, H, D, device=device) for _ in range(3))
    found = {"q": q, "k": F.normalize(k, dim=-1), "v": v, "beta": torch.rand(B, T, H, device=device)}
    if gated:
        found["log_g"] = -0.1 * torch.rand(B, T, H, device=device)
    return {name: x.bfloat16() for name, x in found.items()}


def row(*, B: int, T: int, H: int, D: int, gated: bool) -> KernelRow:
    ours: Callable[..., Tensor] = gated_delta_rule if gated else delta_rule
    eager: Callable[..., Any] = gated_delta_rule_chunk if gated else delta_rule_chunk
    theirs: Callable[..., Tensor] = gated_delta_rule_fla if gated else delta_rule_fla
    tokens, per_token = B * T * H, 2.0 * (2 if gated else 1)
    product = 2.0 * tokens * (3 * D * D + 4 * CHUNK * D)
    return KernelRow(
        name="gated_delta_rule" if gated else "delta_rule",
        shape=f"B{B} T{T} H{H} D{D}",
        dtype=torch.bfloat16,
        make_inputs=partial(inputs, B=B, T=T, H=H, D=D, gated=gated),
        gradients=("q", "k", "v", "beta", "log_g") if gated else ("q", "k", "v", "beta"),
        reference=eager,
        variants=(
            Variant(name="ours", make=lambda: ours),
            Variant(name="eager", make=lambda: eager),
            Variant(name="compile", make=compiled(eager)),
            Variant(name="fla", make=lambda: theirs),
        ),
        work={
            # q, k, v and the output once; backward they, their gradients and that of the output again
            "forward": Work(bytes=tokens * (4 * 2.0 * D + per_token), matrix_flops=product),
            "both": Work(bytes=tokens * (11 * 2.0 * D + 3 * per_token), matrix_flops=3.7 * product),
        },
        tolerance=TOLERANCE,
        targets={
            "forward": {"eager": 30.0, "compile": 8.0, "fla": 2.0, "floor": 3.0},
            "both": {"eager": 30.0, "compile": 8.0, "fla": 2.0, "floor": 3.5},
        },
    )


ROWS = tuple(
    row(B=32, T=2048, H=heads, D=width, gated=gated) for heads, width in ((8, 32), (4, 64)) for gated in (False, True)
)
