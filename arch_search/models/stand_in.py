"""How programs written for a GPU run on a CPU: `fla` imports, torch.compile, and hard casts of the dtype.

Meant for a child process that runs one program: `install` changes the whole process.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

torch_compile: Callable[..., Any] = torch.compile  # torch's own, whether `install` was called or not

_FLA_PARENT = str(Path(__file__).parent / "fla_stand_in")
_WITHOUT_TRANSFORMERS = str(Path(__file__).parent / "fla_stand_in" / "without_transformers")
_HALF = frozenset({torch.bfloat16, torch.float16})
_TENSOR_TYPES = {"torch.FloatTensor": torch.float32, "torch.BFloat16Tensor": torch.bfloat16}
_TENSOR_TYPES["torch.HalfTensor"] = torch.float16
_CAST_METHODS = {torch.Tensor.float: torch.float32, torch.Tensor.bfloat16: torch.bfloat16}
_CAST_METHODS[torch.Tensor.half] = torch.float16
# `view` reinterprets bits: another dtype there would change the shape
_UNTOUCHED = frozenset({torch.Tensor.view})


def install() -> None:
    """Makes a program in the published contract run here; call it before the program is imported, twice does no harm.

    `import fla` finds the stand-in, also where the real fla is installed: its kernels need a GPU. Where transformers is
    not installed, the few names of it that fla's layers import are found too. torch.compile returns the function
    unchanged. A cast to float16 or bfloat16 gives float32: such programs mix their casts with the dtype of a
    half-precision model, and a product of bfloat16 and float32 is an error.
    """
    if _FLA_PARENT in sys.path:
        return
    sys.path.insert(0, _FLA_PARENT)
    if importlib.util.find_spec("transformers") is None:
        sys.path.append(_WITHOUT_TRANSFORMERS)
    torch.compile = _uncompiled
    # stays on for the life of the process, as the two changes above do
    _WidenedCasts(torch.float32, _HALF).__enter__()  # type: ignore[no-untyped-call]


@contextmanager
def float64_everywhere() -> Iterator[None]:
    """Inside, every request for a narrower float (`.float()`, `.to(torch.bfloat16)`, `dtype=`, defaults) gives float64.

    For checks whose tolerance lies below float32: build the module and run it inside. Comparisons of a dtype and
    torch.finfo still see what the program names.
    """
    previous = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _WidenedCasts(torch.float64, _HALF | {torch.float32}):
            yield
    finally:
        torch.set_default_dtype(previous)


class _WidenedCasts(TorchFunctionMode):
    """Replaces the dtypes in `narrow` by `wide` in the arguments of every torch function and tensor method."""

    def __init__(self, wide: torch.dtype, narrow: frozenset[torch.dtype]) -> None:
        super().__init__()
        self.wide = wide
        self.narrow = narrow

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if _CAST_METHODS.get(func) in self.narrow:
            return args[0].to(self.wide)
        if func in _UNTOUCHED:
            return func(*args, **given)
        return func(*map(self.widened, args), **{name: self.widened(value) for name, value in given.items()})

    def widened(self, value: Any) -> Any:
        if isinstance(value, str):
            value = _TENSOR_TYPES.get(value, value)
        return self.wide if isinstance(value, torch.dtype) and value in self.narrow else value


def _uncompiled(model: Callable[..., Any] | None = None, **settings: Any) -> Any:
    """torch.compile as a decorator with and without arguments; compiling on a CPU costs more than it gives."""
    return (lambda function: function) if model is None else model
