"""The shadow: beside every storage, for each of its elements, the latest input time it may depend on.

A code is CONSTANT (a known value that no input and no parameter can change), FREE (a parameter or a random number: free
of the input, its value not trusted) or `code_of(t)` for input time t. Two planes hold the codes for input row 0 and row
1 apart, so that rows that mix are seen as well. Codes join by maximum. Keyed by storage and read through size, stride
and offset, so that views, slices and aliasing need no rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

CONSTANT, FREE, FIRST_TIME = 0, 1, 2
FOREIGN = torch.iinfo(torch.int16).max  # of an earlier call: never allowed in an output
LARGE_NEGATIVE = -1e4  # added to a score, or put in its place: as good as minus infinity under a softmax
STILL_NEGATIVE = LARGE_NEGATIVE / 2  # what is left of one after further sums and scales


def code_of(time: int) -> int:
    return FIRST_TIME + time


@dataclass(slots=True)
class _Cell:
    """`codes` int16 [2, N] and `masked` bool [N] or None, for the N elements of one storage.

    `masked` marks values that are large and negative without being constant, as a score with -1e9 added. The storage
    is kept, so that its address is not given to another one.
    """

    storage: torch.UntypedStorage
    codes: Tensor
    masked: Tensor | None


class Shadow:
    """Codes of all tensors met; one not met before is a constant (buffers, tensors made outside)."""

    def __init__(self) -> None:
        self._cells: dict[int, _Cell] = {}

    def read(self, tensor: Tensor) -> Tensor:
        """Codes int16 [2, *tensor.shape]."""
        cell = self._cell(tensor)
        return torch.stack([self._through(plane, tensor).amax(dim=-1) for plane in cell.codes])

    def latest(self, tensors: Sequence[Tensor]) -> Tensor:
        """The latest code in any of the tensors: int16 [2], CONSTANT for none."""
        found = torch.full((2,), CONSTANT, dtype=torch.int16)
        for tensor in tensors:
            if tensor.numel():
                found = torch.maximum(found, self.read(tensor).reshape(2, -1).amax(dim=1))
        return found

    def masked(self, tensor: Tensor) -> Tensor:
        """Where the value is so large and negative that a softmax gives it nothing: bool of the tensor's shape."""
        cell = self._cell(tensor)
        known = self.is_constant(tensor) & (tensor.detach() <= LARGE_NEGATIVE) if _is_real(tensor) else None
        if cell.masked is None:
            return torch.zeros(tensor.shape, dtype=torch.bool) if known is None else known
        flagged = self._through(cell.masked, tensor).all(dim=-1)
        return flagged if known is None else flagged | known

    def is_constant(self, tensor: Tensor) -> Tensor:
        return (self.read(tensor) == CONSTANT).all(dim=0)

    def zeros(self, tensor: Tensor) -> Tensor:
        """Elements known to be zero whatever the input and the parameters are."""
        return self.is_constant(tensor) & (tensor.detach() == 0)

    def write(self, tensor: Tensor, codes: Tensor, masked: Tensor | None = None) -> None:
        cell = self._cell(tensor)
        for plane, given in zip(cell.codes, codes, strict=True):
            self._through(plane, tensor).copy_(given.expand(tensor.shape).unsqueeze(-1))
        if masked is not None and bool(masked.any()):
            if cell.masked is None:
                cell.masked = torch.zeros(cell.codes.shape[1], dtype=torch.bool)
            self._through(cell.masked, tensor).copy_(masked.expand(tensor.shape).unsqueeze(-1))
        elif cell.masked is not None:
            self._through(cell.masked, tensor).zero_()

    def holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._cells

    def mark_parameters(self, module: nn.Module) -> None:
        for parameter in module.parameters():
            self.write(parameter.detach(), torch.full((2, *parameter.shape), FREE, dtype=torch.int16))

    def mark_input(self, x: Tensor) -> None:
        """x [2, T, D]: row r at time t gets code_of(t) in plane r and FREE in the other plane."""
        codes = torch.full((2, *x.shape), FREE, dtype=torch.int16)
        times = torch.arange(code_of(0), code_of(x.shape[1]), dtype=torch.int16)[:, None]
        for row in range(2):
            codes[row, row] = times
        self.write(x, codes)

    def make_foreign(self) -> None:
        """What depends on an input belongs to an earlier call from now on."""
        for cell in self._cells.values():
            cell.codes[cell.codes >= FIRST_TIME] = FOREIGN

    def _cell(self, tensor: Tensor) -> _Cell:
        storage = tensor.untyped_storage()
        cell = self._cells.get(storage._cdata)
        if cell is None:
            count = storage.nbytes() // tensor.element_size()
            cell = _Cell(storage, torch.full((2, count), CONSTANT, dtype=torch.int16), None)
            self._cells[storage._cdata] = cell
        finer = storage.nbytes() // tensor.element_size() // max(1, cell.codes.shape[1])
        if finer > 1:  # a complex storage looked at as its real and imaginary parts
            cell.codes = cell.codes.repeat_interleave(finer, dim=1)
            cell.masked = None if cell.masked is None else cell.masked.repeat_interleave(finer)
        return cell

    @staticmethod
    def _through(plane: Tensor, tensor: Tensor) -> Tensor:
        """The part of a plane that the tensor covers, [*tensor.shape, F]: a complex element covers F = 2 real ones."""
        F = plane.shape[0] * tensor.element_size() // max(1, tensor.untyped_storage().nbytes())
        strides = [stride * F for stride in tensor.stride()]
        start = plane.storage_offset() + tensor.storage_offset() * F
        return plane.as_strided((*tensor.shape, F), (*strides, 1), start)


def _is_real(tensor: Tensor) -> bool:
    return not tensor.is_complex() and tensor.dtype is not torch.bool
