"""Figures of the report: intervals with the noise band, learning curves. Each returns one inline SVG."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from arch_search.analysis import svg
from arch_search.analysis.statistics import Standing
from arch_search.analysis.text import interval, number, short, signed
from cognition_db.records import Evaluation

BETTER, WORSE, NEUTRAL, PLACEBO, BASELINE, REFERENCE = (
    "#1a7f5a", "#b4540a", "#6b7785", "#7c4dbd", "#2563b0", "#111827",
)  # fmt: skip
_GRID, _AXIS = "#e3e8ee", "#8a96a3"
_BANDS = ("#e2e7ee", "#f2f4f7")
_CURVE_COLOURS = ("#1a7f5a", "#d1495b", "#0e7c9e", "#c77700", "#7c4dbd", "#2563b0", "#8d6e4f", "#b23a8e")
_CURVE_POINTS = 80
_WIDTH = 1040.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IntervalRow:
    """One line of an interval figure; `low` and `high` may be NaN, then only the point is drawn."""

    label: str
    value: float
    low: float
    high: float
    colour: str
    shape: str
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Training loss of one program, mean over its seeds, at optimiser steps."""

    candidate_id: str
    steps: tuple[int, ...]
    loss: tuple[float, ...]


def colour_of(standing: Standing, reference_id: str) -> str:
    """Verdict colours for what the search made, fixed ones for what it is measured against."""
    if standing.candidate_id == reference_id:
        return REFERENCE
    if standing.arm == "placebo":
        return PLACEBO
    if standing.arm == "baseline":
        return BASELINE
    return {"better": BETTER, "worse": WORSE}.get(standing.verdict, NEUTRAL)


def shape_of(standing: Standing) -> str:
    return {"placebo": "square", "baseline": "diamond"}.get(standing.arm, "circle")


def interval_row(standing: Standing, reference_id: str) -> IntervalRow:
    """The line of one program, marked by its verdict."""
    return IntervalRow(
        label=standing.name
        if standing.arm == "baseline"
        else f"{short(standing.name, 29)} {standing.candidate_id[:4]}",
        value=standing.improvement,
        low=standing.low,
        high=standing.high,
        colour=colour_of(standing, reference_id),
        shape=shape_of(standing),
        title=hover(standing),
    )


def hover(standing: Standing) -> str:
    """What a pointer resting on a program shows."""
    return (
        f"{short(standing.name, 80)}\n{standing.candidate_id} · {standing.arm} · generation {standing.generation}\n"
        f"{standing.verdict.replace('_', ' ')}: {signed(standing.improvement)} {interval(standing.low, standing.high)}"
        f"\nmean {number(standing.mean)} over n = {standing.n}"
    )


def intervals(rows: Sequence[IntervalRow], *, bands: Sequence[float], axis: str) -> Markup:
    """One row per program: point, interval, numbers. `bands`: half widths around zero to shade, inner first."""
    if not rows:
        return Markup("")
    row_height, left, right, top = 24.0, 250.0, 830.0, 14.0
    bottom = top + row_height * len(rows)
    scale = _interval_scale(rows, max(bands, default=0.0), left, right)
    drawn = [*_interval_axis(scale, top, bottom, bands, axis)]
    for index, row in enumerate(rows):
        drawn.append(_interval_line(row, scale, top + row_height * (index + 0.5)))
    return svg.picture(_WIDTH, bottom + 46, *drawn, title=axis)


def _interval_scale(rows: Sequence[IntervalRow], half: float, left: float, right: float) -> svg.Scale:
    """Range around zero. A program far below the others is cut off, so that the rest stays readable."""
    values = [value for row in rows for value in (row.value, row.low, row.high) if math.isfinite(value)]
    high = max([0.0, half, *values])
    reach = 4.0 * max(high, half) or math.inf
    low = min([0.0, -half, *[max(value, -reach) for value in values]])
    low, high = svg.padded([low, high])
    return svg.Scale(low=low, high=high, start=left, end=right)


