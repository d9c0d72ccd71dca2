from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from arch_search.analysis.arms import by_arm
from arch_search.analysis.failures import endings, refusals, unusable
from arch_search.analysis.report import leaderboard, render, write_report
from arch_search.analysis.statistics import noise_of, standings
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Analysis, Certificate, Verdict, Writing

CERTIFICATE = Certificate(outcome="passed", reason="proved", length=128, layers=2, operators=31, seconds=0.5)
HOSTILE = '<script>alert(1)</script>" onload="x" \u202e\x1b[31m\x00 {{ 7 * 7 }} </style></svg><img src=x>\ud800'


class Page(HTMLParser):
    """Elements with their attributes, and whether every element was closed in order."""

    VOID = ("meta", "br", "img", "link", "input", "hr")

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.balanced = [], [], True
        self.feed(html)
        self.balanced &= not self.open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        self.balanced &= bool(self.open) and self.open.pop() == tag

    def names(self):
        return {tag for tag, _ in self.elements}


def test_the_report_loads_nothing(invent, facts_of):
    contents = invent()
    html = render(contents, facts=facts_of(contents))
    page = Page(html)
    assert page.balanced
    assert not page.names() & {"script", "link", "img", "iframe", "object", "embed", "base", "form"}
    assert not any(name in attributes for _, attributes in page.elements for name in ("src", "href", "xlink:href"))
    assert not re.search(r"@import|url\(|https?://", html)
    policy = next(attributes for _, attributes in page.elements if "http-equiv" in attributes)
    assert policy["content"].startswith("default-src 'none'")


def test_text_of_programs_and_models_stays_text(invent, facts_of):
    contents = invent()
    candidates = tuple(
        replace(row, name=HOSTILE, program=HOSTILE, motivation=HOSTILE, class_name=HOSTILE)
        for row in contents.candidates
    )
    tries = tuple(
        replace(tried, verdicts=tuple(replace(verdict, check=HOSTILE, reason=HOSTILE) for verdict in tried.verdicts))
        for tried in contents.tries
    )
    lessons = tuple(replace(lesson, text=HOSTILE) for lesson in contents.lessons)
    runs = tuple(replace(run, cause=HOSTILE) for run in contents.evaluations)
    hostile = ArchiveContents(candidates=candidates, tries=tries, lessons=lessons, evaluations=runs)
    harmless = Page(render(contents, facts=facts_of(contents)))
    html = render(
        hostile, facts=facts_of(hostile, campaign=HOSTILE, command=HOSTILE, model=HOSTILE, versions={HOSTILE: HOSTILE})
    )
    page = Page(html)
    assert page.balanced
    assert page.names() == harmless.names()
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "&lt;script&gt;alert(1)" in html
    assert "{{ 7 * 7 }}" in html
    assert not re.search("[\x00\x1b\u202e]", html)
    html.encode("utf-8")


def test_the_report_of_a_campaign_without_a_record_says_so(facts_of, tmp_path):
    empty = ArchiveContents()
    out = tmp_path / "report.html"
    write_report(
        empty, facts=facts_of(empty, finished=False, generations_done=0, finished_unix=None, calls=()), out=out
    )
    html = out.read_text(encoding="utf-8")
    assert "Nothing has been recorded yet." in html
    assert Page(html).balanced


def test_the_report_of_an_unfinished_campaign_says_how_far_it_is(invent, facts_of):
    contents = invent(generations=1)
    unfinished = replace(contents, evaluations=contents.evaluations[:6], lessons=())
    html = render(unfinished, facts=facts_of(contents, finished=False, generations_done=0, finished_unix=None))
    assert "not finished: 0 of 2 generations" in html
    assert "no run yet" in html


def test_candidates_without_any_run_are_reported(invent, facts_of):
    contents = replace(invent(), evaluations=())
    html = render(contents, facts=facts_of(contents))
    assert "The reference has no finished run" in html
    assert "No training run has been recorded yet." in html


def test_a_campaign_of_noise_is_called_noise(invent, facts_of):
    contents = invent(rng_seed=1)
    html = render(contents, facts=facts_of(contents))
    assert "None is better than the reference DeltaNet beyond noise" in html
    assert "noise ends above this line: no program is better" in html


def test_programs_beyond_noise_stand_above_the_line(invent, facts_of):
    contents = invent(noise=0.002, gain=0.08)
    rows = standings(contents, reference_id=contents.candidates[0].id, metric="recall_accuracy", confidence=0.95)
    lines = leaderboard(contents, rows, contents.candidates[0].id)
    cut = next(line.rank for line in lines if line.ends_noise)
    assert all(line.standing.verdict == "better" for line in lines[:cut] if line.standing.arm != "baseline")
    assert all(line.standing.verdict != "better" for line in lines[cut:])
    assert "noise ends here" in render(contents, facts=facts_of(contents))


def test_the_table_says_how_causality_is_known(invent, facts_of):
    contents = invent()
    reference, other = contents.candidates[0], contents.candidates[1]
    proof = Verdict(check="certificate", outcome="passed", reason="proved")
    outcomes = iter(["passed", "unknown"])
    contents = replace(
        contents,
        candidates=(replace(reference, verdicts=(*reference.verdicts, proof)), *contents.candidates[1:]),
        evaluations=tuple(
            replace(one, certificate=replace(CERTIFICATE, outcome=next(outcomes, "passed")))
            if one.task.candidate_id == reference.id
            else one
            for one in contents.evaluations
        ),
    )
    rows = standings(contents, reference_id=reference.id, metric="recall_accuracy", confidence=0.95)
    words = {line.standing.candidate_id: line.causality for line in leaderboard(contents, rows, reference.id)}
    seeds = sum(one.task.candidate_id == reference.id for one in contents.evaluations)
    assert words[reference.id] == f"proved; trained {seeds - 1} of {seeds}"
    assert words[other.id] == "tested"
    assert words[reference.id] in render(contents, facts=facts_of(contents))


