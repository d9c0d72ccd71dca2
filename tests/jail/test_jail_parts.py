"""The parts around a jailed run: choosing a rung, reading results back, showing Python, and being an ordinary user."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

import arch_search
from arch_search.errors import JailError
from arch_search.jail import best_rung, jailed_python, read_from_jail, rungs

SYSTEM_PYTHON = "/usr/bin/python3"
NOBODY = 65534


def test_the_best_rung_comes_first_and_off_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    broken: set[str] = set()
    monkeypatch.setattr(rungs, "why_not", lambda rung: f"no {rung} here" if rung in broken else "")

    assert best_rung("auto") == "bwrap"
    broken.add("bwrap")
    assert best_rung("auto") == "landlock"
    broken.add("landlock")
    with pytest.raises(JailError, match=r"bwrap: no bwrap here; landlock: no landlock here.*jail=off"):
        best_rung("auto")
    assert best_rung("off") == "off"


def test_a_rung_that_does_not_exist_is_named_with_those_that_do() -> None:
    with pytest.raises(JailError, match="known: auto, bwrap, landlock, off"):
        best_rung("docker")


def test_a_result_is_read_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "report").write_bytes(b"1234")

    assert read_from_jail(tmp_path, "report", max_bytes=4) == b"1234"


def test_a_result_that_is_too_large_missing_or_no_plain_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"12345")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")

    for name in ("large", "missing", "link", "folder", "pipe", "../secret", ".."):
        with pytest.raises(JailError):
            read_from_jail(tmp_path, name, max_bytes=4)


def test_what_a_program_left_in_place_of_the_import_links_is_not_followed(tmp_path: Path) -> None:
    precious, workdir = tmp_path / "precious", tmp_path / "work"
    precious.mkdir()
    (precious / "arch_search").write_text("mine")
    workdir.mkdir()
    (workdir / ".imports").symlink_to(precious)

    jailed_python(workdir)

    assert (precious / "arch_search").read_text() == "mine"
    assert (workdir / ".imports" / "arch_search").is_symlink()


def test_an_interpreter_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(JailError, match="/no/python does not answer"):
        jailed_python(tmp_path, python="/no/python")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.skipif(not Path(SYSTEM_PYTHON).exists(), reason="needs a python that every user may run")
@pytest.mark.parametrize("rung", rungs.LADDER)
def test_an_ordinary_user_gets_the_same_jail(rung: str) -> None:
    if rungs.why_not(rung):
        pytest.skip(f"{rung}: {rungs.why_not(rung)}")
    script = f"""
import sys
from pathlib import Path
from arch_search.jail import Limits, run_jailed
work = Path('work').resolve()
work.mkdir()
Path('secret').write_text('secret')
probe = '''
import socket
for name, act in dict(read=lambda: open("../secret"), write=lambda: open("../new", "w"), net=socket.socket).items():
    try:
        act()
        print(name)
    except OSError:
        pass
open("out", "w").write("done")
'''
limits = Limits(wall_s=30, cpu_s=20, memory_gb=0.5, file_mb=1, processes=32)
run = lambda code: run_jailed(['{SYSTEM_PYTHON}', '-c', code], workdir=work, readable=(), limits=limits,
                              environment={{}}, rung='{rung}')
first = run(probe)
bomb = run('import os, time; [os.fork() for _ in range(7)]; time.sleep(10)')
print(first.exit_code, first.stdout_tail, first.stderr_tail, (work / 'out').read_text(), bomb.ended)
"""
    folder = Path(tempfile.mkdtemp(prefix="arch-search-jail-"))
    try:
        source = Path(arch_search.__file__).parent
        (folder / "arch_search").mkdir()
        for name in ("__init__.py", "errors.py"):
            shutil.copy(source / name, folder / "arch_search" / name)
        shutil.copytree(source / "jail", folder / "arch_search" / "jail")
        shutil.chown(folder, NOBODY)
        folder.chmod(0o755)
        ran = subprocess.run(
            [SYSTEM_PYTHON, "-c", script],
            cwd=folder,
            env={"PYTHONPATH": str(folder), "PATH": os.environ["PATH"], "HOME": str(folder)},
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=120,
        )
    finally:
        shutil.rmtree(folder)

    assert ran.stderr == ""
    assert ran.stdout.split()[0] == "0"
    assert ran.stdout.split()[1] == "done"
    # the kernel's limit on processes may be the first to act
    assert ran.stdout.split()[2] in ("stopped", "exited")
