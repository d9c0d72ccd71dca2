"""Row: loss of a head of 50,257 words on the states of the 20M model, without its logits in memory."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.linear_cross_entropy.fast import linear_cross_entropy
from kernels.linear_cross_entropy.naive import IGNORED, linear_cross_entropy_naive
from tests.benchmarks.gpu_rows import Function, Inputs, KernelRow, Variant, Work, compiled

WORDS = 50_257


def eager(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """As one writes it: logits in the dtype of the product, the loss in float32."""
    return F.cross_entropy((x @ weight.T).float(), targets)


def fla() -> Function:
    from fla.modules import FusedLinearCrossEntropyLoss

    loss = FusedLinearCrossEntropyLoss()
    return lambda x, weight, targets: loss(x, targets, weight)


def liger() -> Function:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss = LigerFusedLinearCrossEntropyLoss()
    return lambda x, weight, targets: loss(weight, x, targets)


def inputs(device: torch.device, *, tokens: int, width: int) -> Inputs:
    targets = torch.randint(WORDS, (tokens,), device=device)
    return {
        "x": torch.randn(tokens, width, device=device, dtype=torch.bfloat16),
        # logits of about unit size, as a model at the start of training has them
        "weight": (torch.randn(WORDS, width, device=device) * width**-0.5).bfloat16(),
        "targets": targets.masked_fill(torch.rand(tokens, device=device) < 0.01, IGNORED),
    }


def row(*, tokens: int, width: int) -> KernelRow:
    product = 2.0 * tokens * WORDS * width
    once = 2.0 * (tokens + WORDS) * width
    ratios = {"eager": 3.0, "compile": 2.0, "floor": 1.3, "fla": 1.2, "liger": 1.2}
    return KernelRow(
        name="linear_cross_entropy",
        shape=f"N{tokens} D{width} V{WORDS}",
        dtype=torch.bfloat16,
        make_inputs=partial(inputs, tokens=tokens, width=width),
        gradients=("x", "weight"),
        reference=linear_cross_entropy_naive,
        variants=(
            Variant(name="ours", make=lambda: linear_cross_entropy),
            Variant(name="eager", make=lambda: eager),
            Variant(name="compile", make=compiled(eager)),
            Variant(name="fla", make=fla),
            Variant(name="liger", make=liger),
        ),
        work={
            "forward": Work(bytes=once, matrix_flops=product),
            "both": Work(bytes=2 * once, matrix_flops=3 * product),
        },
        tolerance=2e-2,
        targets={"both": ratios},
    )


ROWS = (row(tokens=32 * 2048, width=256), row(tokens=16 * 2048, width=1024))
