"""The fixture of tests that play recorded answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.slurm.played_site import Site


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    return Site(tmp_path, monkeypatch)
