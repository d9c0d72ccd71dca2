"""The archive: everything comes back, and its bytes depend on the content alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import h5py
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cognition_db.experience.archive import ArchiveContents, ordered, read_archive, write_archive
from cognition_db.experience.errors import ArchiveError
from cognition_db.experience.guard import check_files
from cognition_db.records import (
    Analysis,
    Arm,
    Candidate,
    Evaluation,
    Lesson,
    Outcome,
    Proposal,
    Rung,
    SlotTry,
    Verdict,
    Writing,
)

Make = Callable[[], ArchiveContents]
INT = st.integers(-(2**63), 2**63 - 1)
NAMES = st.lists(st.text(), max_size=2).map(tuple)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.text(), values, max_size=2),
    max_leaves=4,
)
VERDICTS = st.lists(
    st.builds(
        Verdict,
        check=st.text(),
        outcome=st.sampled_from(get_args(Outcome)),
        reason=st.text(),
        refuses=st.booleans(),
        evidence=st.dictionaries(st.text(), JSON, max_size=2),
    ),
    max_size=2,
).map(tuple)
ORIGIN: dict[str, Any] = {
    "generation": INT,
    "slot": INT,
    "arm": st.sampled_from(get_args(Arm)),
    "rung": st.sampled_from(get_args(Rung)),
    "parents": NAMES,
    "insights": NAMES,
    **{name: st.text() for name in ("program", "class_name", "motivation")},
}
CANDIDATE = st.builds(
    Candidate,
    id=st.text(),
    name=st.text(),
    parameter_count=INT,
    verdicts=VERDICTS,
    fingerprint=st.lists(st.floats(width=32), max_size=3).map(tuple),
    **ORIGIN,
)
PROPOSAL = st.builds(
    Proposal,
    attempt=INT,
    seed=st.integers(0, 2**64 - 1),
    repairs=INT,
    writing=st.none() | st.builds(Writing, idea=st.text(), sources=NAMES, calls=NAMES, model_s=st.floats()),
    **{name: st.text() for name in ("method", "model", "prompt_sha256", "reply_sha256")},
    **ORIGIN,
)
LESSON = st.builds(
    Lesson,
    candidate_id=st.text(),
    generation=INT,
    outcome=st.sampled_from(["better", "worse", "within_noise", "not_measured"]),
    difference=st.floats(),
    text=st.text(),
    judge_score=st.none() | st.floats(),
    reply_sha256=st.text(),
    analysis=st.none() | st.builds(Analysis, component=st.text(), confidence=st.floats(), novelty=INT),
)


@st.composite
def archives(draw: st.DrawFn) -> ArchiveContents:
    candidates = draw(st.lists(CANDIDATE, max_size=3, unique_by=lambda candidate: candidate.id))
    admitted = st.none() | st.sampled_from(candidates) if candidates else st.none()
    tries = st.lists(st.builds(SlotTry, proposal=PROPOSAL, verdicts=VERDICTS, candidate=admitted), max_size=3)
    return ArchiveContents(
        candidates=tuple(candidates), tries=tuple(draw(tries)), lessons=tuple(draw(st.lists(LESSON, max_size=2)))
    )


@settings(max_examples=20, deadline=None)
@given(contents=archives())
def test_any_record_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, same: Callable[[Any, Any], bool], contents: ArchiveContents
) -> None:
    path = tmp_path_factory.mktemp("archive") / "archive.h5"
    write_archive(path, contents)
    assert same(read_archive(path), ordered(contents))


def test_the_bytes_do_not_depend_on_the_order_of_the_records(
    tmp_path: Path, make_contents: Make, make_evaluation: Callable[..., Evaluation]
) -> None:
    contents = make_contents()
    # two evaluations of one place, which no merge gives, still have one order
    contents = replace(contents, evaluations=(*contents.evaluations, make_evaluation(host="node-2")))
    write_archive(tmp_path / "0.h5", contents)
    rng = random.Random(1)
    for index in range(1, 5):
        names = ("tries", "evaluations", "lessons", "candidates")
        shuffled = {name: tuple(rng.sample(getattr(contents, name), len(getattr(contents, name)))) for name in names}
        write_archive(tmp_path / f"{index}.h5", ArchiveContents(**shuffled))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_a_lesson_judged_nan_is_not_one_without_judgement(tmp_path: Path) -> None:
    lesson = Lesson(
        candidate_id="a", generation=0, outcome="better", difference=float("nan"), text="", judge_score=None
    )
    judged = replace(lesson, candidate_id="b", judge_score=float("nan"))
    write_archive(tmp_path / "a.h5", ArchiveContents(lessons=(lesson, judged)))
    assert [repr(item.judge_score) for item in read_archive(tmp_path / "a.h5").lessons] == ["None", "nan"]


def test_an_archive_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    assert read_archive(tmp_path / "archive.h5") == ArchiveContents()


def test_a_program_is_readable_with_h5py_alone(tmp_path: Path, make_contents: Make) -> None:
    write_archive(tmp_path / "archive.h5", make_contents())
    with h5py.File(tmp_path / "archive.h5") as file:
        column = file["candidates/program"]
        start, end = column["offsets"][1:3]
        assert bytes(column["values"][start:end]) == b"class DeltaNet: x = 1"
        assert file["tries/admitted"][:].tolist() == [0, 1]


def test_an_archive_passes_the_guarded_reader_and_a_damaged_one_does_not(tmp_path: Path, make_contents: Make) -> None:
    path = tmp_path / "archive.h5"
    write_archive(path, make_contents())
    whole = path.read_bytes()
    place = whole.index(b"class DeltaNet: x = 1")
    (tmp_path / "b.h5").write_bytes(whole[:place] + b"K" + whole[place + 1 :])
    good, bad = check_files([path, tmp_path / "b.h5"], limit_s=10.0)
    assert good.problem == ""
    assert bad.problem
    with pytest.raises(ArchiveError, match=r"b\.h5"):
        read_archive(tmp_path / "b.h5")


def test_two_candidates_of_one_id_are_refused_and_the_old_archive_stays(tmp_path: Path, make_contents: Make) -> None:
    contents = make_contents()
    write_archive(tmp_path / "archive.h5", contents)
    with pytest.raises(ArchiveError, match="3 candidates have only 2 ids"):
        write_archive(
            tmp_path / "archive.h5", replace(contents, candidates=(*contents.candidates, contents.candidates[0]))
        )
    assert read_archive(tmp_path / "archive.h5") == ordered(contents)


def test_a_try_whose_candidate_is_unknown_or_differs_is_refused(tmp_path: Path, make_contents: Make) -> None:
    contents = make_contents()
    with pytest.raises(ArchiveError, match="is not among the candidates"):
        write_archive(tmp_path / "archive.h5", replace(contents, candidates=contents.candidates[:1]))
    renamed = tuple(replace(candidate, name="other") for candidate in contents.candidates)
    with pytest.raises(ArchiveError, match="differs between its try and the candidates"):
        write_archive(tmp_path / "archive.h5", replace(contents, candidates=renamed))


def test_evidence_that_is_not_json_is_refused(tmp_path: Path, make_contents: Make) -> None:
    contents = make_contents()
    strange = Verdict(check="c", outcome="failed", reason="", evidence={"x": object()})
    tries = (replace(contents.tries[1], verdicts=(strange,)),)
    with pytest.raises(ArchiveError, match="evidence that is not JSON"):
        write_archive(tmp_path / "archive.h5", replace(contents, tries=tries))


def test_an_archive_of_schema_2_reads_without_what_came_later() -> None:
    contents = read_archive(Path(__file__).parent / "data" / "archive_of_schema_2.h5")
    assert contents.tries
    assert all(one.proposal.writing is None for one in contents.tries)
    assert contents.lessons
    assert all(one.analysis is None for one in contents.lessons)
