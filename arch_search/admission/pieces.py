"""The child that watches functions of a program at work: `python -m arch_search.admission.pieces FOLDER`, in a jail.

For each function: whether it turns one tensor into another of the same layout, and how far what would be copied into
programs is from every primitive that there is. The program runs in this process, so the answer is its word.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from arch_search.admission.request import PROGRAM_FILE, REPORT_FILE, REQUEST_FILE, PieceReport, PieceRequest, PieceSeen
from arch_search.admission.subject import Subject, call, draw
from arch_search.models.loading import load_mixer_class
from arch_search.models.stand_in import install
from arch_search.models.toolbox import functions
from cognition_db.records import from_json, to_json

_B, _T = 3, 11  # unlike any other size, so that a shape tells the layout
_PROBE = (3, 2, 40, 16)  # B, H, T, d of the comparison with other primitives
_PAST = 5  # the token that is changed to see whether later ones notice

Shapes = set[tuple[tuple[int, ...], tuple[int, ...]]]  # of what a function was given, and of what it gave


def main(folder: Path) -> int:
    torch.set_num_threads(1)
    install()
    request = from_json(PieceRequest, json.loads((folder / REQUEST_FILE).read_text()))
    shapes = _watched(folder / PROGRAM_FILE, request)
    sizes = {
        "BHTd": (_B, request.n_heads, _T, request.d_model // request.n_heads),
        "BTHd": (_B, _T, request.n_heads, request.d_model // request.n_heads),
        "BTD": (_B, _T, request.d_model),
    }
    seen = []
    for place, sources in zip(request.places, request.sources, strict=True):
        found = [name for name, size in sizes.items() if (size, size) in shapes[place] and name in sources]
        try:
            seen.append(_compared(found[0], sources[found[0]], request) if found else PieceSeen())
        # what runs is a model's text and may raise anything; then it is no primitive
        except Exception:
            seen.append(PieceSeen())
    (folder / REPORT_FILE).write_text(json.dumps(to_json(PieceReport(seen=tuple(seen)))))
    return 0


def _watched(program: Path, request: PieceRequest) -> Mapping[str, Shapes]:
    """The shapes that each function met in one forward pass of its program."""
    mixer = load_mixer_class(program, request.class_name or None, default_class=request.default_class)
    shapes: dict[str, Shapes] = {place: set() for place in request.places}
    for place, argument in zip(request.places, request.arguments, strict=True):
        _watch(sys.modules[mixer.__module__], place, argument, shapes[place])
    subject = Subject(mixer=mixer, d_model=request.d_model, n_heads=request.n_heads)
    call(subject.build(), draw(_B, _T, request.d_model, seed=5), grad=False)
    return shapes


def _watch(module: object, place: str, argument: str, shapes: Shapes) -> None:
    *path, name = place.split(".")
    owner: Any = module
    for part in path:
        owner = getattr(owner, part)
    there = vars(owner)[name]
    function: Callable[..., Any] = there.__func__ if isinstance(there, staticmethod) else there
    signature = inspect.signature(function)

    @wraps(function)
    def watched(*given: Any, **named: Any) -> Any:
        result = function(*given, **named)
        value = signature.bind(*given, **named).arguments.get(argument)
        if isinstance(value, Tensor) and isinstance(result, Tensor):
            shapes.add((tuple(value.shape), tuple(result.shape)))
        return result

    setattr(owner, name, staticmethod(watched) if isinstance(there, staticmethod) else watched)


def _compared(layout: str, source: str, request: PieceRequest) -> PieceSeen:
    space = {**vars(functions), "torch": torch, "F": F, "Tensor": Tensor}
    for text in (*request.grown, source):
        exec(compile(text, "piece", "exec"), space)
    name = source.removeprefix("def ").partition("(")[0]
    v = torch.randn(_PROBE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    other = v.clone()
    other[:, :, _PAST] *= 2
    with torch.no_grad():
        own = space[name](v.clone())
        moved = (space[name](other) - own)[:, :, _PAST + 1 :].abs().max()
        distances = {one: _distance(own, eval(one, space, {"v": v})) for one in ("v", *request.calls)}
    nearest = min(distances, key=distances.__getitem__)
    return PieceSeen(layout=layout, reads_past=bool(moved > 0), nearest=nearest, distance=distances[nearest])


def _distance(one: Tensor, other: Tensor) -> float:
    """Of the two, each scaled to unit length and turned to the same side: a constant factor is no difference."""
    first, second = (value.double().flatten() / value.double().norm().clamp(min=1e-300) for value in (one, other))
    return float(torch.minimum((first - second).norm(), (first + second).norm()))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
