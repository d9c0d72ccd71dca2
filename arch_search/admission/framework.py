"""What a program may not touch: functions of torch, of Python and of the checks, process-wide switches, other frames.

Compared in the process that runs the program: it tells of what a program does, and an attacker who rewrites this
module too is not told. What such a program computes is judged from outside.
"""

from __future__ import annotations

import builtins
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import torch
from torch import nn

from cognition_db.records import Verdict

_WATCHED = ("builtins", "math", "json", "os", "time", "random", "torch", "torch.linalg", "torch.fft", "torch.overrides")
_WITH_CLASSES = ("torch.nn.modules", "torch.optim", "torch.autograd", "torch.nn.functional", "torch.nn.init")
_OURS = ("arch_search", "cognition_db")
# nothing of ours or of torch adds to them while it runs, lazily imported submodules apart
_CLOSED: tuple[Any, ...] = (torch, torch.nn.functional, torch.Tensor, nn.Module, builtins)
_REACHING = frozenset(
    {"sys._getframe", "sys._current_frames", "gc.get_objects", "gc.get_referrers", "gc.get_referents"}
)
_OF_PYTHON = {"__slotnames__"}  # kept on a class when one of its objects is copied or loaded
_STEPS_TO_PROGRAM = 2
UNTOUCHED = Verdict(check="framework", outcome="passed", reason="torch, Python and the checks are unchanged")


@dataclass(slots=True)
class Framework:
    """The state at the start of an examination, and where the program has reached since."""

    _values: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)
    _switches: dict[str, Any] = field(default_factory=dict)
    reached: str = ""

    def __post_init__(self) -> None:
        self._values = {name: (owner, dict(vars(owner))) for name, owner in _namespaces()}
        self._switches = _switches()

    def altered(self) -> str:
        """The first thing that is not as it was, in words; empty where all is."""
        if self.reached:
            return self.reached
        for name, value in _switches().items():
            if value != self._switches[name]:
                return f"{name} was {self._switches[name]} and is {value}"
        for path, (owner, before) in self._values.items():
            now = vars(owner)
            for name, value in before.items():
                if now.get(name) is not value and not _is_lazy(value, now.get(name)):
                    return f"{path}.{name} is replaced"
            if any(owner is closed for closed in _CLOSED):
                for name in now.keys() - before.keys() - _OF_PYTHON:
                    if not isinstance(now[name], ModuleType) and not _is_inherited(owner, name, now[name]):
                        return f"{path}.{name} is new"
        return ""

    def verdict(self, during: str) -> Verdict | None:
        changed = self.altered()
        if not changed:
            return None
        return Verdict(
            check="framework",
            outcome="failed",
            reason=f"touches what is not its own, while checking {during}: {changed}",
            refuses=True,
        )

    @contextmanager
    def watching(self, program: Path) -> Iterator[None]:
        """Inside, looks of the program at frames and live objects are kept in `reached`."""
        _install_hook()
        _watched.append((str(program), self))
        try:
            yield
        finally:
            _watched.pop()


_watched: list[tuple[str, Framework]] = []
_installed: list[bool] = []
_busy: list[bool] = []


def _install_hook() -> None:
    """Once for the process: an audit hook cannot be taken off again."""
    if not _installed:
        sys.addaudithook(_audit)
        _installed.append(True)


def _audit(event: str, _arguments: tuple[Any, ...]) -> None:
    if event not in _REACHING or not _watched or _busy:
        return
    program, framework = _watched[-1]
    # the next line is such an event itself
    _busy.append(True)
    frame: FrameType | None = sys._getframe(1)
    _busy.clear()
    for _ in range(_STEPS_TO_PROGRAM):
        # inspect.currentframe stands between; other callers in between are libraries on their own business
        if frame is None or frame.f_code.co_filename == program or frame.f_globals.get("__name__") != "inspect":
            break
        frame = frame.f_back
    if frame is not None and frame.f_code.co_filename == program and not framework.reached:
        framework.reached = f"line {frame.f_lineno} calls {event}"


def _namespaces() -> Iterator[tuple[str, Any]]:
    yield "torch.Tensor", torch.Tensor
    for name, module in list(sys.modules.items()):
        if module is None or not hasattr(module, "__dict__"):
            continue
        classed = name.startswith((*_WITH_CLASSES, *_OURS))
        if name in _WATCHED or classed:
            yield name, module
        for key, value in list(vars(module).items()) if classed else ():
            if isinstance(value, type) and value.__module__ == name:
                yield f"{name}.{key}", value


def _switches() -> dict[str, Any]:
    hooks = {name: len(value) for name, value in vars(nn.modules.module).items() if _is_hook_table(name, value)}
    return hooks | {
        "the default dtype": torch.get_default_dtype(),
        "gradient mode": torch.is_grad_enabled(),
        "the number of threads of torch": torch.get_num_threads(),
        "deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "the number of torch function modes": torch._C._len_torch_function_stack(),
        "the number of dispatch modes": torch._C._len_torch_dispatch_stack(),
        "the trace function": sys.gettrace(),
        "the profile function": sys.getprofile(),
        "the number of threads": threading.active_count(),
        "the number of child processes": _children(),
    }


def _is_hook_table(name: str, value: Any) -> bool:
    return name.startswith("_global_") and name.endswith("hooks") and isinstance(value, dict)


def _is_lazy(before: Any, now: Any) -> bool:
    """torch puts some values in place at first use, and wraps a few functions once its compiler is imported."""
    code = getattr(now, "__code__", None)
    if before is getattr(now, "__wrapped__", now) and code is not None:
        return str(code.co_filename).startswith(str(Path(torch.__file__).parent))
    return before is None or (not callable(before) and type(before) is type(now))


def _is_inherited(owner: Any, name: str, value: Any) -> bool:
    """What was replaced for a while and put back is then an attribute of the class itself."""
    return isinstance(owner, type) and any(vars(base).get(name) is value for base in owner.__mro__[1:])


def _children() -> int:
    try:
        return len(Path("/proc/thread-self/children").read_text().split())
    except OSError:
        return 0
