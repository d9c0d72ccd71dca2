"""What rungs cost and how far they reach, on programs of the real toolbox."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from arch_search.analysis.reach import Reach, is_outside, reaches, simpler
from arch_search.analysis.report import render
from arch_search.analysis.statistics import Comparison
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.errors import ProposalError
from arch_search.proposals import splice
from arch_search.proposals.growth import Growth, Offer
from arch_search.proposals.mutation import mutate
from arch_search.proposals.registry import BUILT_IN
from arch_search.proposals.rendering import MIXER
from arch_search.proposals.rendering import render as rendered
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Candidate, Rung, SlotTry, Verdict, Writing, candidate_id

Invent = Callable[..., Any]
HELPER = "def extra(self, v: Tensor) -> Tensor:\n    return v.cumsum(2)\n"
VALUES = "def values(self, q: Tensor, k: Tensor, v: Tensor, x: Tensor) -> Tensor:\n    return self.extra(v)\n"
WITH_METHOD = rendered(
    splice.put_method(splice.put_method(SEED_PROGRAM, MIXER, "extra", HELPER), MIXER, "values", VALUES), "", BUILT_IN
)
WITH_FUNCTION = SEED_PROGRAM + "\n\ndef helper() -> None:\n    return None\n"


def as_candidate(program: str, made: Candidate, *, rung: Rung = "grammar_edit") -> Candidate:
    return replace(made, id=candidate_id(program), program=program, class_name=MIXER, rung=rung)


def comparison(low: float, high: float) -> Comparison:
    return Comparison(n=4, improvement=(low + high) / 2, low=low, high=high, p_value=0.5, paired=True)


# ---- the space


def test_programs_of_hooks_alone_are_inside_and_new_methods_functions_and_text_are_outside(
    candidate_of: Invent,
) -> None:
    reference = as_candidate(SEED_PROGRAM, candidate_of("deltanet"))
    mutated = mutate(reference, np.random.default_rng(3), BUILT_IN).program
    assert not is_outside(SEED_PROGRAM, SEED_PROGRAM, BUILT_IN)
    assert not is_outside(mutated, SEED_PROGRAM, BUILT_IN)
    assert is_outside(WITH_METHOD, SEED_PROGRAM, BUILT_IN)
    assert is_outside(WITH_FUNCTION, SEED_PROGRAM, BUILT_IN)
    assert is_outside(SEED_PROGRAM.replace("conv_size: int = 4", "conv_size: int = 3"), SEED_PROGRAM, BUILT_IN)
    with pytest.raises(ProposalError):
        is_outside("class DeltaNet(:", SEED_PROGRAM, BUILT_IN)


# ---- the table


@pytest.fixture
def tried(candidate_of: Invent, run_of: Invent, try_of: Invent) -> ArchiveContents:
    """Two grammar edits and a refused one, a whole module outside the toolbox and one that does not parse."""
    reference = as_candidate(SEED_PROGRAM, candidate_of("deltanet", arm="baseline", rung="copy", generation=0))
    edits = [
        as_candidate(
            mutate(reference, np.random.default_rng(number), BUILT_IN).program, candidate_of("edit", slot=number)
        )
        for number in range(2)
    ]
    module = as_candidate(WITH_FUNCTION, candidate_of("module", slot=3), rung="whole_module")
    placebo = candidate_of("placebo", arm="placebo", rung="copy", slot=5)
    tries = [
        *(written(try_of(one, slot=one.slot), model_s=2.0, tokens=100) for one in edits),
        written(try_of(None, slot=2, refused_by="shape"), model_s=5.0, tokens=30, program=WITH_METHOD),
        written(try_of(module, slot=3, rung="whole_module"), model_s=40.0, tokens=900),
        written(try_of(None, slot=4, rung="whole_module", refused_by="parse"), program="class DeltaNet(:"),
        try_of(placebo, slot=5, arm="placebo", rung="copy"),
    ]
    runs = [run_of(one, seed, recall=0.5) for one in (reference, *edits, module, placebo) for seed in range(2)]
    return ArchiveContents(candidates=(reference, *edits, module, placebo), tries=tuple(tries), evaluations=tuple(runs))


def written(one: SlotTry, *, model_s: float = 0.0, tokens: int = 0, program: str = "") -> SlotTry:
    said = Writing(model_s=model_s, prompt_tokens=tokens - tokens // 4, reply_tokens=tokens // 4)
    return replace(one, proposal=replace(one.proposal, writing=said, program=program or one.proposal.program))


def rows_of(contents: ArchiveContents, **parents: Comparison) -> dict[str, Reach]:
    reference = contents.candidates[0].id
    rows = reaches(contents, reference_id=reference, parents=parents, confidence=0.95, toolbox=BUILT_IN)
    return {row.label: row for row in rows}


def test_costs_are_per_admitted_program_and_count_refused_tries(tried: ArchiveContents) -> None:
    first, second = (one.id for one in tried.candidates[1:3])
    rows = rows_of(tried, **{first: comparison(0.1, 0.3), second: comparison(-0.1, 0.2)})
    edit = rows["grammar_edit"]
    assert (edit.asked, edit.admitted, edit.gained.count, edit.gained.total) == (3, 2, 1, 2)
    assert edit.model_s == pytest.approx((2 + 2 + 5) / 2)
    assert edit.tokens == pytest.approx((100 + 100 + 30) / 2)
    assert edit.training_s == pytest.approx(2 * 38.0)  # two runs of 38 seconds each
    assert rows["all"].model_s == pytest.approx((2 + 2 + 5 + 40) / 3)


def test_the_share_outside_counts_tried_and_admitted_programs_that_parse(tried: ArchiveContents) -> None:
    rows = rows_of(tried)
    assert (rows["grammar_edit"].outside.count, rows["grammar_edit"].outside.total) == (1, 3)
    assert (rows["grammar_edit"].outside_admitted.count, rows["grammar_edit"].outside_admitted.total) == (0, 2)
    assert (rows["whole_module"].outside.count, rows["whole_module"].outside.total) == (1, 1)
    assert (rows["all"].outside.count, rows["all"].outside.total) == (2, 4)
    assert list(rows) == ["grammar_edit", "whole_module", "all"]


def test_counts_of_the_rungs_are_those_of_the_rates_and_add_up(tried: ArchiveContents) -> None:
    one = tried.tries[0]
    mended = replace(one, proposal=replace(one.proposal, repairs=1))
    near = Verdict(check="near_duplicate", outcome="failed", reason="")
    contents = replace(tried, tries=(mended, replace(tried.tries[1], verdicts=(near,)), *tried.tries[2:]))
    counted = {
        label: (row.asked, row.parsed, row.admitted, row.repaired, row.new) for label, row in rows_of(contents).items()
    }
    assert counted == {"grammar_edit": (3, 3, 2, 1, 1), "whole_module": (2, 2, 1, 0, 1), "all": (5, 5, 3, 1, 2)}


def test_a_rung_without_an_admitted_program_has_no_cost_per_program(tried: ArchiveContents) -> None:
    alone = replace(tried, tries=tried.tries[4:5])
    (row,) = rows_of(alone).values()
    assert row.label == "whole_module"
    assert all(math.isnan(value) for value in (row.model_s, row.tokens, row.training_s))
    assert rows_of(replace(tried, tries=())) == {}


def test_where_the_reference_has_no_hooks_nothing_is_said_of_the_toolbox(tried: ArchiveContents) -> None:
    free = replace(tried.candidates[0], program=WITH_FUNCTION)
    rows = rows_of(replace(tried, candidates=(free, *tried.candidates[1:])))
    assert rows["all"].outside.total == rows["all"].outside_admitted.total == 0


def test_simpler_programs_that_are_not_worse_beyond_noise_are_counted(tried: ArchiveContents) -> None:
    names = ("better", "within noise", "worse", "no interval", "other rung")
    made = [replace(tried.candidates[1], id=name, rung="simplify") for name in names]
    made[-1] = replace(made[-1], rung="grammar_edit")
    bounds = ((0.1, 0.2), (-0.1, 0.1), (-0.2, -0.1), (math.nan, math.nan), (0.1, 0.2))
    parents = {one.id: comparison(*pair) for one, pair in zip(made, bounds, strict=True)}
    share = simpler(replace(tried, candidates=tuple(made)), parents=parents, confidence=0.95)
    assert (share.count, share.total) == (2, 3)


def test_the_report_shows_the_table(tried: ArchiveContents, facts_of: Invent) -> None:
    page = render(tried, facts=facts_of(tried))
    assert "What rungs cost, and how far they reach" in page
    assert "<td>whole module</td>" in page
    assert "Outside the toolbox" not in render(replace(tried, tries=()), facts=facts_of(tried))


def test_the_report_lists_what_was_offered_to_the_toolbox_and_why_it_did_not_enter(
    invent: Invent, facts_of: Invent
) -> None:
    contents = invent()
    refused = Offer(
        candidate_id="1f2e3d4c", gain=0.012, low=0.01, high=0.02, line=7, reason="it is l2norm in other words"
    )
    entered = replace(
        refused, candidate_id="5a6b7c8d", name="found_0a1b2c3d", source="def found_0a1b2c3d(v): ...", reason=""
    )
    page = render(contents, facts=facts_of(contents, growths=(Growth(), Growth(offers=(refused, entered)))))
    assert "What entered the toolbox" in page
    assert "it is l2norm in other words" in page
    assert "found_0a1b2c3d" in page
    assert "What entered the toolbox" not in render(contents, facts=facts_of(contents, growths=(Growth(),)))
