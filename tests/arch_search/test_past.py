"""What was tried before: failures are not tried twice, and a writer is told what became of tries at its place."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.drawing import Drawn
from arch_search.generation import SlotPlan
from arch_search.memory import Known, repeated_failure
from arch_search.past import Outcome, Past, informed, outcomes
from arch_search.proposals.assignment import Assignment
from arch_search.proposals.fingerprint import normal_form
from arch_search.proposals.rungs import writing_task
from arch_search.settings import load_config
from cognition_db.experience.archive import ArchiveContents
from cognition_db.literature import load_insights
from cognition_db.records import Arm, Candidate, Evaluation, Proposal, Rung, Score, SlotTry, Task, Verdict, candidate_id

SELECTION = load_config(["campaign=smoke"]).selection
LEAKS = Verdict(check="causality", outcome="failed", reason="token 3 sees token 5", refuses=True)
REFERENCE = Candidate(
    id=candidate_id(SEED_PROGRAM), program=SEED_PROGRAM, class_name="DeltaNet", name="deltanet", arm="baseline",
    rung="copy", generation=0, slot=0, parents=(), motivation="", parameter_count=1,
)  # fmt: skip


def program(number: int) -> str:
    return SEED_PROGRAM.replace("F.silu(v)", f"F.silu(v) * {number}.5")


def refused(
    number: int, verdict: Verdict = LEAKS, *, generation: int = 2, slot: int = 3, attempt: int = 0,
    arm: Arm = "evolve", rung: Rung = "grammar_edit", method: str = "decay", parent: str = REFERENCE.id,
    insights: tuple[str, ...] = (), motivation: str | None = None,
) -> SlotTry:  # fmt: skip
    proposal = Proposal(
        generation=generation, slot=slot, attempt=attempt, arm=arm, rung=rung, parents=(parent,), seed=1,
        program=program(number), motivation=f"change {number}" if motivation is None else motivation, method=method,
        insights=insights,
    )  # fmt: skip
    return SlotTry(proposal=proposal, verdicts=(verdict,), candidate=None)


def admitted(number: int, **given: object) -> SlotTry:
    tried = refused(number, **given)  # type: ignore[arg-type]
    proposal = tried.proposal
    candidate = replace(
        REFERENCE, id=candidate_id(proposal.program), program=proposal.program, arm=proposal.arm, rung=proposal.rung,
        name=f"c{number}", generation=proposal.generation, slot=proposal.slot, parents=proposal.parents,
    )  # fmt: skip
    return SlotTry(proposal=proposal, verdicts=(), candidate=candidate)


def drawn(arm: Arm = "evolve", *, slot: int = 5, method: str = "decay", rung: Rung = "grammar_edit") -> Drawn:
    assignment = Assignment(rung=rung, parent=REFERENCE, method=method)
    return Drawn(SlotPlan(slot, arm, rung), 0, 1, REFERENCE, assignment)


def told(past: Past, number: int = 4, one: Drawn | None = None) -> tuple[str, ...]:
    assignment = informed(number, one or drawn(), past).assignment
    assert assignment is not None
    return assignment.tried


# ---- failures


def test_a_program_that_was_refused_is_refused_again_with_reason_and_place() -> None:
    known = Known(failures=Past(tries=(refused(1),)).failures())
    renamed = program(1).replace("hidden_states", "tokens")
    verdict = repeated_failure(normal_form(renamed), known)
    assert verdict is not None
    assert verdict.refuses
    assert verdict.reason == "repeats gen 2 slot 3, refused: causality: token 3 sees token 5"
    assert repeated_failure(normal_form(program(2)), known) is None
    assert repeated_failure("", known) is None


@pytest.mark.parametrize(
    "check",
    ["duplicate_text", "duplicate_behaviour", "duplicate_failure", "steering", "time", "memory", "crash"],
)
def test_a_refusal_that_says_nothing_of_the_program_is_no_failure(check: str) -> None:
    verdict = replace(LEAKS, check=check)
    assert Past(tries=(refused(1, verdict),)).failures() == {}


def test_a_worse_candidate_is_a_failure_and_one_without_gain_is_none() -> None:
    worse, same, new = admitted(1), admitted(2), admitted(3)
    assert worse.candidate is not None
    assert same.candidate is not None
    found = {worse.candidate.id: Outcome(words="worse by 0.1", is_failure=True), same.candidate.id: Outcome(words="-")}
    failures = Past(tries=(worse, same, new), outcomes=found).failures()
    assert failures == {normal_form(program(1)): "gen 2 slot 3, worse by 0.1"}


def test_the_first_of_two_equal_failures_is_named_and_programs_given_by_others_are_none() -> None:
    tries = (refused(1, generation=1, slot=7), refused(1), refused(2, arm="placebo"), refused(3, arm="hand"))
    assert list(Past(tries=tries).failures().values()) == ["gen 1 slot 7, refused: causality: token 3 sees token 5"]


def evaluation(candidate: Candidate, seed: int, loss: float, ending: str = "finished") -> Evaluation:
    return Evaluation(
        task=Task(candidate_id=candidate.id, stage="smoke", seed=seed, attempt=1), unit="u", fencing_token="t",
        ending=ending, cause="", scores=(Score(name=SELECTION.metric, value=loss, count=1, unit=""),),  # type: ignore[arg-type]
        curve_steps=(), curve_loss=(), tokens_seen=1, parameter_count=1, wall_s=1.0, cpu_s=1.0, peak_memory_mb=1.0,
        resumed_from_step=0, started_unix=0.0, host="h", versions={}, config_sha256="", program_sha256="",
    )  # fmt: skip


def test_outcomes_are_taken_against_the_parent_beyond_noise() -> None:
    tries = [admitted(number) for number in range(1, 5)]
    worse, same, failed, lost = [one.candidate for one in tries if one.candidate]
    noise = (0.0, 0.01, -0.01)
    step = -0.3 if SELECTION.metric == "recall_accuracy" else 0.3
    runs = [
        evaluation(one, seed, 0.5 + by + noise[seed] * sign)
        for one, by, sign in ((REFERENCE, 0.0, 1), (worse, step, -1), (same, step / 100, -1))
        for seed in range(3)
    ]
    runs += [evaluation(failed, 0, 0.5, "non_finite"), evaluation(lost, 0, 0.5, "timed_out")]
    contents = ArchiveContents(
        candidates=(REFERENCE, worse, same, failed, lost), evaluations=tuple(runs), tries=tuple(tries)
    )
    found = outcomes(contents, SELECTION)
    assert found[worse.id] == Outcome(words="worse by 0.3", is_failure=True)
    assert found[same.id] == Outcome(words="no gain")
    assert found[failed.id] == Outcome(words="its training ended non_finite", is_failure=True)
    assert not found[lost.id].is_failure


# ---- what a writer is told


def test_the_writer_is_told_what_was_tried_at_this_place_and_what_came_of_it() -> None:
    better = admitted(2)
    assert better.candidate is not None
    found = {better.candidate.id: Outcome(words="better by 0.1")}
    elsewhere, unmeasured = refused(3, method="values"), admitted(4)
    lines = told(Past(tries=(refused(1), better, elsewhere, unmeasured), outcomes=found))
    assert set(lines) == {"change 2: better by 0.1", "change 1: refused (causality, token 3 sees token 5)"}


def test_own_slot_then_same_parent_then_same_idea_then_the_last_come_first() -> None:
    tries = (
        refused(1, generation=3, parent="other"),
        refused(2, generation=1),
        refused(3, generation=2),
        refused(4, generation=4, slot=5, parent="other"),
        refused(5, generation=1, slot=9, insights=("idea",)),
    )
    one = drawn()
    assert one.assignment is not None
    insight = replace(load_insights()[0], id="idea")
    one = replace(one, assignment=replace(one.assignment, insight=insight))
    lines = told(Past(tries=tries), number=4, one=one)
    assert [line[:8] for line in lines] == ["change 4", "change 5", "change 3", "change 2"]


def test_the_order_of_tries_does_not_count() -> None:
    tries = tuple(refused(number, slot=number) for number in range(6))
    assert told(Past(tries=tries)) == told(Past(tries=tries[::-1]))


def test_the_control_without_history_is_told_nothing() -> None:
    assert told(Past(tries=(refused(1),)), one=drawn("best_of_n")) == ()
    assert told(Past(tries=(refused(1),)), one=drawn("evolve")) != ()


def test_lines_are_short_and_hold_no_words_of_a_program() -> None:
    raised = Verdict(check="outputs", outcome="failed", reason="ValueError: obey me", refuses=True)
    (line,) = told(Past(tries=(refused(1, raised, motivation="long\n" * 300),)))
    assert "obey" not in line
    assert line.endswith("refused (outputs)")
    assert len(line) < 180
    assert "\n" not in line


def test_a_reply_that_made_no_program_is_told_at_its_slot() -> None:
    nothing = refused(1, replace(LEAKS, check="program"), generation=4, slot=5, motivation="")
    assert told(Past(tries=(nothing,))) == ("a reply that made no program: refused (program)",)


def test_a_second_try_is_told_of_the_first_though_it_goes_to_another_place() -> None:
    first = refused(1, generation=4, slot=5, method="values")
    assert told(Past(tries=(first,)), number=4) == ("change 1: refused (causality, token 3 sees token 5)",)
    assert told(Past(tries=(first,)), number=3) == ()


def test_a_rung_without_a_place_is_told_of_its_own_rung() -> None:
    tries = (refused(1, rung="whole_module", method=""), refused(2, rung="grammar_edit"))
    (line,) = told(Past(tries=tries), one=drawn(rung="whole_module", method=""))
    assert line.startswith("change 1")


@pytest.mark.parametrize("rung, method", [("grammar_edit", "decay"), ("method_splice", "decay"), ("whole_module", "")])
def test_the_request_holds_the_lines_only_where_there_are_any(rung: Rung, method: str) -> None:
    assignment = Assignment(rung=rung, parent=REFERENCE, method=method)
    sections = writing_task(replace(assignment, tried=("a: no gain", "b: better"))).facts["tried"]
    assert [section.text for section in sections if not isinstance(section, str)] == ["a: no gain", "b: better"]
    assert writing_task(assignment).facts["tried"] == ()
