"""What the operators share: sequences packed into one row, keywords that nothing here can honour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from kernels.common import Result

_HONOURED = frozenset({"state_v_first", "chunk_size"})


def segments(x: Tensor, states: Tensor | None, cu_seqlens: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Each sequence of x [B, T, ...] with its first state: the whole batch, or the parts of one row by `cu_seqlens`."""
    if cu_seqlens is None:
        yield x, states
        return
    bounds = cu_seqlens.tolist()
    for n, (start, stop) in enumerate(pairwise(bounds)):
        yield x[:, start:stop], None if states is None else states[n : n + 1]


def run(
    operator: Callable[..., Result],
    inputs: dict[str, Tensor],
    *,
    scale: float | None,
    initial_state: Tensor | None,
    output_final_state: bool,
    cu_seqlens: Tensor | None,
    unused: dict[str, Any],
) -> tuple[Tensor, Tensor | None]:
    """fla's pair (output [B, T, H, V], last state [N, H, K, V] or None) of one of our operators.

    In `unused`, `state_v_first` is honoured (both states are then [N, H, V, K]) and `chunk_size` changes nothing here.
    """
    v_first = bool(unused.get("state_v_first"))
    initial_state = initial_state.mT if v_first and initial_state is not None else initial_state
    asked = sorted(
        name for name, value in unused.items() if value is not None and value is not False and name not in _HONOURED
    )
    if asked:
        raise NotImplementedError(f"the CPU stand-in of fla has no {asked[0]}; leave it out or run on a GPU with fla")
    cut = {name: list(segments(x, initial_state, cu_seqlens)) for name, x in inputs.items()}
    firsts = [first for _, first in next(iter(cut.values()))]
    parts = [
        operator(**{name: pieces[n][0] for name, pieces in cut.items()}, scale=scale, initial_state=first)
        for n, first in enumerate(firsts)
    ]
    output = torch.cat([part.output for part in parts], dim=0 if cu_seqlens is None else 1)
    last = torch.cat([part.state for part in parts]) if output_final_state else None
    return output, last.mT if v_first and last is not None else last
