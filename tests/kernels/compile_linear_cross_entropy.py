"""Compiles the kernels for an H200, for which no GPU is needed, and prints what they take of it as JSON.

Run: python tests/kernels/compile_linear_cross_entropy.py WIDTH ...
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.linear_cross_entropy import triton as kernels

TYPES = {
    "x": "*bf16",
    "weight": "*bf16",
    "scratch": "*bf16",
    "targets": "*i64",
    "N": "i32",
    "V": "i32",
    "stride": "i32",
}
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def resources(function: Any, width: int) -> dict[str, Any]:
    x = torch.empty(1, width, dtype=torch.bfloat16, device="meta")
    given = kernels._constants(x, kernels.tiles_for(x))
    options = {name: given.pop(name) for name in ("num_warps", "num_stages")}
    names = function.arg_names
    signature = {name: "constexpr" if name in given else TYPES.get(name, "*fp32") for name in names}
    # as a launch finds them: pointers of torch and the padded stride
    aligned = [name for name in names if signature[name].startswith("*") or name == "stride"]
    source = ASTSource(
        function,
        signature,
        constexprs={(names.index(name),): value for name, value in given.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _output(TOOLS / "cuobjdump", "--dump-resource-usage", file.name)
        code = _output(TOOLS / "nvdisasm", "-c", file.name)
    found = re.search(r"STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", usage)
    assert found is not None
    return {
        "shared_bytes": compiled.metadata.shared,
        "local_bytes": int(found[1]) + int(found[2]),
        "matrix_instructions": len(re.findall(r"\bHGMMA", code)),
    }


def _output(*command: Path | str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    both = (kernels._log_sums, kernels._changes)
    print(json.dumps([resources(function, int(width)) for width in sys.argv[1:] for function in both]))
