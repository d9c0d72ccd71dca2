"""What one compute node has: run there by doctor's probe job, `python -m arch_search.commands.doctor_node FOLDER NAME`.

Only the standard library is needed to start, so that a broken environment is reported and not a silent failure.
FOLDER is shared with doctor: NAME.hello.json says that the job runs, NAME.answer.json comes back from doctor, and
NAME.facts.json is the report.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ANSWER_LIMIT_S = 90.0
_POLL_S = 0.05
_IMPORT_LIMIT_S = 180
_NETWORK_LIMIT_S = 5.0
_OUTSIDE = ("example.com", 443)  # reserved for such use by the IANA
_IMPORTS = (
    "import json, torch, h5py, arch_search.worker.child\n"
    "print(json.dumps([torch.__version__, h5py.__version__, torch.cuda.is_available(), torch.cuda.device_count()]))"
)


def main(folder: Path, name: str) -> None:
    with socket.create_server(("", 0)) as server:
        threading.Thread(target=_greet, args=(server,), daemon=True).start()
        clock = _compare_clocks(folder, name, server.getsockname()[1])
        write_json(folder / f"{name}.facts.json", {**clock, **_facts(folder)})


def write_json(path: Path, data: dict[str, Any]) -> None:
    """In one step: the reader polls for the name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("w") as file:
        json.dump(data, file)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def clock_difference(sent: float, seen: float, answered: float, received: float) -> tuple[float, float]:
    """How far the node's clock is ahead, and how long a file takes there and back, both in seconds.

    `sent` and `received` are by the node's clock, `seen` and `answered` by doctor's. The difference is exact within
    half of the way there and back.
    """
    return ((sent - seen) + (received - answered)) / 2, (received - sent) - (answered - seen)


def _greet(server: socket.socket) -> None:
    while True:
        try:
            server.accept()[0].close()
        except OSError:
            return


def _compare_clocks(folder: Path, name: str, port: int) -> dict[str, Any]:
    answer_file = f"{name}.answer.json"
    sent = time.time()
    write_json(folder / f"{name}.hello.json", {"sent": sent, "host": socket.gethostname(), "port": port})
    deadline = time.monotonic() + ANSWER_LIMIT_S
    # listing the folder: a network file system may remember for long that a file was not there
    while answer_file not in os.listdir(folder):
        if time.monotonic() > deadline:
            return {"clock_ahead_s": None, "there_and_back_s": None}
        time.sleep(_POLL_S)
    received = time.time()
    answer = json.loads((folder / answer_file).read_text())
    ahead, way = clock_difference(sent, answer["seen"], answer["answered"], received)
    return {"clock_ahead_s": ahead, "there_and_back_s": way}


def _facts(folder: Path) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "python": sys.version.split()[0],
        "cores": len(os.sched_getaffinity(0)),
        "gpus": _gpus(),
        "spaces": _spaces(folder),
        "outside": _reaches_outside(),
        "rungs": _rungs(),
        "imports": _imports(),
    }


def _gpus() -> dict[str, Any]:
    """Name, driver and memory of each GPU that nvidia-smi shows to this job."""
    command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError:
        return {"visible": visible, "lines": [], "problem": "the node has no nvidia-smi"}
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"visible": visible, "lines": [], "problem": f"nvidia-smi: {error}"}
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []
    problem = "" if done.returncode == 0 else f"nvidia-smi: {(done.stderr or done.stdout).strip()}"
    return {"visible": visible, "lines": lines, "problem": problem}


def _spaces(folder: Path) -> list[dict[str, Any]]:
    """Where a unit may write: the variables of the site and the shared folder itself."""
    named = [(f"${key}", os.environ.get(key)) for key in ("SLURM_TMPDIR", "TMPDIR")]
    spaces = []
    for name, place in [*named, ("/tmp", "/tmp"), ("campaigns", str(folder))]:
        fact: dict[str, Any] = {"name": name, "path": place, "free_gb": None, "writable": False}
        if place and Path(place).is_dir():
            fact["free_gb"] = shutil.disk_usage(place).free / 1e9
            try:
                with tempfile.TemporaryFile(dir=place):
                    fact["writable"] = True
            except OSError:
                pass
        spaces.append(fact)
    return spaces


def _reaches_outside() -> bool:
    """In a thread of its own: without a network, looking up the name alone may take longer than any limit."""
    reached = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection(_OUTSIDE, timeout=_NETWORK_LIMIT_S).close()
            reached.set()
        except OSError:
            pass

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(_NETWORK_LIMIT_S)
    return reached.is_set()


def _rungs() -> dict[str, str]:
    """Each rung of isolation and why it does not work here; empty where it does."""
    try:
        from arch_search.jail import rungs

        return {rung: rungs.why_not(rung) for rung in rungs.LADDER}
    except Exception as error:
        return {"jail": f"can't be tried: {type(error).__name__}: {error}"}


def _imports() -> dict[str, Any]:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _IMPORTS], capture_output=True, text=True, timeout=_IMPORT_LIMIT_S, check=False
        )
        torch, h5py, cuda, count = json.loads(done.stdout.strip().splitlines()[-1])
    except subprocess.TimeoutExpired:
        return {"problem": f"importing torch took longer than {_IMPORT_LIMIT_S} s"}
    except (ValueError, IndexError):
        said = done.stderr.strip().splitlines()
        return {"problem": said[-1] if said else f"importing torch ended with exit code {done.returncode}"}
    return {"problem": "", "torch": torch, "h5py": h5py, "cuda": cuda, "devices": count}


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
