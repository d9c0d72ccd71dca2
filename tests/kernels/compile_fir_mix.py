"""Compiles what the operator launches for an H200, for which no GPU is needed, and prints what it takes as JSON.

Run: python tests/kernels/compile_fir_mix.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from kernels.fir_mix.triton import fir_mix_triton
from kernels.fir_mix.triton_statistics import path_statistics_triton
from tests.kernels import h200


class H200:
    """What Triton asks of a device before it compiles."""

    def get_current_target(self) -> GPUTarget:
        return h200.TARGET

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compiled_kernels(width: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """Those of one forward and backward pass, with the tensors' own types and alignment; nothing is launched."""
    found = []
    launch = JITFunction.run

    def compile_only(self: Any, *arguments: Any, warmup: bool, **options: Any) -> None:
        kernel = launch(self, *arguments, warmup=True, **options)
        used = h200.usage(kernel.asm["cubin"])
        found.append(
            {"kernel": f"{self.__name__} V{width} {dtype}", "local_bytes": used.stack_bytes + used.local_bytes}
        )

    JITFunction.run = compile_only
    try:
        v, path = (torch.zeros(2, 160, 2, width, dtype=dtype, requires_grad=True) for _ in range(2))
        filters = [torch.zeros(2, width, taps, requires_grad=True) for taps in (3, 63)]
        weights, norm_weight = torch.zeros(2, 160, 2, 4, requires_grad=True), torch.zeros(width, requires_grad=True)
        fir_mix_triton(v, filters, [path], weights, norm_weight).sum().backward()
        path_statistics_triton(v, filters, [path]).mean.sum().backward()
    finally:
        JITFunction.run = launch
    return found


if __name__ == "__main__":
    driver.set_active(H200())
    print(json.dumps([one for width in (32, 128) for one in compiled_kernels(width, torch.bfloat16)]))
