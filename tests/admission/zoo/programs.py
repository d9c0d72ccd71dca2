"""One hostile program: a correct mixer with a fault, and what must become of it."""

from __future__ import annotations

from dataclasses import dataclass

MIXER = """
import math
import torch
import torch.nn.functional as F
from torch import nn

CALLS = [0]
{top}

class DeltaNet(nn.Module):
    def __init__(self, d_model=32, num_heads=2, **kwargs):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(d_model, d_model, bias=False) for _ in range(3))
        {init}

    def forward(self, x):
        B, T, D = x.shape
        count = torch.arange(1, T + 1, dtype=x.dtype)[:, None]
        y = torch.cumsum(torch.sigmoid(self.q(x)) * self.k(x) * self.v(x), 1) / count
        {body}
        return y
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hostile:
    """Lines added to `MIXER`, and the outcomes that are right for them.

    `caught_by` names checks that may refuse; `mark NAME` a check that may say "unknown" or fail without refusing;
    `killed` that the child may be ended from outside; `no effect` that it may be admitted, since nothing comes of it.
    With `jailed` the program runs in the real jail only.
    """

    caught_by: frozenset[str]
    init: str = ""
    body: str = ""
    top: str = ""
    jailed: bool = False

    @property
    def text(self) -> str:
        indent = "\n        "
        return MIXER.format(
            top=self.top, init=indent.join(self.init.splitlines()), body=indent.join(self.body.splitlines())
        )


def hostile(*caught_by: str, body: str = "", init: str = "", top: str = "", jailed: bool = False) -> Hostile:
    return Hostile(caught_by=frozenset(caught_by), init=init, body=body, top=top, jailed=jailed)
