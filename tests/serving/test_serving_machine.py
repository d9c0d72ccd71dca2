"""What a machine offers: processors vLLM cannot use, too little memory and disk are named in one line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arch_search.errors import ModelServerError
from arch_search.serving import machine
from arch_search.serving.process import is_running, start_ticks, stop_session


def flags(tmp_path: Path, *names: str) -> Path:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nflags\t\t: fpu {' '.join(names)}\nbugs\t: none\n")
    return file


@pytest.mark.parametrize(
    "names, ok, said",
    [
        (("avx", "avx2", "avx512f", "avx512_bf16"), True, "AVX-512 with bfloat16"),
        (("avx2", "avx512f"), True, "without bfloat16"),
        (("avx", "avx2"), True, "AVX2 only"),
        (("sse4_2", "avx"), False, "no AVX2 and no AVX-512"),
    ],
)
def test_the_processor_flags_decide_whether_vllm_runs(
    tmp_path: Path, names: tuple[str, ...], ok: bool, said: str
) -> None:
    support = machine.cpu_support("x86_64", flags(tmp_path, *names))
    assert support.ok is ok
    assert said in support.reason


def test_another_processor_or_no_linux_is_not_supported(tmp_path: Path) -> None:
    assert not machine.cpu_support("aarch64", flags(tmp_path, "avx2")).ok
    assert "cannot be read" in machine.cpu_support("x86_64", tmp_path / "none").reason


def test_too_little_memory_and_disk_are_refused_with_both_numbers(tmp_path: Path) -> None:
    machine.require_memory(0.01, "a model")
    machine.require_disk(tmp_path / "not" / "yet", 0.01, "a model")
    with pytest.raises(ModelServerError, match=r"a model needs 99999 GiB of memory, \d+\.\d GiB are available"):
        machine.require_memory(99999, "a model")
    with pytest.raises(ModelServerError, match=r"a model needs 999999\.0 GiB of disk under .* GiB are free"):
        machine.require_disk(tmp_path / "not" / "yet", 999999, "a model")


def test_available_memory_is_read_from_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\n")
    assert machine.available_memory_gb(tmp_path / "meminfo") <= 4.0


def sleeper(*, ignore_term: bool = False) -> subprocess.Popen[bytes]:
    """A session of two processes: a python and its sleeping child; ready when it has printed a line."""
    code = "import signal, subprocess, time\n"
    if ignore_term:
        code += "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    code += "child = subprocess.Popen(['sleep', '60'])\nprint(child.pid, flush=True)\ntime.sleep(60)\n"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.child = int(process.stdout.readline())  # type: ignore[attr-defined]
    return process


def alive(pid: int) -> bool:
    ticks = start_ticks(pid)
    return ticks is not None and is_running(pid, ticks)


@pytest.mark.parametrize("ignore_term", [False, True])
def test_a_session_is_ended_with_its_children_also_when_it_ignores_the_term_signal(ignore_term: bool) -> None:
    process = sleeper(ignore_term=ignore_term)
    ticks = start_ticks(process.pid)
    assert ticks is not None
    stop_session(process.pid, ticks, grace_s=0.5)
    assert not alive(process.pid)
    assert not alive(process.child)  # type: ignore[attr-defined]


def test_what_outlived_its_leader_is_ended_as_well() -> None:
    process = sleeper()
    ticks = start_ticks(process.pid)
    assert ticks is not None
    process.kill()
    process.wait()
    assert alive(process.child)  # type: ignore[attr-defined]
    stop_session(process.pid, ticks, grace_s=1.0)
    assert not alive(process.child)  # type: ignore[attr-defined]


def test_a_stranger_with_the_recorded_pid_is_left_alone() -> None:
    process = sleeper()
    ticks = start_ticks(process.pid)
    assert ticks is not None
    stop_session(process.pid, ticks - 1, grace_s=0.1)
    assert alive(process.pid)
    stop_session(process.pid, ticks, grace_s=1.0)


def test_a_process_that_waits_to_be_reaped_does_not_run() -> None:
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    ticks = start_ticks(process.pid) or 0
    deadline = time.monotonic() + 10
    while is_running(process.pid, ticks) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(process.pid, ticks)
    assert os.path.exists(f"/proc/{process.pid}")
    process.wait()
