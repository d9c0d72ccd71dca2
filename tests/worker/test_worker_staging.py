"""Stage-in: the corpus on the disk of the node, for as long as the job runs, and only where there is room."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from arch_search.training.data import Corpus, load_corpus
from arch_search.worker import staging
from arch_search.worker.staging import staged


@pytest.fixture
def corpus(corpus_folder: Path) -> Corpus:
    return load_corpus(corpus_folder)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "disk of the node"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("SLURM_TMPDIR", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    return folder


def stage(corpus: Corpus, notes: list[str], *, wanted: bool = True, stop: bool = False) -> Any:
    return staged(corpus, wanted=wanted, should_stop=lambda: stop, note=notes.append)


def test_the_training_tokens_lie_on_the_node_while_the_job_runs_and_no_longer(corpus: Corpus, disk: Path) -> None:
    notes: list[str] = []
    with stage(corpus, notes) as near:
        assert disk in near.train.parents
        assert near.train.read_bytes() == corpus.train.read_bytes()
        assert replace(near, train=corpus.train) == corpus
    assert list(disk.iterdir()) == []
    assert notes == []


def test_the_folder_that_slurm_names_goes_before_the_general_one(
    corpus: Corpus, disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own").mkdir()
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "own"))
    with stage(corpus, []) as near:
        assert tmp_path / "own" in near.train.parents


@pytest.mark.parametrize("without", ["TMPDIR", "SLURM_JOB_ID", "wish"])
def test_outside_of_a_job_or_without_a_wish_nothing_is_copied(
    corpus: Corpus, disk: Path, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    monkeypatch.delenv(without, raising=False)
    with stage(corpus, [], wanted=without != "wish") as near:
        assert near == corpus
        assert list(disk.iterdir()) == []


def test_a_full_disk_of_the_node_leaves_the_corpus_where_it_is_and_says_so(
    corpus: Corpus, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "SPARE_BYTES", 1 << 60)
    notes: list[str] = []
    with stage(corpus, notes) as near:
        assert near == corpus
        assert list(disk.iterdir()) == []
    assert len(notes) == 1
    assert "MB free" in notes[0]


@pytest.mark.parametrize("spoil", ["gone", "cut"])
def test_a_copy_that_does_not_come_out_whole_is_not_used(
    corpus: Corpus, disk: Path, tmp_path: Path, spoil: str
) -> None:
    notes: list[str] = []
    if spoil == "gone":
        disk.rmdir()
    else:
        (tmp_path / "train.bin").write_bytes(corpus.train.read_bytes()[:-1])
        corpus = replace(corpus, train=tmp_path / "train.bin")
    with stage(corpus, notes) as near:
        assert near == corpus
    assert len(notes) == 1


def test_a_request_to_stop_ends_the_copying(corpus: Corpus, disk: Path) -> None:
    with stage(corpus, [], stop=True) as near:
        assert near == corpus


def test_what_an_earlier_start_of_the_same_job_left_is_removed(corpus: Corpus, disk: Path) -> None:
    for name in ("asx-17-left", "asx-171-other"):
        (disk / name).mkdir()
    with stage(corpus, []):
        assert not (disk / "asx-17-left").exists()
        assert (disk / "asx-171-other").exists()


@pytest.mark.slow
def test_the_child_reads_the_copy_of_the_node(bench: Callable[..., Any], disk: Path) -> None:
    made = bench("time.sleep(0.2)")
    made = made.rewritten(replace(made.manifest, stage_in=True))
    process = made.start_until_step(1, phase="language_model")
    order = (made.working().root / "task.json").read_text()
    assert process.wait(timeout=60) == 0
    assert str(disk / "asx-17-") in order
    assert [found.ending for found in made.evaluations()] == ["finished"]
    assert os.listdir(disk) == []
