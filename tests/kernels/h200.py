"""What the compile scripts beside it share: kernels compiled for an H200, for which no GPU is needed, and looked at."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TARGET = GPUTarget("cuda", 90, 32)
_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a thread takes: registers, and bytes of memory for what does not fit in them."""

    registers: int
    stack_bytes: int
    local_bytes: int


def compiled(
    function: Any, signature: dict[str, str], constants: dict[str, Any], *, aligned: list[str], options: dict[str, Any]
) -> Any:
    """The kernel of a signature; addresses of the `aligned` arguments are multiples of 16."""
    names = function.arg_names
    source = ASTSource(
        function,
        signature,
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    return triton.compile(source, target=TARGET, options=options)


def usage(cubin: bytes) -> Usage:
    with _file(cubin) as path:
        found = re.search(
            r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", _output("cuobjdump", "--dump-resource-usage", path)
        )
    assert found is not None
    return Usage(registers=int(found[1]), stack_bytes=int(found[2]), local_bytes=int(found[3]))


def instructions(cubin: bytes) -> str:
    """The machine code as text."""
    with _file(cubin) as path:
        return _output("nvdisasm", "-c", path)


@contextmanager
def _file(cubin: bytes) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        yield file.name


def _output(tool: str, *arguments: str) -> str:
    return subprocess.run([str(_TOOLS / tool), *arguments], capture_output=True, text=True, check=True).stdout
