"""Who is related to whom, on invented programs whose parents, numbers and changed components are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from arch_search.analysis.digest import Summary, computed_summaries
from arch_search.analysis.lessons import numbers_for_analyst, outcome_as_symptom
from arch_search.analysis.relatives import Measured
from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.proposals import splice
from cognition_db.experience.archive import ArchiveContents
from cognition_db.records import Candidate, Evaluation, Lesson, Score, Task, candidate_id

DECAY = "def decay(self, q, k, v, x):\n    return -F.softplus({})\n"
GATE = "def output_gate(self, o, x):\n    return o * {}\n"


def program_of(*methods: tuple[str, str]) -> str:
    program = SEED_PROGRAM
    for name, text in methods:
        program = splice.put_method(program, "DeltaNet", name, text)
    return program


def decay(number: int) -> tuple[str, str]:
    return "decay", DECAY.format(f'self.p.lin1("decay{number}", x)')


def gate(number: int) -> tuple[str, str]:
    return "output_gate", GATE.format(f'torch.sigmoid(self.p.lin1("gate{number}", x))')


PROGRAMS: Mapping[str, tuple[str, Sequence[str], float]] = {
    "reference": (SEED_PROGRAM, (), 0.50),
    "a": (program_of(decay(1)), ("reference",), 0.60),
    "b": (program_of(gate(1)), ("reference",), 0.55),
    "a-a": (program_of(decay(2)), ("a",), 0.62),
    "a-b": (program_of(decay(1), gate(2)), ("a",), 0.58),
    "a-a-a": (program_of(decay(3)), ("a-a",), 0.70),
    "b-a": (program_of(gate(1), decay(4)), ("b",), 0.65),
    "b-b": (program_of(gate(3)), ("b",), 0.99),
    "b-c": (program_of(gate(4), decay(5)), ("b",), float("nan")),
}


def candidate(name: str) -> Candidate:
    program, parents, _ = PROGRAMS[name]
    return Candidate(
        id=candidate_id(program), program=program, class_name="DeltaNet", name=name,
        arm="baseline" if name == "reference" else "evolve", rung="grammar_edit",
        generation=name.count("-") + (name != "reference"), slot=0,
        parents=tuple(candidate_id(PROGRAMS[parent][0]) for parent in parents),
        motivation=f"what {name} changed", parameter_count=1,
    )  # fmt: skip


def run(name: str, seed: int) -> Evaluation:
    program, _, recall = PROGRAMS[name]
    value = recall + 0.001 * ((7 * seed + len(name)) % 5)
    return Evaluation(
        task=Task(candidate_id=candidate_id(program), stage="s", seed=seed, attempt=1), unit="u", fencing_token="t",
        ending="finished", cause="", scores=(Score(name="recall_accuracy", value=value, count=512, unit=""),),
        curve_steps=(), curve_loss=(), tokens_seen=1, parameter_count=1, wall_s=1, cpu_s=1, peak_memory_mb=1,
        resumed_from_step=0, started_unix=0, host="h", versions={}, config_sha256="", program_sha256="",
    )  # fmt: skip


CONTENTS = ArchiveContents(
    candidates=tuple(candidate(name) for name in PROGRAMS),
    evaluations=tuple(run(name, seed) for name in PROGRAMS for seed in range(3)),
)
MEASURED = Measured.of(
    CONTENTS, reference_id=candidate("reference").id, metric="recall_accuracy", confidence=0.95
)  # fmt: skip


def names(found: Sequence[Candidate]) -> list[str]:
    return [one.name for one in found]


def test_grandparents_are_those_beside_the_reference() -> None:
    assert names(MEASURED.parents(candidate("a-a-a"))) == ["a-a"]
    assert names(MEASURED.grandparents(candidate("a-a-a"))) == ["a"]
    assert MEASURED.grandparents(candidate("a-a")) == []


def test_siblings_share_a_parent_and_stand_by_strength() -> None:
    assert names(MEASURED.siblings(candidate("a-a"))) == ["a-b"]
    assert names(MEASURED.siblings(candidate("b-c"))) == ["b-b", "b-a"]


def test_cousins_are_measured_programs_of_other_lineages_that_changed_the_same_component() -> None:
    assert names(MEASURED.cousins(candidate("a-a-a"))) == ["b-a"]
    assert names(MEASURED.cousins(candidate("a-b"))) == ["b-b", "b-a", "b"]
    assert names(MEASURED.cousins(candidate("a"))) == ["b-a"]


def test_a_lineage_is_named_by_the_first_program_after_the_reference() -> None:
    assert MEASURED.lineage(candidate("a-a-a")) == MEASURED.lineage(candidate("a")) == candidate("a").id
    assert MEASURED.lineage(candidate("b-a")) == candidate("b").id


def test_the_analyst_is_told_of_every_kind_of_relative_and_of_what_they_changed() -> None:
    lines = numbers_for_analyst(MEASURED, candidate("a-a-a")).splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["candidate", "parent", "grandparent", "cousin", "reference"]
    assert lines[2].endswith("it changed: what a-a changed")
    assert "the candidate changes against it: decay: `-F.softplus(self.p.lin1('decay1', x))` became" in lines[3]
    assert lines[4].startswith("cousin: b-a: mean 0.65")


def test_a_computed_outcome_becomes_words_that_name_the_changed_parts() -> None:
    lesson = Lesson(candidate_id="x", generation=1, outcome="worse", difference=-0.1, text="")
    words = outcome_as_symptom(lesson, candidate("a"), candidate("reference"), metric="recall_accuracy")
    assert words.startswith("recall accuracy worse than the reference beyond noise; changed: decay, log decay of the")


def test_a_summary_counts_outcomes_by_changed_component_and_names_the_best_and_the_worst_idea() -> None:
    summary = computed_summaries(MEASURED, 2).lineages[candidate("b").id]
    assert summary.counts == (
        "Outcomes against the reference by changed component: output_gate 3 better, 1 not measured; "
        "decay 1 better, 1 not measured."
    )
    assert summary.ideas.startswith("Best: what b-b changed (+0.489, better than the reference beyond noise); worst: ")
    assert "what b changed (+0.0" in summary.ideas


def test_a_generation_summarises_the_campaign_and_the_lineages_that_it_added_to() -> None:
    assert set(computed_summaries(MEASURED, 3).lineages) == {candidate("a").id}
    whole = computed_summaries(MEASURED, 3).campaign
    assert "decay 5 better, 1 not measured" in whole.counts


def test_placebos_and_the_control_are_no_part_of_a_summary() -> None:
    others = tuple(
        replace(one, arm=arm)
        for one, arm in zip(CONTENTS.candidates[1:4], ("placebo", "best_of_n", "mutate"), strict=True)
    )
    contents = replace(CONTENTS, candidates=(CONTENTS.candidates[0], *others))
    measured = Measured.of(contents, reference_id=candidate("reference").id, metric="recall_accuracy", confidence=0.95)
    assert computed_summaries(measured, 2).campaign.counts.endswith("component: decay 1 better.")


def test_a_summary_stays_short_however_many_programs_there_are() -> None:
    long = "x" * 5000
    contents = replace(CONTENTS, candidates=tuple(replace(one, motivation=long) for one in CONTENTS.candidates))
    measured = Measured.of(contents, reference_id=candidate("reference").id, metric="recall_accuracy", confidence=0.95)
    assert len(computed_summaries(measured, 2).campaign.computed) < 1000


def test_in_brief_a_summary_is_two_sentences_of_the_model_or_the_computed_ones() -> None:
    computed = Summary(counts="Counts.", ideas="Best: 0.5 of a.")
    assert computed.brief == computed.text == "Counts. Best: 0.5 of a."
    worded = replace(computed, words="Keep F.silu at 0.5 here. Drop the gate. Try decay.")
    assert worded.brief == "Keep F.silu at 0.5 here. Drop the gate."
    assert worded.text.startswith("Counts. Best:")
