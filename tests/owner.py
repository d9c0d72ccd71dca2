"""An ordinary user for tests: made where the tests run as root and that user can run the project."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
USER_PREFIX = "asx-test-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """Who runs what is tested. `made` is true for a user that the caller removes again; `why` is for people."""

    name: str
    uid: int
    gid: int
    made: bool
    why: str


def choose_owner(folder: Path) -> Owner:
    """The user of the tests, or a new ordinary one named after `folder`, which will hold its home."""
    me = pwd.getpwuid(os.geteuid())
    current = Owner(name=me.pw_name, uid=me.pw_uid, gid=me.pw_gid, made=False, why="the tests run as an ordinary user")
    if me.pw_uid != 0:
        return current
    name = f"{USER_PREFIX}{folder.name[-8:]}"
    made = subprocess.run(
        ["useradd", "--no-create-home", "--home-dir", str(folder / "home"), "--shell", "/bin/bash", name],
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        return replace(current, why=f"useradd failed: {made.stderr.strip()}")
    entry = pwd.getpwnam(name)
    ordinary = Owner(name=name, uid=entry.pw_uid, gid=entry.pw_gid, made=True, why="the tests run as root")
    problem = _reading_problem(ordinary)
    if problem is None:
        return ordinary
    subprocess.run(["userdel", name], capture_output=True, check=False)
    return replace(current, why=problem)


def _reading_problem(owner: Owner) -> str | None:
    """Why the owner can't run the project, or None."""
    for path in (REPOSITORY, *package_folders()):
        if _run_as(owner, ["test", "-r", str(path), "-a", "-x", str(path)]) != 0:
            return f"an ordinary user can't read {path}"
    if not can_run(owner, sys.executable, "pass") and not can_run(owner, system_python(), "pass"):
        return f"an ordinary user can run neither {sys.executable} nor {system_python()}"
    return None


def usable_python(owner: Owner, folder: Path, *, needed: str) -> str:
    """An interpreter that the owner can run and that can import `needed` from the packages of this one.

    Made in `folder/python`, which the owner must be able to write, where this interpreter is out of the owner's reach.
    """
    if can_run(owner, sys.executable, f"import {needed}"):
        return sys.executable
    home = folder / "python"
    if _run_as(owner, [system_python(), "-m", "venv", "--without-pip", str(home)]) != 0:
        raise RuntimeError(f"{owner.name} can't make a virtual environment in {home} with {system_python()}")
    packages = home / "lib" / f"python{python_version()}" / "site-packages"
    lines = [f"import site; site.addsitedir({str(path)!r})" for path in package_folders()]
    (packages / "packages_of_the_tests.pth").write_text("\n".join([*lines, str(REPOSITORY)]) + "\n")
    return str(home / "bin" / "python")


def can_run(owner: Owner, python: str, code: str) -> bool:
    # through env: setpriv itself still has the rights of root when it looks its command up
    return _run_as(owner, ["env", "-i", python, "-c", code]) == 0


def _run_as(owner: Owner, command: Sequence[str]) -> int:
    if owner.uid == os.geteuid():
        ids = []
    else:
        ids = ["setpriv", f"--reuid={owner.uid}", f"--regid={owner.gid}", "--clear-groups"]
    try:
        return subprocess.run([*ids, *command], cwd="/", capture_output=True, timeout=30, check=False).returncode
    except FileNotFoundError:
        return 127


def system_python() -> str:
    return f"/usr/bin/python{python_version()}"


def python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def package_folders() -> list[Path]:
    folders = [Path(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return [folder for folder in folders if folder.is_dir()]
