"""A Python interpreter inside a jail: which folders it must read, and which environment finds our packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import arch_search
from arch_search.errors import JailError
from arch_search.jail.files import free_name

_PACKAGES = ("arch_search", "kernels", "cognition_db")
_IMPORTS = ".imports"
_ASK = "import json, site, sys; print(json.dumps([sys.prefix, sys.base_prefix, sys.exec_prefix, *sys.path]))"
_ASK_LIMIT_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class JailedPython:
    """What `run_jailed` needs to run `python -m arch_search...`: folders to show and variables to set."""

    readable: tuple[Path, ...]
    environment: dict[str, str]


def jailed_python(workdir: Path, *, python: str = sys.executable, threads: int = 1) -> JailedPython:
    """Shows `python`, its packages and ours; ours through links in `workdir`, so that no parent folder is needed.

    Raises:
        JailError: `python` cannot be asked where its packages are.
    """
    source = Path(arch_search.__file__).resolve().parent.parent
    packages = [source / name for name in _PACKAGES if (source / name).is_dir()]
    imports = _link_folder(workdir / _IMPORTS, packages)
    folders = _python_folders(python)
    extra = [str(path) for path in folders if path.name in ("site-packages", "dist-packages")]
    environment = {
        "PYTHONPATH": os.pathsep.join([str(imports), *extra]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": str(threads),
        "GOMP_SPINCOUNT": "0",
    }
    return JailedPython(readable=(*folders, *packages), environment=environment)


def _link_folder(imports: Path, packages: Sequence[Path]) -> Path:
    """Made anew each time: an earlier program may have left anything under this name."""
    free_name(imports)
    imports.mkdir(parents=True)
    for package in packages:
        (imports / package.name).symlink_to(package)
    return imports


@cache
def _python_folders(python: str) -> tuple[Path, ...]:
    """Prefixes of the interpreter, and folders of packages that lie outside them (user site, site modules)."""
    try:
        answer = subprocess.run([python, "-c", _ASK], capture_output=True, text=True, timeout=_ASK_LIMIT_S, cwd="/")
        words: list[str] = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise JailError(f"{python} does not answer where its packages are ({error}); give a working python") from None
    prefixes = {Path(word) for word in words[:3]} - {Path("/usr")}
    outside = [
        Path(word)
        for word in words[3:]
        if Path(word).name in ("site-packages", "dist-packages") and not _is_below(Path(word), prefixes)
    ]
    return (*sorted(prefixes), *outside)


def _is_below(path: Path, folders: set[Path] | Sequence[Path]) -> bool:
    return path.is_relative_to("/usr") or any(path.is_relative_to(folder) for folder in folders)
