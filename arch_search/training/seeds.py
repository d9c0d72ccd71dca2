"""Seeds: one number per purpose, derived from a task's seed, so that no stream depends on another."""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed that follows from `seed` and the words of `purpose`, the same on every machine."""
    text = "/".join(str(word) for word in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
