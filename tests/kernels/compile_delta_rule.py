"""Compiles the kernels for an H200, for which no GPU is needed, and prints what they take of it as JSON.

Run: python tests/kernels/compile_delta_rule.py HEAD_SIZE ...
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kernels.delta_rule import device
from kernels.delta_rule import triton as host
from tests.kernels import h200

WALKS = (device.output_kernel, device.state_gradient_kernel)


def resources(function: Any, head_size: int, warps: int) -> dict[str, Any]:
    """Of a kernel with a decay, every tensor in bfloat16."""
    names = function.arg_names
    sizes = {"K": head_size, "V": head_size, "C": host.CHUNK, "COLUMNS": host.COLUMNS_OF_WALK}
    given = {name: value for name, value in sizes.items() if name in names}
    types = {"T": "i32", "H": "i32", "N": "i32", "scale": "fp32"} | dict.fromkeys(given, "constexpr")
    signature = {name: types.get(name, "*bf16") for name in names}
    aligned = [name for name in names if name not in types]
    made = h200.compiled(function, signature, given, aligned=aligned, options={"num_warps": warps})
    used, code = h200.usage(made.asm["cubin"]), h200.instructions(made.asm["cubin"])
    return {
        "kernel": function.fn.__name__,
        "head_size": head_size,
        "registers": used.registers,
        "spilled_bytes": used.stack_bytes,
        "shared_bytes": made.metadata.shared,
        "matrix_instructions": len(re.findall(r"\bHMMA", code)),
        "warpgroup_instructions": len(re.findall(r"\bHGMMA", code)),
        "barriers": len(re.findall(r"\bBAR\.", code)),
    }


if __name__ == "__main__":
    found = []
    for size in map(int, sys.argv[1:]):
        found.append(resources(device.inverse_kernel, size, host.WARPS_OF_INVERSE))
        found += [resources(walk, size, host.WARPS_OF_WALK) for walk in WALKS]
        found.append(resources(device.input_gradient_kernel, size, host.WARPS_OF_INPUT_GRADIENT[size]))
    print(json.dumps(found, indent=1))
