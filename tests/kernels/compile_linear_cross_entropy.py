"""Compiles the kernels for an H200, for which no GPU is needed, and prints what they take of it as JSON.

Run: python tests/kernels/compile_linear_cross_entropy.py WIDTH ...
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from kernels.linear_cross_entropy import triton as kernels
from tests.kernels import h200

TYPES = {
    "x": "*bf16",
    "weight": "*bf16",
    "scratch": "*bf16",
    "targets": "*i64",
    "N": "i32",
    "V": "i32",
    "stride": "i32",
}


def resources(function: Any, width: int) -> dict[str, Any]:
    x = torch.empty(1, width, dtype=torch.bfloat16, device="meta")
    given = kernels._constants(x, kernels.tiles_for(x))
    options = {name: given.pop(name) for name in ("num_warps", "num_stages")}
    names = function.arg_names
    signature = {name: "constexpr" if name in given else TYPES.get(name, "*fp32") for name in names}
    # as a launch finds them: pointers of torch and the padded stride
    aligned = [name for name in names if signature[name].startswith("*") or name == "stride"]
    made = h200.compiled(function, signature, given, aligned=aligned, options=options)
    used, code = h200.usage(made.asm["cubin"]), h200.instructions(made.asm["cubin"])
    return {
        "shared_bytes": made.metadata.shared,
        "local_bytes": used.stack_bytes + used.local_bytes,
        "matrix_instructions": len(re.findall(r"\bHGMMA", code)),
    }


if __name__ == "__main__":
    both = (kernels._log_sums, kernels._changes)
    print(json.dumps([resources(function, int(width)) for width in sys.argv[1:] for function in both]))
