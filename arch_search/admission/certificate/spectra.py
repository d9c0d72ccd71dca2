"""Spectra: beside a transformed tensor, the codes it had in time, so that a causal filter applied by FFT can be proved.

A transform mixes every time into every frequency, yet the product of two spectra is a circular convolution in time. As
long as a spectrum is only multiplied by another or by a number, its image in time stays known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_NONE = -1  # in an image: known to be zero
_MOST_PAIRS = 64


@dataclass(slots=True)
class _Image:
    """Codes in time, int16 [2, *lead, N] with _NONE for known zeros; `shape` of the spectrum they belong to."""

    storage: torch.UntypedStorage
    shape: torch.Size
    dim: int  # transformed dimension of the spectrum, counted from the end
    codes: Tensor


class Spectra:
    def __init__(self) -> None:
        self._images: dict[int, _Image] = {}

    def keep(self, spectrum: Tensor, dim: int, codes: Tensor, zeros: Tensor) -> None:
        """`codes` [2, *shape] and `zeros` [*shape] of the tensor in time, transformed along `dim`."""
        back = dim % spectrum.dim() - spectrum.dim()
        in_time = codes.masked_fill(zeros, _NONE).movedim(back, -1)
        self._put(spectrum, back, in_time)

    def image(self, spectrum: Tensor, dim: int) -> Tensor | None:
        """Codes in time [2, *lead, N] with the transformed dimension last, or None where they are not known."""
        found = self._images.get(spectrum.untyped_storage()._cdata)
        back = dim % spectrum.dim() - spectrum.dim()
        if found is None or found.shape.numel() != spectrum.numel():
            return None
        with_ones = [size for size in spectrum.shape if size != 1]
        if with_ones != [size for size in found.shape if size != 1] or spectrum.shape[back] != found.shape[found.dim]:
            return None
        lead = spectrum.movedim(back, -1).shape[:-1]
        return found.codes.reshape(2, *lead, found.codes.shape[-1])

    def multiply(self, a: Tensor, b: Tensor, product: Tensor) -> bool:
        """Keep the image of a product of two spectra; whether there is one."""
        for back in range(-1, -product.dim() - 1, -1):
            if -back > a.dim() or -back > b.dim():
                return False
            left, right = self._along(a, back), self._along(b, back)
            if left is None or right is None or left.shape[-1] != right.shape[-1]:
                continue
            lead = torch.Size(torch.broadcast_shapes(left.shape[1:-1], right.shape[1:-1]))  # type: ignore[no-untyped-call]
            convolved = _circular(left.expand(2, *_fit(left, lead)), right.expand(2, *_fit(right, lead)), lead)
            if convolved is None:
                return False
            self._put(product, back, convolved)
            return True
        return False

    def scale(self, source: Tensor, scaled: Tensor) -> None:
        found = self._images.get(source.untyped_storage()._cdata)
        if found is not None and source.shape == scaled.shape:
            codes = self.image(source, found.dim)
            if codes is not None:
                self._put(scaled, found.dim, codes)

    def _along(self, spectrum: Tensor, back: int) -> Tensor | None:
        found = self._images.get(spectrum.untyped_storage()._cdata)
        return None if found is None or found.dim != back else self.image(spectrum, back)

    def _put(self, spectrum: Tensor, back: int, codes: Tensor) -> None:
        storage = spectrum.untyped_storage()
        self._images[storage._cdata] = _Image(storage, spectrum.shape, back, codes)


def _fit(codes: Tensor, lead: torch.Size) -> tuple[int, ...]:
    return (*lead, codes.shape[-1])


def _circular(left: Tensor, right: Tensor, lead: torch.Size) -> Tensor | None:
    """out[t] = join of left[i], right[j] over i + j = t modulo N; equal rows are computed once."""
    N = left.shape[-1]
    rows_a, which_a = torch.unique(left.reshape(-1, N), dim=0, return_inverse=True)
    rows_b, which_b = torch.unique(right.reshape(-1, N), dim=0, return_inverse=True)
    pairs, which = torch.unique(torch.stack([which_a, which_b], dim=1), dim=0, return_inverse=True)
    if len(pairs) > _MOST_PAIRS:
        return None
    found = torch.stack([_circular_row(rows_a[i], rows_b[j]) for i, j in pairs.tolist()])
    return found[which].reshape(2, *lead, N)


def _circular_row(a: Tensor, b: Tensor) -> Tensor:
    out = torch.full_like(a, _NONE)
    for shift, code in enumerate(b.tolist()):
        if code != _NONE:
            moved = a.roll(shift)
            out = torch.maximum(out, torch.where(moved == _NONE, _NONE, moved.clamp(min=code)))
    return out
