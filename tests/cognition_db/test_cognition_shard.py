"""Shards: exact round trips, equal bytes for equal content, readable with h5py alone, damage never read as data."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cognition_db.experience import columns
from cognition_db.experience.errors import ShardError, StoreError
from cognition_db.experience.guard import check_files
from cognition_db.experience.shard import (
    evaluation_digest,
    parse_shard,
    read_checked,
    read_shard,
    read_shard_guarded,
    write_shard,
)
from cognition_db.records import Certificate, Ending, Evaluation, Score, Task

Make = Callable[..., Evaluation]
INT = st.integers(-(2**63), 2**63 - 1)
SCORE = st.builds(Score, name=st.text(), value=st.floats(), count=INT, unit=st.text())
TASK = st.builds(Task, candidate_id=st.text(), stage=st.text(), seed=st.integers(0, 2**64 - 1), attempt=INT)
TUPLES = {"curve_steps": INT, "curve_loss": st.floats(), "scores": SCORE}
EVALUATION = st.builds(
    Evaluation,
    task=TASK,
    ending=st.sampled_from(get_args(Ending)),
    versions=st.dictionaries(st.text(), st.text(), max_size=2),
    **{name: st.lists(items, max_size=4).map(tuple) for name, items in TUPLES.items()},
    **{name: st.text() for name in ("unit", "fencing_token", "cause", "host", "config_sha256", "program_sha256")},
    **dict.fromkeys(("tokens_seen", "parameter_count", "resumed_from_step"), INT),
    **{name: st.floats() for name in ("wall_s", "cpu_s", "peak_memory_mb", "started_unix")},
)


@settings(max_examples=40, deadline=None)
@given(evaluations=st.lists(EVALUATION, max_size=4))
def test_any_evaluation_comes_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, same: Callable[[Any, Any], bool], evaluations: list[Evaluation]
) -> None:
    path = tmp_path_factory.mktemp("shard") / "u-a0.h5"
    write_shard(path, evaluations, generation=3)
    found = read_shard(path)
    assert len(found) == len(evaluations)
    assert all(same(left, right) for left, right in zip(found, evaluations, strict=True))


def test_values_that_are_not_finite_come_back(tmp_path: Path, make_evaluation: Make) -> None:
    nan, inf = float("nan"), float("inf")
    write_shard(tmp_path / "a.h5", [make_evaluation(curve_loss=(nan, inf, -0.0), wall_s=-inf)], generation=0)
    (found,) = read_shard(tmp_path / "a.h5")
    assert repr(found.curve_loss) == "(nan, inf, -0.0)"
    assert found.wall_s == -inf


def test_equal_evaluations_give_equal_bytes(tmp_path: Path, make_evaluation: Make) -> None:
    quiet, negative = float("nan"), float(np.copysign(np.nan, -1))
    for name, nan in (("a.h5", quiet), ("b.h5", negative)):
        write_shard(tmp_path / name, [make_evaluation(curve_loss=(1.0, nan, 2.0), wall_s=3)], generation=1)
        os.utime(tmp_path / name, (0, 0))
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_another_program_reads_columns_units_and_curves_with_h5py_alone(tmp_path: Path, make_evaluation: Make) -> None:
    write_shard(tmp_path / "a.h5", [make_evaluation(seed=0), make_evaluation(seed=7)], generation=2)
    with h5py.File(tmp_path / "a.h5") as file:
        assert (file.attrs["program"], file.attrs["kind"], file.attrs["schema_version"]) == (
            "arch_search",
            "shard",
            "3",
        )
        assert file.attrs["generation"] == "2"
        table = file["evaluations"]
        assert table["seed"][:].tolist() == [0, 7]
        assert (table["wall_s"].attrs["unit"], table["curve_loss"].attrs["unit"]) == ("s", "nats per token")
        start, end = table["curve_loss/offsets"][1:3]
        assert table["curve_loss/values"][start:end].tolist() == [5.5, 4.25, 3.0]
        start, end = table["host/offsets"][:2]
        assert bytes(table["host/values"][start:end]).decode() == "node-1"
        assert file["scores/row"][:].tolist() == [0, 0, 1, 1]
        assert file["scores/value"][:].tolist() == [0.75, 2.5] * 2


def test_every_column_has_unit_description_and_checksum(tmp_path: Path, make_evaluation: Make) -> None:
    write_shard(tmp_path / "a.h5", [make_evaluation(cause="x")], generation=2)

    def check(name: str, item: Any) -> None:
        if name.count("/") == 1:
            assert item.attrs["unit"], name
            assert item.attrs["description"], name
        if isinstance(item, h5py.Dataset):
            assert item.fletcher32, name

    with h5py.File(tmp_path / "a.h5") as file:
        file.visititems(check)


def test_a_flipped_bit_is_detected_or_harmless_and_never_changes_a_value(
    tmp_path: Path, make_evaluation: Make, same: Callable[[Any, Any], bool]
) -> None:
    evaluations = (make_evaluation(), make_evaluation(seed=1, cause="x", ending="crashed"))
    write_shard(tmp_path / "whole.h5", evaluations, generation=0)
    whole = (tmp_path / "whole.h5").read_bytes()
    rng = random.Random(0)
    paths = []
    for index in range(300):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        paths.append(tmp_path / f"{index}.h5")
        paths[-1].write_bytes(damaged)
    reports = check_files(paths, limit_s=10.0)
    good = [report for report in reports if not report.problem]
    # the flips that do no harm hit space that HDF5 left unused
    assert 0 < len(good) < 100
    for report in good:
        found = read_checked(report.path, sha256=report.sha256, problem="")
        assert all(same(left, right) for left, right in zip(found, evaluations, strict=True))


def test_a_shard_cut_at_any_length_is_refused(tmp_path: Path, make_evaluation: Make) -> None:
    write_shard(tmp_path / "a.h5", [make_evaluation()], generation=0)
    whole = (tmp_path / "a.h5").read_bytes()
    for index, length in enumerate(range(0, len(whole), len(whole) // 40)):
        (tmp_path / f"cut{index}.h5").write_bytes(whole[:length])
    reports = check_files(sorted(tmp_path.glob("cut*.h5")), limit_s=10.0)
    assert all(report.problem for report in reports)


@pytest.mark.parametrize(
    "place, value", [("evaluations/wall_s", 9.0), ("scores/value", 1.0), ("evaluations/curve_loss/values", 0.0)]
)
def test_a_value_changed_with_hdf5_itself_does_not_match_its_digest(
    tmp_path: Path, make_evaluation: Make, place: str, value: float
) -> None:
    write_shard(tmp_path / "a.h5", [make_evaluation()], generation=0)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file[place][0] = value
    with pytest.raises(ShardError, match=r"a\.h5: table evaluations, record 0: sha256 does not match"):
        read_shard(tmp_path / "a.h5")


@pytest.mark.parametrize("name, value", [("generation", "7"), ("content_sha256", "00")])
def test_a_changed_attribute_is_detected(tmp_path: Path, make_evaluation: Make, name: str, value: str) -> None:
    write_shard(tmp_path / "a.h5", [make_evaluation()], generation=0)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file.attrs[name] = value
    with pytest.raises(ShardError, match="content_sha256"):
        read_shard(tmp_path / "a.h5")


def test_a_shard_of_the_first_schema_is_read_and_its_digests_still_hold(tmp_path: Path, make_evaluation: Make) -> None:
    """Written by the last version before schema 2."""
    finished, crashed = read_shard(Path(__file__).parent / "data" / "shard_of_schema_1.h5")
    assert (finished.jail, finished.certificate, finished.score("recall")) == ("", None, 0.75)
    assert crashed.cause == "exit code 1"
    write_shard(tmp_path / "again.h5", [finished, crashed], generation=1)
    assert read_shard(tmp_path / "again.h5") == (finished, crashed)


def test_jail_and_certificate_come_back_and_count_in_the_digest(tmp_path: Path, make_evaluation: Make) -> None:
    certificate = Certificate(outcome="unknown", reason="line 7", length=128, layers=2, operators=30, seconds=0.5)
    made = make_evaluation(jail="bwrap", certificate=certificate)
    write_shard(tmp_path / "a.h5", [made], generation=0)
    assert read_shard(tmp_path / "a.h5") == (made,)
    others = [make_evaluation(), replace(made, jail=""), replace(made, certificate=None)]
    assert len({evaluation_digest(one) for one in (made, *others)}) == 4


def test_another_schema_is_named(tmp_path: Path, make_evaluation: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "SCHEMA_VERSION", 4)
    write_shard(tmp_path / "a.h5", [make_evaluation()], generation=0)
    monkeypatch.undo()
    with pytest.raises(ShardError, match=r"a\.h5: schema 4, this program reads 1"):
        read_shard(tmp_path / "a.h5")


@pytest.mark.parametrize("content", [b"", b"not hdf5", b"\x89HDF\r\n\x1a\n" + b"\0" * 500, bytes(range(256)) * 40])
def test_garbage_is_a_shard_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.h5").write_bytes(content)
    with pytest.raises(ShardError, match=r"a\.h5: not readable as HDF5"):
        read_shard_guarded(tmp_path / "a.h5", 10.0)


def test_foreign_hdf5_is_a_shard_error(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = [1, 2]
    with pytest.raises(ShardError, match="not readable as HDF5 of this program"):
        read_shard(tmp_path / "a.h5")


def test_a_missing_shard_is_a_shard_error(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="No such file"):
        read_shard_guarded(tmp_path / "a.h5", 10.0)


def test_a_reader_that_hangs_or_dies_costs_only_its_own_shard(tmp_path: Path, make_evaluation: Make) -> None:
    write_shard(tmp_path / "a.h5", [make_evaluation()], generation=0)
    # reading a pipe that nobody writes never ends; reading eight terabytes of nothing exhausts the reader's memory
    os.mkfifo(tmp_path / "b.h5")
    (tmp_path / "c.h5").write_bytes(b"")
    os.truncate(tmp_path / "c.h5", 8 << 40)
    write_shard(tmp_path / "d.h5", [make_evaluation()], generation=0)
    reports = check_files([tmp_path / name for name in ("a.h5", "b.h5", "c.h5", "d.h5")], limit_s=2.0)
    assert [bool(report.problem) for report in reports] == [False, True, True, False]
    assert "did not end within 2 s" in reports[1].problem
    assert "killed the reader" in reports[2].problem


def test_a_file_that_changes_after_it_was_judged_is_refused(tmp_path: Path, make_evaluation: Make) -> None:
    path = tmp_path / "a.h5"
    write_shard(path, [make_evaluation()], generation=0)
    (report,) = check_files([path], limit_s=10.0)
    write_shard(path, [make_evaluation(seed=9)], generation=0)
    with pytest.raises(ShardError, match="changed while it was read"):
        read_checked(path, sha256=report.sha256, problem=report.problem)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"cause": "\ud800"}, "column cause: text is not Unicode"),
        ({"tokens_seen": 2**63}, "column tokens_seen: value does not fit <i8"),
        ({"seed": -1}, "column seed: value does not fit <u8"),
    ],
)
def test_a_value_that_can_not_be_stored_is_named_and_no_file_appears(
    tmp_path: Path, make_evaluation: Make, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ShardError, match=f"a.h5: {message}"):
        write_shard(tmp_path / "a.h5", [make_evaluation(**fields)], generation=0)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_writer_leaves_a_whole_shard(
    tmp_path: Path, make_evaluation: Make, killed_after: Callable[..., int]
) -> None:
    path = tmp_path / "a.h5"

    def work(start: int) -> Iterator[None]:
        step = start
        while True:
            step += 1
            write_shard(path, [make_evaluation(seed=index) for index in range(step)], generation=0)
            yield None

    for _ in range(12):
        acknowledged = killed_after(work, random.uniform(0, 0.1))
        assert acknowledged <= len(read_shard(path)) <= acknowledged + 1


def test_the_digest_depends_on_every_field(make_evaluation: Make) -> None:
    evaluation = make_evaluation()
    changed = [
        replace(evaluation, cause="x"),
        replace(evaluation, curve_loss=(5.5, 4.25, 3.5)),
        replace(evaluation, scores=evaluation.scores[::-1]),
        replace(evaluation, versions={}),
        replace(evaluation, task=replace(evaluation.task, attempt=1)),
    ]
    assert len({evaluation_digest(item) for item in [evaluation, *changed]}) == 6
    assert evaluation_digest(replace(evaluation, wall_s=12)) == evaluation_digest(replace(evaluation, wall_s=12.0))


def test_parsing_bytes_of_an_archive_as_a_shard_names_both_kinds() -> None:
    data = columns.build("archive", [], facts={})
    with pytest.raises(StoreError, match="kind 'archive' of program 'arch_search', expected 'shard'"):
        parse_shard(data)
