"""Findings: what `arch-search doctor` looked at, one line each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at; `good` False means that something named in `text` will not work.

    `needed`: nothing works without it, so doctor exits with 1.
    """

    topic: str
    good: bool
    text: str
    needed: bool = False

    def line(self) -> str:
        return f"{'ok ' if self.good else 'no '} {self.topic:<10} {self.text}"
