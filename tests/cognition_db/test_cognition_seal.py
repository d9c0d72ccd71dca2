"""Seals: what was written without the secret of the campaign is told from what was written with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cognition_db.experience.columns import fact
from cognition_db.experience.errors import StoreError
from cognition_db.experience.merge import merge
from cognition_db.experience.seal import is_seal, make_secret, read_secret, seal
from cognition_db.experience.shard import read_shard, write_shard
from cognition_db.records import Evaluation, Score

Make = Callable[..., Evaluation]


@pytest.fixture
def secret(tmp_path: Path) -> str:
    return _drawn(tmp_path / "secret")


def _drawn(path: Path) -> str:
    return read_secret(path, sha256=make_secret(path, like=None))


def test_a_secret_is_drawn_anew_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert _drawn(one) != _drawn(other)
    assert one.stat().st_mode & 0o777 == 0o600


def test_the_secret_of_another_campaign_can_be_taken_to_repeat_it(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    assert make_secret(one, like=None) == make_secret(other, like=one)
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("text", ["", "secret", "0" * 63, "0" * 65, "G" * 64, "0" * 32 + "\n" + "0" * 31])
def test_what_is_no_secret_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "given").write_text(text)
    with pytest.raises(StoreError, match="64 hex digits"):
        make_secret(tmp_path / "secret", like=tmp_path / "given")
    assert not (tmp_path / "secret").exists()


def test_a_lost_or_changed_secret_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    sha256 = make_secret(path, like=None)
    make_secret(path, like=None)
    with pytest.raises(StoreError, match="not the secret that the campaign was started with"):
        read_secret(path, sha256=sha256)
    path.write_bytes(b"\xff")
    with pytest.raises(StoreError, match="not the text of a secret"):
        read_secret(path, sha256=sha256)
    path.unlink()
    with pytest.raises(StoreError, match="No such file"):
        read_secret(path, sha256=sha256)


def test_a_campaign_older_than_secrets_has_none(tmp_path: Path) -> None:
    assert read_secret(tmp_path / "secret", sha256="") == ""


def test_a_seal_is_of_its_parts_in_their_order_and_of_its_secret(secret: str, tmp_path: Path) -> None:
    others = [
        seal(secret, "a", "b"),
        seal(secret, "ab"),
        seal(secret, "b", "a"),
        seal(_drawn(tmp_path / "x"), "a", "b"),
    ]
    assert len(set(others)) == 4
    assert seal(secret, "a", "b") == others[0]


@pytest.mark.parametrize("text", ["", "0", "\u00e9", "\ud800", "0" * 64])
def test_no_other_text_is_the_seal(secret: str, text: str) -> None:
    made = seal(secret, "a")
    assert is_seal(made, made)
    assert not is_seal(text, made)


def test_a_sealed_shard_is_merged(tmp_path: Path, secret: str, make_evaluation: Make) -> None:
    made = make_evaluation(curve_loss=(float("nan"), 1.0, 2.0))
    write_shard(tmp_path / "a.h5", [made], generation=0, secret=secret)
    report = merge([tmp_path / "a.h5"], [made.task], secret=secret)
    assert not report.quarantined
    assert [one.task for one in report.evaluations] == [made.task]


@pytest.mark.parametrize("how", ["no seal", "another campaign", "another score", "another order", "one left out"])
def test_a_forged_or_copied_shard_is_quarantined(tmp_path: Path, secret: str, make_evaluation: Make, how: str) -> None:
    """A forger knows the format and every digest of it, but not the secret."""
    path, made = tmp_path / "a.h5", [make_evaluation(seed=0), make_evaluation(seed=1)]
    better = replace(made[0], scores=(Score(name="recall_accuracy", value=1.0, count=1, unit="share"),))
    if how in ("no seal", "another campaign"):
        write_shard(path, made, generation=0, secret=_drawn(tmp_path / "other") if how == "another campaign" else "")
    else:
        forged = {"another score": [better, made[1]], "another order": made[::-1], "one left out": made[:1]}[how]
        _with_seal_of(tmp_path, made, secret, forged, path)
    assert read_shard(path)  # whole in itself
    report = merge([path], [one.task for one in made], secret=secret)
    assert report.evaluations == ()
    assert len(report.missing) == 2
    ((_, reason),) = report.quarantined
    assert "without the seal of this campaign" in reason


def _with_seal_of(folder: Path, made: list[Evaluation], secret: str, forged: list[Evaluation], path: Path) -> None:
    """A whole shard of `forged` that bears the seal of the true shard of `made`."""
    write_shard(folder / "true.h5", made, generation=0, secret=secret)
    with pytest.MonkeyPatch.context() as patch:
        stolen = fact((folder / "true.h5").read_bytes(), "seal")
        patch.setattr("cognition_db.experience.shard.seal", lambda secret, *parts: stolen)
        write_shard(path, forged, generation=0, secret="0" * 64)
