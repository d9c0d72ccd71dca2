"""What this machine offers a model server: accelerator, processor, memory and disk."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

from arch_search.errors import ModelServerError

_GIB = 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """Whether something can run here; `reason` is one line for people, also when `ok`."""

    ok: bool
    reason: str


def has_nvidia_gpu() -> bool:
    """True where the NVIDIA driver shows a device to this process."""
    return Path("/dev/nvidia0").exists() or (Path("/proc/driver/nvidia/version").exists() and _visible_devices() > 0)


def cpu_support(machine: str | None = None, cpuinfo: Path = Path("/proc/cpuinfo")) -> Support:
    """Whether the CPU build of vLLM runs on this processor: x86-64 with AVX2 or AVX-512 on Linux."""
    machine = machine or platform.machine()
    if machine not in ("x86_64", "AMD64"):
        return Support(ok=False, reason=f"processor {machine}: the CPU build of vLLM in use is for x86_64 only")
    try:
        flags = _cpu_flags(cpuinfo.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        return Support(ok=False, reason=f"{cpuinfo} cannot be read ({error.strerror}); vLLM on a CPU needs Linux")
    if "avx512f" in flags:
        bf16 = "with" if "avx512_bf16" in flags else "without"
        return Support(ok=True, reason=f"AVX-512 {bf16} bfloat16 instructions")
    if "avx2" in flags:
        return Support(ok=True, reason="AVX2 only; several times slower than AVX-512")
    return Support(ok=False, reason="no AVX2 and no AVX-512 in the processor flags; use llm=endpoint or llm=recorded")


def available_memory_gb(meminfo: Path = Path("/proc/meminfo")) -> float:
    """Memory that can be used without swapping, GiB; a cgroup limit of this process counts."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text(encoding="ascii").splitlines() if ":" in line)
    free = int(fields["MemAvailable"].split()[0]) / 2**20
    limit = _cgroup_headroom_gb()
    return free if limit is None else min(free, limit)


def require_memory(need_gb: float, what: str) -> None:
    """Raises ModelServerError where less than `need_gb` GiB of memory is available."""
    free = available_memory_gb()
    if free < need_gb:
        raise ModelServerError(
            f"{what} needs {need_gb:.0f} GiB of memory, {free:.1f} GiB are available; "
            "choose a smaller llm.model, or llm=endpoint"
        )


def require_disk(folder: Path, need_gb: float, what: str) -> None:
    """Raises ModelServerError where the disk under `folder` has less than `need_gb` GiB free."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free / _GIB
    if free < need_gb:
        raise ModelServerError(
            f"{what} needs {need_gb:.1f} GiB of disk under {existing}, {free:.1f} GiB are free; "
            "make room or set llm.env_dir and llm.cache_dir to another disk"
        )


def core_count() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0))


def _visible_devices() -> int:
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))


def _cpu_flags(cpuinfo: str) -> set[str]:
    for line in cpuinfo.splitlines():
        if line.startswith("flags"):
            return set(line.split(":", 1)[1].split())
    return set()


def _cgroup_headroom_gb() -> float | None:
    """GiB left under the nearest cgroup-v2 memory limit of this process, None where there is no limit."""
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().rpartition(":")[2].lstrip("/")
    except OSError:
        return None
    rooms = []
    for folder in (Path("/sys/fs/cgroup") / own, *(Path("/sys/fs/cgroup") / own).parents):
        try:
            limit = (folder / "memory.max").read_text(encoding="ascii").strip()
            used = int((folder / "memory.current").read_text(encoding="ascii"))
        except (OSError, ValueError):
            continue
        if limit != "max":
            rooms.append((int(limit) - used) / _GIB)
    return min(rooms, default=None)
