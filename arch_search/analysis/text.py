"""Words and numbers for people: short names, signed numbers, durations."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence

from arch_search.clean_text import one_line

MISSING = "–"
_BLOCKS = "▁▂▃▄▅▆▇█"


def short(text: str, columns: int) -> str:
    """At most `columns` columns of the text on one line, wide characters counted as two; cut with an ellipsis."""
    line = one_line(text)
    widths = [2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line]
    if sum(widths) <= columns:
        return line
    kept, used = [], 1
    for char, width in zip(line, widths, strict=True):
        if used + width > columns:
            break
        kept.append(char)
        used += width
    return "".join(kept).rstrip() + "…"


def number(value: float | None, digits: int = 3) -> str:
    """The value with a true minus sign; an en dash where it is missing or not finite."""
    if value is None or not math.isfinite(value):
        return MISSING
    # adding zero turns a rounded -0.0 into 0.0
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """The value with its sign."""
    text = number(value, digits)
    return text if text == MISSING or text.startswith("−") else f"+{text}"


def interval(low: float, high: float, digits: int = 3) -> str:
    """Both bounds in brackets; empty where there is no interval."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{signed(low, digits)}, {signed(high, digits)}]"


def p_value(value: float) -> str:
    return "<0.001" if value < 0.001 else number(value)


def percent(share: float) -> str:
    return f"{100 * share:.0f} %" if math.isfinite(share) else MISSING


def duration(seconds: float) -> str:
    """Seconds, minutes, hours or days, whichever reads best."""
    if not math.isfinite(seconds):
        return MISSING
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def count(amount: int, noun: str) -> str:
    """`1 program`, `3 programs`, `no programs`."""
    if amount == 0:
        return f"no {noun}s"
    return f"{amount} {noun}" if amount == 1 else f"{amount:,} {noun}s".replace(",", " ")


def sparkline(values: Sequence[float], columns: int = 40) -> str:
    """A curve as one line of blocks, low to high; values that are not finite are spaces."""
    if not values:
        return ""
    picked = [values[index * len(values) // min(columns, len(values))] for index in range(min(columns, len(values)))]
    finite = [value for value in picked if math.isfinite(value)]
    if not finite:
        return " " * len(picked)
    low, span = min(finite), (max(finite) - min(finite)) or 1.0
    return "".join(
        _BLOCKS[int((value - low) / span * (len(_BLOCKS) - 1))] if math.isfinite(value) else " " for value in picked
    )