def _interval_axis(scale: svg.Scale, top: float, bottom: float, bands: Sequence[float], axis: str) -> list[Markup]:
    drawn = []
    for half, shade in reversed(list(zip(bands, _BANDS, strict=False))):
        start, end = scale(-half), scale(half)
        drawn.append(svg.element("rect", x=start, y=top, width=end - start, height=bottom - top, fill=shade))
        for edge in (start, end):
            drawn.append(svg.line(edge, top, edge, bottom, stroke=_AXIS, stroke_width=1, stroke_dasharray="3 3"))
    for tick in scale.ticks():
        x = scale(tick)
        drawn.append(svg.line(x, top, x, bottom, stroke=_AXIS if abs(tick) < 1e-12 else _GRID))
        drawn.append(svg.text(x, bottom + 17, scale.label(tick), text_anchor="middle", class_="tick"))
    middle = (scale.start + scale.end) / 2
    drawn.append(svg.text(middle, bottom + 38, axis, text_anchor="middle", class_="axis"))
    return drawn


def _interval_line(row: IntervalRow, scale: svg.Scale, y: float) -> Markup:
    parts = [svg.text(scale.start - 14, y + 4, short(row.label, 34), text_anchor="end")]
    numbers = f"{signed(row.value)} {interval(row.low, row.high)}"
    if math.isfinite(row.low) and row.low < row.high:
        parts.append(svg.line(scale(row.low), y, scale(row.high), y, stroke=row.colour, stroke_width=2))
    if math.isfinite(row.value) and row.value < scale.low:
        x = scale.start
        parts.append(
            svg.element(
                "polygon", points=f"{x:.1f},{y:.1f} {x + 9:.1f},{y - 5:.1f} {x + 9:.1f},{y + 5:.1f}", fill=row.colour
            )
        )
    elif math.isfinite(row.value):
        parts.append(svg.marker(row.shape, scale(row.value), y, fill=row.colour))
    else:
        numbers = "not measured"
    if row.low == row.high:
        numbers = "reference"
    parts.append(svg.text(scale.end + 14, y + 4, numbers, class_="number"))
    return svg.titled(row.title, *parts)


def mean_curves(evaluations: Sequence[Evaluation]) -> tuple[Curve, ...]:
    """Mean training loss over seeds at each step that was logged; not finite values left out; thinned for drawing."""
    logged: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for evaluation in evaluations:
        for step, loss in zip(evaluation.curve_steps, evaluation.curve_loss, strict=False):
            if math.isfinite(loss):
                logged[evaluation.task.candidate_id][step].append(loss)
    curves = []
    for key, by_step in logged.items():
        steps = sorted(by_step)
        stride = max(1, math.ceil(len(steps) / _CURVE_POINTS))
        # the last step is kept whatever the stride: it is the result
        kept = sorted({*steps[::stride], steps[-1]})
        means = tuple(math.fsum(by_step[step]) / len(by_step[step]) for step in kept)
        curves.append(Curve(candidate_id=key, steps=tuple(kept), loss=means))
    return tuple(curves)


def learning_curves(curves: Sequence[Curve], standings: Sequence[Standing], *, reference_id: str) -> Markup:
    """All curves on one pair of axes: the reference black, the best coloured, baselines dashed, the others grey."""
    if not curves:
        return Markup("")
    by_id = {curve.candidate_id: curve for curve in curves}
    drawn_rows = [row for row in standings if row.candidate_id in by_id]
    styles = _curve_styles(drawn_rows, reference_id)
    left, right, top, bottom = 56.0, 760.0, 14.0, 380.0
    x_scale = svg.Scale(low=0.0, high=max(1.0, *(curve.steps[-1] for curve in curves)), start=left, end=right)
    y_scale = _loss_scale(curves, start=bottom, end=top)
    parts = _curve_axes(x_scale, y_scale)
    plain = [row for row in drawn_rows if row.candidate_id not in styles]
    highlighted = [row for row in reversed(drawn_rows) if row.candidate_id in styles]
    for row in [*plain, *highlighted]:
        colour, dash = styles.get(row.candidate_id, ("#ccd3da", ""))
        width = 1.0 if row.candidate_id not in styles else 2.0
        parts.append(_curve_line(by_id[row.candidate_id], row, x_scale, y_scale, (colour, dash, width)))
    named = [row for row in drawn_rows if row.candidate_id in styles]
    parts += _curve_legend(named, styles, right + 24, top + 10, others=len(plain))
    return svg.picture(_WIDTH, bottom + 48, *parts, title="Training loss over optimiser steps")


