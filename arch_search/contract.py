"""What the framework must know to build, match and probe the programs of a domain; goes to jailed children as JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# where a block of the language model has room for a program
Place = Literal["token_mixer", "feed_forward"]
# what is measured beside the held-out loss, which always is
Probe = Literal["recall"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contract:
    """Which module of a program is used, where it is mounted, and what it is probed for.

    `class_name` is taken where a program defines several public modules; empty: there must be one alone. The place
    that the program leaves is filled by the SwiGLU of the language model, or, beside a feed-forward, by the class
    `mixer` names as `package.module:Class`.
    """

    class_name: str = ""
    place: Place = "token_mixer"
    mixer: str = ""
    probes: tuple[Probe, ...] = ("recall",)