@pytest.mark.parametrize(("loss_ranks", "said"), [(False, True), (True, False)])
def test_a_stage_too_short_to_rank_by_loss_is_named(invent, facts_of, loss_ranks, said):
    contents = invent()
    html = render(contents, facts=facts_of(contents, loss_ranks=loss_ranks))
    assert ("the language-model loss ranks nothing" in html) is said


def test_a_hundred_candidates_stay_below_three_megabytes(invent, facts_of):
    contents = invent(generations=10, slots=14, seeds=3)
    long = replace(
        contents,
        candidates=tuple(replace(row, program="x = 1\n" * 5000, name=row.name * 8) for row in contents.candidates),
    )
    assert len(long.candidates) > 100
    assert len(render(long, facts=facts_of(long)).encode()) < 3_000_000


def test_the_same_archive_gives_the_same_report(invent, facts_of):
    contents = invent()
    assert render(contents, facts=facts_of(contents)) == render(contents, facts=facts_of(contents))


def test_arms_count_every_proposal_once(invent):
    contents = invent(generations=4, slots=12)
    reference_id = contents.candidates[0].id
    rows = standings(contents, reference_id=reference_id, metric="recall_accuracy", confidence=0.95)
    noise = noise_of(contents, reference_id=reference_id, metric="recall_accuracy")
    groups = {group.label: group for group in by_arm(contents, rows, parents={}, noise=noise, confidence=0.95)}
    assert sum(group.asked for group in groups.values()) == len(contents.tries)
    assert set(groups) == {"evolve", "mutate", "placebo"}
    assert groups["placebo"].admitted.count == groups["placebo"].asked == 8
    assert groups["placebo"].low < 0 < groups["placebo"].high
    assert groups["evolve"].admitted.count == sum(row.arm == "evolve" for row in contents.candidates)


def test_baselines_are_given_and_count_as_no_proposal(invent, facts_of, try_of):
    contents = invent()
    given = tuple(try_of(one, arm="baseline", rung="copy") for one in contents.candidates if one.arm == "baseline")
    whole = replace(contents, tries=given + contents.tries)
    assert given
    assert render(whole, facts=facts_of(whole)) == render(contents, facts=facts_of(contents))


def test_a_campaign_of_baselines_alone_compares_these_and_speaks_of_no_search(invent, facts_of, run_of):
    contents = invent(generations=0)
    _, *baselines = contents.candidates
    others = len(baselines)
    runs = [
        run_of(one, seed, recall=0.7 + 0.1 * place + 0.001 * (seed * place % 3))
        for place, one in enumerate(baselines)
        for seed in range(3)
    ]
    runs += [run_of(contents.candidates[0], seed, recall=0.9 + 0.001 * seed) for seed in range(3)]
    contents = replace(contents, evaluations=tuple(runs))
    text = render(contents, facts=facts_of(contents, generations_total=0, generations_done=0, finished=True))
    assert f"{others + 1} programs trained, the reference among them; nothing is searched for." in text
    found = re.search(r"(\d+) of (\d+) better than the reference DeltaNet beyond noise and (\d+) worse", text)
    rows = standings(contents, reference_id=contents.candidates[0].id, metric="recall_accuracy", confidence=0.95)
    counts = [sum(row.verdict == verdict for row in rows) for verdict in ("better", "worse")]
    assert [int(found[1]), int(found[2]), int(found[3])] == [counts[0], others, counts[1]]
    assert f"the highest-ranked is {rows[0].name}" in text
    assert "over 3 seeds a difference" in text
    assert "program of the search has been measured" not in text


def test_refusals_that_differ_in_numbers_only_are_counted_together(try_of):
    tries = [try_of(None, refused_by="causality", reason=f"output {n} changed by 0.{n}e-{n}") for n in range(1, 4)]
    tries.append(try_of(None, refused_by="reply", reason="empty"))
    causes = refusals(tries)
    assert [(cause.label, cause.count) for cause in causes] == [("causality", 3), ("reply", 1)]
    assert causes[0].reasons == (("output # changed by #", 3),)


def test_replies_of_no_use_are_counted_by_role_and_shown(invent, facts_of, try_of):
    contents = invent()
    no_plan = Writing(unusable=("planner: g0001/s000/t0/planner: the reply is empty",))
    silent = Analysis(
        unusable=("analyst: g0001/abc/analyst: the reply is not JSON: 'Sure'", "judge: g0001/abc/judge: HTTP 400: no")
    )
    tried = try_of(None, refused_by="reply", reason="empty")
    tries = (replace(tried, proposal=replace(tried.proposal, writing=no_plan)),)
    lessons = tuple(replace(one, analysis=silent) for one in contents.lessons[:2])
    causes = unusable(tries, lessons)
    assert [(cause.label, cause.count) for cause in causes] == [("analyst", 2), ("judge", 2), ("planner", 1)]
    assert causes[0].reasons == (("the reply is not JSON: 'Sure'", 2),)
    html = render(replace(contents, lessons=lessons), facts=facts_of(contents))
    assert "the reply is not JSON: &#39;Sure&#39;" in html


def test_every_ending_of_a_run_is_counted(candidate_of, run_of):
    row = candidate_of("a")
    runs = [
        run_of(row, 0, recall=0.5),
        run_of(row, 1, recall=math.nan, ending="non_finite", cause="loss is NaN at step 9"),
    ]
    assert {cause.label: cause.count for cause in endings(runs)} == {"finished": 1, "non_finite": 1}