def _curve_styles(rows: Sequence[Standing], reference_id: str) -> dict[str, tuple[str, str]]:
    """Colour and dash of the curves worth a name: the reference, the six best of the search, five baselines."""
    found = [row for row in rows if row.arm not in ("baseline", "placebo")][:6]
    baselines = [row for row in rows if row.arm == "baseline" and row.candidate_id != reference_id][:5]
    styles = {row.candidate_id: (_CURVE_COLOURS[index], "") for index, row in enumerate(found)}
    greys = ("#4b5563", "#7b8794", "#2563b0", "#5b7fb5", "#94a3b8")
    styles |= {row.candidate_id: (greys[index], "6 4") for index, row in enumerate(baselines)}
    styles[reference_id] = (REFERENCE, "")
    return styles


def _loss_scale(curves: Sequence[Curve], *, start: float, end: float) -> svg.Scale:
    """Range of the losses; a curve that blows up leaves through the top instead of flattening the others."""
    first = sorted(curve.loss[0] for curve in curves)
    ceiling = 1.25 * first[len(first) // 2]
    low, high = svg.padded([min(loss, ceiling) for curve in curves for loss in curve.loss])
    return svg.Scale(low=max(0.0, low), high=high, start=start, end=end)


def _curve_axes(x_scale: svg.Scale, y_scale: svg.Scale) -> list[Markup]:
    parts = []
    for tick in y_scale.ticks():
        y = y_scale(tick)
        parts.append(svg.line(x_scale.start, y, x_scale.end, y, stroke=_GRID))
        parts.append(svg.text(x_scale.start - 8, y + 4, y_scale.label(tick), text_anchor="end", class_="tick"))
    for tick in x_scale.ticks():
        parts.append(
            svg.text(x_scale(tick), y_scale.start + 18, x_scale.label(tick), text_anchor="middle", class_="tick")
        )
    parts.append(svg.line(x_scale.start, y_scale.start, x_scale.end, y_scale.start, stroke=_AXIS))
    middle = (x_scale.start + x_scale.end) / 2
    parts.append(svg.text(middle, y_scale.start + 40, "optimiser step", text_anchor="middle", class_="axis"))
    parts.append(svg.text(x_scale.start + 8, y_scale.end + 12, "training loss, nats per token", class_="axis"))
    return parts


def _curve_line(
    curve: Curve, row: Standing, x_scale: svg.Scale, y_scale: svg.Scale, style: tuple[str, str, float]
) -> Markup:
    colour, dash, width = style
    points = " ".join(
        f"{x_scale(step):.1f},{y_scale(loss):.1f}" for step, loss in zip(curve.steps, curve.loss, strict=True)
    )
    path = svg.element(
        "polyline", points=points, fill="none", stroke=colour, stroke_width=width, stroke_dasharray=dash or "none"
    )
    return svg.titled(f"{hover(row)}\nlast training loss {number(curve.loss[-1])}", path)


def _curve_legend(
    rows: Sequence[Standing], styles: Mapping[str, tuple[str, str]], x: float, y: float, *, others: int
) -> list[Markup]:
    parts = []
    for index, row in enumerate(rows):
        colour, dash = styles[row.candidate_id]
        at = y + 22 * index
        parts.append(svg.line(x, at, x + 26, at, stroke=colour, stroke_width=2.5, stroke_dasharray=dash or "none"))
        parts.append(svg.titled(hover(row), svg.text(x + 34, at + 4, short(row.name, 30))))
    if others:
        at = y + 22 * len(rows)
        parts.append(svg.line(x, at, x + 26, at, stroke="#ccd3da", stroke_width=1.5))
        parts.append(svg.text(x + 34, at + 4, f"{others} others", class_="tick"))
    return parts
