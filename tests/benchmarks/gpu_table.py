"""The table of `make bench-gpu`: lines to text, and the dated file with what they were measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import datetime
from importlib import metadata
from pathlib import Path

import torch

from tests.benchmarks.gpu_rows import Line
from tests.benchmarks.gpu_timing import REPEATS, STEADY, WARM_UPS

PEERS = ("flash-linear-attention", "liger-kernel")


def verdict(line: Line) -> str:
    """What became of the target; empty where there is none."""
    if line.target is None:
        return ""
    if line.ratio is None:
        return "not measured"
    return "met" if (line.ratio <= line.target if line.at_most else line.ratio >= line.target) else "missed"


def table(lines: Sequence[Line]) -> list[str]:
    head = f"{'':2}{'variant':12}{'median':>12}{'quartiles':>24}{'ratio':>10}{'target':>10}  "
    text = []
    for title in dict.fromkeys(line.row for line in lines):
        text += [title, head.rstrip(), *(_row(line) for line in lines if line.row == title), ""]
    return text


def head(device: str, *, driver: str, root: Path, now: datetime) -> list[str]:
    """What was measured on what, and how to read the table."""
    commit = _output(["git", "-C", str(root), "rev-parse", "--short", "HEAD"]) or "unknown"
    versions = [f"{name} {_version(name)}" for name in ("torch", "triton", *PEERS)]
    return [
        f"{now:%Y-%m-%d %H:%M}, {device}, driver {driver}, CUDA {torch.version.cuda}, commit {commit}, "
        f"Python {platform.python_version()}, {os.cpu_count()} cores",
        ", ".join(versions),
        "",
        f"Median and quartiles of {REPEATS} repeats after {WARM_UPS} warm-ups, the variants of a row in turn, the L2 "
        "cache flushed before each.",
        "Ratio of a variant: how many times faster ours is. Ratio of the floor: how many times slower ours is than the "
        "bytes and operations",
        f"of the row at the rates measured beside it. None where quartiles spread over more than {STEADY:.0%} of the "
        "median. A variant is timed only",
        "after its outputs and gradients were found equal to the definition within the row's tolerance.",
        "",
    ]


def write(folder: Path, text: Sequence[str], *, device: str, now: datetime) -> Path:
    """Keep the table of this day and device; a second one of a day takes the place of the first."""
    folder.mkdir(exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    path = folder / f"gpu-{name}-{now:%Y-%m-%d}.md"
    path.write_text("\n".join(["```", *text, "```", ""]))
    return path


def driver_version() -> str:
    answer = _output(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"])
    return answer.splitlines()[0] if answer else "unknown"


def _row(line: Line) -> str:
    if line.median is None:
        return f"{'':2}{line.variant:12}{line.note or 'not measured'}{_goal(line)}"
    middle = f"{line.median:.4g} {line.unit}"
    spread = f"{line.low:.4g} to {line.high:.4g}" if line.low is not None and line.high is not None else ""
    ratio = f"{line.ratio:.2f}x" if line.ratio is not None else ""
    target = "" if line.target is None else f"{'<=' if line.at_most else '>='} {line.target:g}x"
    rest = " ".join(part for part in (verdict(line), line.note) if part)
    return f"{'':2}{line.variant:12}{middle:>12}{spread:>24}{ratio:>10}{target:>10}  {rest}".rstrip()


def _goal(line: Line) -> str:
    return "" if line.target is None else f" (target {'<=' if line.at_most else '>='} {line.target:g}x)"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _output(command: Sequence[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""
