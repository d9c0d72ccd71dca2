"""Mends the interpreter of Triton, in which the kernels run where there is no GPU (tests/conftest.py chooses it)."""

from __future__ import annotations

import os
from typing import Any

if os.environ.get("TRITON_INTERPRET") == "1":
    import triton.language as tl
    from triton.runtime import interpreter

    multiplied = interpreter.InterpreterBuilder.create_dot

    def create_dot(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
        """The product of bfloat16 as of float32: the interpreter multiplies the integers that it stores them as."""
        wide = [builder.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b)]
        return multiplied(builder, *wide, *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot
