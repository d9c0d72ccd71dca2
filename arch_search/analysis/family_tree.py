"""Family tree of a campaign as one inline SVG: a column per generation, a line from each parent to its child."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from markupsafe import Markup

from arch_search.analysis import svg
from arch_search.analysis.figures import REFERENCE, colour_of, hover
from arch_search.analysis.statistics import Standing
from arch_search.analysis.text import short
from cognition_db.records import Candidate

_BOX_WIDTH, _BOX_HEIGHT, _ROW_HEIGHT, _GAP, _TOP, _LEFT = 168.0, 22.0, 30.0, 62.0, 34.0, 8.0


def improvement_colour(improvement: float, noise_half_width: float) -> str:
    """Orange over grey to green, full colour at twice what noise alone explains; white where not measured."""
    if not math.isfinite(improvement):
        return "#ffffff"
    full = (
        2.0 * noise_half_width if math.isfinite(noise_half_width) and noise_half_width > 0 else abs(improvement) or 1.0
    )
    share = min(1.0, abs(improvement) / full)
    target = (0x6F, 0xC8, 0xA2) if improvement > 0 else (0xF2, 0xA8, 0x6B)
    red, green, blue = (round(0xF1 + (channel - 0xF1) * share) for channel in target)
    return f"#{red:02x}{green:02x}{blue:02x}"


def family_tree(
    candidates: Sequence[Candidate], standings: Sequence[Standing], *, reference_id: str, noise_half_width: float
) -> Markup:
    """The reference, then everything the search made; boxes coloured by improvement. Empty without a candidate."""
    members = [row for row in candidates if row.arm != "baseline" or row.id == reference_id]
    columns = _tree_columns(members, reference_id)
    if len(columns) < 2:
        return Markup("")
    places = _tree_places(columns)
    by_id = {standing.candidate_id: standing for standing in standings}
    headings = [
        svg.text(
            _LEFT + index * (_BOX_WIDTH + _GAP) + _BOX_WIDTH / 2,
            18,
            f"generation {generation}" if generation else "reference",
            text_anchor="middle",
            class_="axis",
        )
        for index, generation in enumerate(sorted(columns))
    ]
    edges = [
        _tree_edge(places[parent], places[member.id])
        for member in members
        for parent in member.parents
        if parent in places and places[parent][0] < places[member.id][0]
    ]
    boxes = [
        _tree_box(member, by_id[member.id], places[member.id], noise_half_width, reference_id)
        for member in members
        if member.id in by_id
    ]
    width = 2 * _LEFT + len(columns) * (_BOX_WIDTH + _GAP) - _GAP
    height = _TOP + 12 + max(len(column) for column in columns.values()) * _ROW_HEIGHT
    return svg.picture(width, height, *headings, *edges, *boxes, title="Family tree")


def _tree_columns(members: Sequence[Candidate], reference_id: str) -> dict[int, list[Candidate]]:
    """Members by generation, each column in the order of its parents, so that lines cross little."""
    columns: dict[int, list[Candidate]] = defaultdict(list)
    for member in members:
        columns[0 if member.id == reference_id else member.generation].append(member)
    place: dict[str, int] = {}
    for generation in sorted(columns):
        columns[generation].sort(
            key=lambda member: (min([place.get(parent, 0) for parent in member.parents], default=0), member.slot)
        )
        place |= {member.id: index for index, member in enumerate(columns[generation])}
    return dict(columns)


def _tree_places(columns: dict[int, list[Candidate]]) -> dict[str, tuple[float, float]]:
    """Upper left corner of each member's box; short columns are centred."""
    tallest = max(len(column) for column in columns.values())
    places: dict[str, tuple[float, float]] = {}
    for index, generation in enumerate(sorted(columns)):
        start = _TOP + (tallest - len(columns[generation])) * _ROW_HEIGHT / 2
        for row, member in enumerate(columns[generation]):
            places[member.id] = (_LEFT + index * (_BOX_WIDTH + _GAP), start + row * _ROW_HEIGHT)
    return places


def _tree_edge(parent: tuple[float, float], child: tuple[float, float]) -> Markup:
    x1, y1, x2, y2 = parent[0] + _BOX_WIDTH, parent[1] + _BOX_HEIGHT / 2, child[0], child[1] + _BOX_HEIGHT / 2
    bend = (x2 - x1) / 2
    path = f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"
    # a line that passes whole generations runs behind their boxes and stays faint
    stroke = "#a9b4c0" if x2 - x1 < _BOX_WIDTH else "#dfe4ea"
    return svg.element("path", d=path, fill="none", stroke=stroke, stroke_width=1.3)


def _tree_box(
    member: Candidate, standing: Standing, place: tuple[float, float], half: float, reference_id: str
) -> Markup:
    x, y = place
    is_reference = member.id == reference_id
    fill = REFERENCE if is_reference else improvement_colour(standing.improvement, half)
    dash = "none" if math.isfinite(standing.improvement) else "3 3"
    box = svg.element(
        "rect", x=x, y=y, width=_BOX_WIDTH, height=_BOX_HEIGHT, rx=4 if member.arm != "placebo" else 0,
        fill=fill, stroke=colour_of(standing, reference_id), stroke_dasharray=dash,
        stroke_width=2 if standing.verdict in ("better", "worse") else 1,
    )  # fmt: skip
    words = svg.text(x + 8, y + 15, short(member.name, 21), class_="light" if is_reference else "dark")
    return svg.titled(hover(standing), box, words)
