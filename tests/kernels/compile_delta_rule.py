"""Compiles the kernels for an H200, for which no GPU is needed, and prints what they take of it as JSON.

Run: python tests/kernels/compile_delta_rule.py HEAD_SIZE ...
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

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kernels.delta_rule import device
from kernels.delta_rule import triton as host

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
WALKS = (device.output_kernel, device.state_gradient_kernel)


def resources(function: Any, head_size: int, warps: int) -> dict[str, Any]:
    """Of a kernel with a decay, every tensor in bfloat16."""
    names = function.arg_names
    sizes = {"K": head_size, "V": head_size, "C": host.CHUNK, "COLUMNS": host.COLUMNS_OF_WALK}
    given = {name: value for name, value in sizes.items() if name in names}
    types = {"T": "i32", "H": "i32", "N": "i32", "scale": "fp32"} | dict.fromkeys(given, "constexpr")
    signature = {name: types.get(name, "*bf16") for name in names}
    source = ASTSource(
        function,
        signature,
        constexprs={(names.index(name),): value for name, value in given.items()},
        attrs={(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if name not in types},
    )
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _output(TOOLS / "cuobjdump", "--dump-resource-usage", file.name)
        code = _output(TOOLS / "nvdisasm", "-c", file.name)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None
    return {
        "kernel": function.fn.__name__,
        "head_size": head_size,
        "registers": int(found[1]),
        "spilled_bytes": int(found[2]),
        "shared_bytes": compiled.metadata.shared,
        "matrix_instructions": len(re.findall(r"\bHMMA", code)),
        "warpgroup_instructions": len(re.findall(r"\bHGMMA", code)),
        "barriers": len(re.findall(r"\bBAR\.", code)),
    }


def _output(*command: Path | str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    found = []
    for size in map(int, sys.argv[1:]):
        found.append(resources(device.inverse_kernel, size, host.WARPS_OF_INVERSE))
        found += [resources(walk, size, host.WARPS_OF_WALK) for walk in WALKS]
        found.append(resources(device.input_gradient_kernel, size, host.WARPS_OF_INPUT_GRADIENT[size]))
    print(json.dumps(found, indent=1))
