"""Drawing in SVG: escaped elements, scales, axes. What goes in may come from a model; nothing comes out unescaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from arch_search.clean_text import clean


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A straight map from data to pixels; values outside the data range are moved to its edge."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        inside = min(max(value, self.low), self.high)
        return self.start + (inside - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int = 6) -> list[float]:
        """Round numbers inside the range, `about` as many as asked."""
        raw = (self.high - self.low) / about
        magnitude = 10.0 ** math.floor(math.log10(raw))
        step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= raw * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [index * step for index in range(first, last + 1)]

    def label(self, tick: float) -> str:
        """The tick with as many digits as its neighbours need."""
        ticks = self.ticks()
        step = ticks[1] - ticks[0] if len(ticks) > 1 else 1.0
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return f"{tick + 0.0:.{digits}f}".replace("-", "−")


def padded(values: Sequence[float], *, share: float = 0.05) -> tuple[float, float]:
    """Range of the finite values with a margin; never empty."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    margin = (high - low) * share or max(abs(high) * share, 1e-3)
    return low - margin, high + margin


def element(name: str, *children: str | Markup, **attributes: str | float) -> Markup:
    """One element. Attribute names: `class_` gives class, `stroke_width` gives stroke-width. Children are escaped."""
    written = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _value(value)) for key, value in attributes.items()
    )
    inside = Markup("").join(escape(child if isinstance(child, Markup) else clean(child)) for child in children)
    return Markup("<{}{}>{}</{}>").format(name, written, inside, name)


def text(x: float, y: float, words: str, **attributes: str | float) -> Markup:
    return element("text", words, x=x, y=y, **attributes)


def line(x1: float, y1: float, x2: float, y2: float, **attributes: str | float) -> Markup:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, **attributes)


def titled(title: str, *children: Markup, **attributes: str | float) -> Markup:
    """A group whose title shows when the pointer rests on it."""
    return element("g", element("title", title), *children, **attributes)


def picture(width: float, height: float, *children: Markup, title: str) -> Markup:
    """A whole drawing that shrinks with the page and never grows past its own width."""
    return element(
        "svg",
        *children,
        viewBox=f"0 0 {_value(width)} {_value(height)}",
        width=width,
        height=height,
        role="img",
        aria_label=title,
    )


def marker(shape: str, x: float, y: float, *, fill: str, size: float = 5.0) -> Markup:
    """A circle, square or diamond around a point; any other shape is a circle."""
    if shape == "square":
        return element("rect", x=x - size, y=y - size, width=2 * size, height=2 * size, fill=fill)
    if shape == "diamond":
        far = size * 1.35
        points = f"{x:.1f},{y - far:.1f} {x + far:.1f},{y:.1f} {x:.1f},{y + far:.1f} {x - far:.1f},{y:.1f}"
        return element("polygon", points=points, fill=fill)
    return element("circle", cx=x, cy=y, r=size, fill=fill)


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return clean(value)
    return f"{value:.1f}".removesuffix(".0")
