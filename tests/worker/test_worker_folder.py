"""What a child may leave in its folder: read when it is as agreed, refused when it is anything else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from arch_search.worker.folder import ChildResult, Progress, read_array, read_message, write_array, write_message

PROGRESS = Progress(phase="recall", step=3, steps=9, loss=2.5, step_s=0.1, cpu_s=1.0, saved_step=2)


def test_a_message_comes_back_as_it_was_written(tmp_path: Path) -> None:
    write_message(tmp_path / "m.json", PROGRESS)
    assert read_message(tmp_path / "m.json", Progress) == PROGRESS


def test_an_array_comes_back_as_it_was_written(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_array(tmp_path / "a", array)
    found = read_array(tmp_path / "a", shape=(2, 3), dtype="<f4")
    assert found is not None
    assert (found == array).all()


@pytest.mark.parametrize("size", [0, 23, 25])
def test_an_array_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(bytes(size))
    assert read_array(tmp_path / "a", shape=(2, 3), dtype="<f4") is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[" * 100_000,
        json.dumps({"ending": "finished", "surprise": 1, "step_s": "fast"}),
        json.dumps({"ending": "below_floor"}),
        json.dumps({"ending": "finished", "curve_loss": [1.0] * 60_000}),
        "\udcff",
    ],
)
def test_text_that_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "r.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert read_message(tmp_path / "r.json", ChildResult) is None


def test_links_pipes_and_missing_files_are_refused(tmp_path: Path) -> None:
    write_message(tmp_path / "secret.json", PROGRESS)
    (tmp_path / "link.json").symlink_to(tmp_path / "secret.json")
    os.mkfifo(tmp_path / "pipe.json")
    for name in ("link.json", "pipe.json", "missing.json"):
        assert read_message(tmp_path / name, Progress) is None
