"""Where there is no GPU, Triton kernels run in its interpreter, which must be chosen before they are imported."""

from __future__ import annotations

import os
from typing import Any

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

    import triton.language as tl
    from triton.runtime import interpreter

    multiplied = interpreter.InterpreterBuilder.create_dot

    def create_dot(builder: Any, a: Any, b: Any, *rest: Any) -> Any:
        """The product of bfloat16 as of float32: the interpreter multiplies the integers that it stores them as."""
        wide = [builder.cast_impl(x, tl.float32) if x.dtype.scalar == tl.bfloat16 else x for x in (a, b)]
        return multiplied(builder, *wide, *rest)

    interpreter.InterpreterBuilder.create_dot = create_dot
