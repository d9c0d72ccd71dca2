"""The tracker: a dispatch mode that carries codes through every operator a module runs, without changing a value."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from arch_search.admission.certificate import elementwise
from arch_search.admission.certificate.operators import RULES
from arch_search.admission.certificate.rules import Arguments, Context, Mark, everything, tensors_in
from arch_search.admission.certificate.shadow import FIRST_TIME, FREE, Shadow
from arch_search.admission.certificate.spectra import Spectra
from arch_search.admission.dispatch_mode import DispatchMode

# what a program learns of its data by these decides what it does next
_READS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "bincount", "_unique2", "item")
_TRANSFORMS = ("_fft_r2c", "_fft_c2c", "_fft_c2r")


class Tracker(DispatchMode):
    """Codes of everything that runs inside `with tracker.watching():`.

    `operators` names all that ran, `unknown` those without a rule, `reads` the places where data reached Python,
    `mixed_at` the first line after which every element of a tensor depended on the last input.
    """

    def __init__(self, program_file: str, last_time: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shadow = Shadow()
        self.context = Context(shadow=self.shadow, spectra=Spectra())
        self.operators: set[str] = set()
        self.unknown: dict[str, str] = {}
        self.reads: list[str] = []
        self.read_codes = torch.zeros(2, dtype=torch.int16)
        self.mixed_at = ""
        self._program_file = program_file
        self._last_code = FIRST_TIME + last_time

    @contextmanager
    def watching(self) -> Iterator[None]:
        """tolist, numpy and data_ptr give data to Python past the dispatcher; they count as reads meanwhile."""
        names = ("tolist", "numpy", "__array__", "data_ptr")
        kept = {name: getattr(Tensor, name) for name in names}
        own = vars(Tensor).keys() & kept.keys()

        def wrapped(name: str) -> Any:
            def read(tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
                self._read([tensor], name)
                return kept[name](tensor, *args, **kwargs)

            return read

        for name in names:
            setattr(Tensor, name, wrapped(name))
        try:
            with self:
                yield
        finally:
            for name, method in kept.items():
                if name in own:
                    setattr(Tensor, name, method)
                else:  # inherited: put back as found, or it would seem that the program had added it
                    delattr(Tensor, name)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _bound(func, args, kwargs or {})
        name = func._schema.name.removeprefix("aten::")
        self.operators.add(name)
        operands = tensors_in(given)
        if name in _READS or _is_boolean_index(name, given):
            self._read(operands, name)
        marks = self._marks(func, name, given, operands)
        out = func(*args, **(kwargs or {}))
        outputs = tensors_in(out)
        if name in _TRANSFORMS or (name == "mul" and outputs and outputs[0].is_complex()):
            marks = self._spectral(name, given, outputs) or marks
        fresh = func._schema.is_mutable or not all(self.shadow.holds(one) for one in outputs)
        if fresh or marks is not None:
            self._write(func, name, given, operands, outputs, marks)
        return out

    def _marks(self, func: Any, name: str, given: Arguments, operands: list[Tensor]) -> list[Mark] | None:
        """What the rules say; None for views, for creations, and where no rule can."""
        if _is_view(func):
            return None
        base = name if name in RULES else name.rstrip("_")
        rule = RULES.get(base)
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = elementwise.pointwise
        if rule is None or not operands:
            return None
        try:
            return list(rule(self.context, func, given))
        except NotImplementedError:
            return None
        except (IndexError, RuntimeError):
            # the largest of no codes at all: whatever the operator makes of an empty tensor, it is made of the others
            if all(operand.numel() for operand in operands):
                raise
            return None

    def _write(
        self,
        func: Any,
        name: str,
        given: Arguments,
        operands: list[Tensor],
        outputs: list[Tensor],
        marks: list[Mark] | None,
    ) -> None:
        if marks is None or len(marks) < len(outputs):
            if _is_view(func):
                return
            if not operands:
                code = FREE if _is_random(func, name) else 0
                marks = [Mark(torch.full((2, *out.shape), code, dtype=torch.int16)) for out in outputs]
            else:
                marks = everything(self.context, operands, outputs)
                if any(bool((mark.codes >= FIRST_TIME).any()) for mark in marks):
                    self.unknown.setdefault(name, self._line())
                written = [tensor for tensor in operands if func._schema.is_mutable]
                for tensor in written:
                    worst = everything(self.context, operands, [tensor])[0]
                    self.shadow.write(tensor, torch.maximum(worst.codes, self.shadow.read(tensor)))
        for tensor, mark in zip(outputs, marks, strict=False):
            self.shadow.write(tensor, mark.codes, mark.masked)
            if not self.mixed_at and tensor.numel() and self._is_mixed(mark.codes):
                self.mixed_at = self._line()

    def _is_mixed(self, codes: Tensor) -> bool:
        return bool(codes.amax(dim=0).min() >= self._last_code)

    def _spectral(self, name: str, given: Arguments, outputs: list[Tensor]) -> list[Mark] | None:
        """Transforms keep the image in time; a spectrum that comes back gives its image's codes."""
        spectra, out = self.context.spectra, outputs[0]
        if name == "mul":
            a, b = given["self"], given["other"]
            if isinstance(b, Tensor) and not spectra.multiply(a, b, out):
                scalar, spectrum = (a, b) if a.numel() == 1 else (b, a)
                if scalar.numel() == 1 and bool(self.shadow.is_constant(scalar).all()):
                    spectra.scale(spectrum, out)
            return None
        source, (dim, *others) = given["self"], given["dim"]
        if others:
            return None
        if name == "_fft_r2c" or (name == "_fft_c2c" and given["forward"]):
            spectra.keep(out, dim, self.shadow.read(source), self.shadow.zeros(source))
            return None
        image = spectra.image(source, dim)
        if image is None or image.shape[-1] != out.shape[dim]:
            return None
        return [Mark(image.movedim(-1, dim % out.dim() + 1).clamp(min=FREE))]

    def _read(self, tensors: list[Tensor], how: str) -> None:
        found = self.shadow.latest(tensors)
        if bool((found >= FIRST_TIME).any()):
            self.reads.append(f"{how} at {self._line()}")
            self.read_codes = torch.maximum(self.read_codes, found)

    def _line(self) -> str:
        """The line of the program that is running, as 'line 12'."""
        frame = sys._getframe()
        while frame is not None:
            if frame.f_code.co_filename == self._program_file:
                return f"line {frame.f_lineno}"
            frame = frame.f_back  # type: ignore[assignment]
        return "a line outside the program"


def _bound(func: Any, args: Any, kwargs: Any) -> Arguments:
    """Arguments by the names of the schema, those left out with their defaults."""
    given: Arguments = {}
    for position, argument in enumerate(func._schema.arguments):
        if position < len(args) and not argument.kwarg_only:
            given[argument.name] = args[position]
        elif argument.name in kwargs:
            given[argument.name] = kwargs[argument.name]
        elif argument.has_default_value():
            given[argument.name] = argument.default_value
    return given


def _is_view(func: Any) -> bool:
    """Its output shares the storage of its operand without changing it."""
    if torch.Tag.inplace_view in func.tags:
        return True
    returns = func._schema.returns
    return bool(returns) and all(one.alias_info is not None and not one.alias_info.is_write for one in returns)


def _is_boolean_index(name: str, given: Arguments) -> bool:
    return name in ("index", "index_put", "index_put_") and any(
        tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors_in(given.get("indices"))
    )


def _is_random(func: Any, name: str) -> bool:
    return torch.Tag.nondeterministic_seeded in func.tags or name.startswith(("empty", "new_empty", "rand"))
