"""A small Slurm for property tests: array elements, their processes and files, and what squeue and sacct print of them.

It prints the real formats (slurm.states.SQUEUE_FORMAT and SACCT_FORMAT); its client programs can fail, lag, and print
answers that are cut, shuffled or no answers at all. Nothing in it knows how an answer is read or judged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from slurm.errors import UnavailableError
from slurm.units import ArrayJob, Evidence

ACTIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SUSPENDED", "SPECIAL_EXIT", "REQUEUE_HOLD")
MIN_JOB_AGE_S = 300.0
ACCOUNTING_LAG_S = 90.0
HELD = {"JobHeldUser": "PENDING", "job requeued in held state": "PENDING", "SPECIAL": "SPECIAL_EXIT"}
FAULTS = ("fail", "cut", "garbage", "late", "shuffled")


@dataclass(slots=True)
class Process:
    """One attempt on a node; it beats while it is not stopped, and may outlive what Slurm thinks of it."""

    unit: str
    stopped: bool = False


@dataclass(slots=True)
class Element:
    unit: str
    word: str = "PENDING"
    reason: str = "Priority"
    process: Process | None = None
    over_unix: float | None = None

    @property
    def is_active(self) -> bool:
        return self.word in ACTIVE

    @property
    def is_held(self) -> bool:
        return self.reason in HELD


@dataclass(slots=True)
class Array:
    job_id: str
    name: str
    comment: str
    elements: dict[int, Element]


@dataclass(slots=True)
class SimulatedSlurm:
    """`visible_s`: how late files written on a node are seen by the driver."""

    now: float = 1_000_000.0
    visible_s: float = 20.0
    arrays: dict[str, Array] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    results: dict[str, float] = field(default_factory=dict)  # unit -> when its result can be seen
    beats: dict[str, float] = field(default_factory=dict)
    calls: list[tuple[str, float]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)  # of the next answers
    _next_id: int = 1
    _accounts: list[tuple[float, str]] = field(default_factory=list)
    _printed: dict[str, list[tuple[float, str]]] = field(default_factory=dict)

    # what users and the site do

    def submit(self, name: str, comment: str, units: Sequence[str]) -> ArrayJob:
        job_id, self._next_id = str(self._next_id), self._next_id + 1
        elements = {index: Element(unit) for index, unit in enumerate(units)}
        self.arrays[job_id] = Array(job_id, name, comment, elements)
        return ArrayJob(job_id=job_id, offset=0, count=len(units))

    def start(self, element: Element) -> None:
        if element.word == "PENDING" and not element.is_held:
            element.word, element.reason = "CONFIGURING", "None"
        elif element.word == "CONFIGURING":
            element.word, element.process = "RUNNING", Process(element.unit)
            self.processes.append(element.process)

    def end(self, element: Element, word: str) -> None:
        """The program ends by itself (COMPLETED leaves a result) or Slurm ends it; first it is COMPLETING."""
        if element.word == "RUNNING" or (element.word == "SUSPENDED" and word == "CANCELLED"):
            self._stop(element, with_result=word == "COMPLETED")
            element.word, element.reason = "COMPLETING", word
        elif element.is_active and word == "CANCELLED":
            self._forget(element)  # squeue drops at once what is cancelled while it waits
        elif element.word == "COMPLETING":
            self._settle(element)

    def preempt(self, element: Element, mode: str) -> None:
        if element.word == "SUSPENDED" and element.process:
            element.word, element.process.stopped = "RUNNING", False
        elif element.word == "RUNNING" and element.process:
            if mode == "SUSPEND":
                element.word, element.process.stopped = "SUSPENDED", True
            else:
                self._stop(element, with_result=False)
                element.word = "COMPLETING"
                element.reason = "requeue" if mode == "REQUEUE" else "PREEMPTED"

    def lose_node(self, element: Element, *, requeue: bool) -> None:
        """Slurm gives the node up, while the process on it goes on."""
        if element.word == "RUNNING":
            element.process = None
            if requeue:
                element.word, element.reason = "PENDING", "BeginTime"
            else:
                self._finish(element, "NODE_FAIL")

    def hold(self, element: Element, reason: str) -> None:
        if element.word in ("PENDING", "SPECIAL_EXIT"):
            element.word, element.reason = ("PENDING", "Priority") if element.is_held else (HELD[reason], reason)

    def end_strays(self, *, with_result: bool) -> None:
        """Processes that Slurm has forgotten end."""
        known = [element.process for element in self.elements()]
        for process in [one for one in self.processes if one not in known]:
            self.processes.remove(process)
            if with_result:
                self.results.setdefault(process.unit, self.now + self.visible_s)

    def lose_state(self) -> None:
        """slurmctld starts with an empty state folder: it knows no job, and job ids begin at 1 again."""
        for element in self.elements():
            if element.process and element.process.stopped:
                self.processes.remove(element.process)
        self.arrays.clear()
        self._next_id = 1

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for process in self.processes:
            if not process.stopped:
                self.beats[process.unit] = self.now
        for element in self.elements():
            if element.over_unix is not None and self.now - element.over_unix > MIN_JOB_AGE_S:
                self._forget(element)

    # what can be seen

    def elements(self) -> list[Element]:
        return [element for array in self.arrays.values() for element in array.elements.values()]

    def evidence(self, unit: str) -> Evidence:
        """What the driver sees of the files; a beat is as old as the delay of the file system makes it."""
        beat = self.beats.get(unit)
        seen = None if beat is None else beat - self.visible_s
        return Evidence(done=self.results.get(unit, self.now + 1) <= self.now, heartbeat_unix=seen)

    def is_live(self, unit: str) -> bool:
        """Whether an attempt of the unit runs, or will run when it is left alone or released."""
        waits = any(element.unit == unit and element.is_active for element in self.elements())
        return waits or any(process.unit == unit for process in self.processes)

    def ask(self, command: Sequence[str]) -> str:
        """In the place of slurm.client.run_client."""
        program = command[0]
        self.calls.append((program, self.now))
        text = self.squeue() if program == "squeue" else self.sacct()
        printed = self._printed.setdefault(program, [])
        printed.append((self.now, text))
        fault = self.faults.pop(0) if self.faults else None
        if fault == "fail":
            raise UnavailableError(f"{program} failed with exit code 1: Unable to contact slurm controller")
        if fault == "garbage":
            return f"{program}: error: \x00|||7|?|\n{text[len(text) // 3 :]}"
        if fault == "cut":
            return text[: max(0, len(text) - 7)] or "1"
        if fault == "late":
            return next(old for unix, old in printed if self.now - unix <= ACCOUNTING_LAG_S)
        if fault == "shuffled":
            rows = text.splitlines(keepends=True)
            Random(len(printed)).shuffle(rows)
            return "".join(rows)
        return text

    def squeue(self) -> str:
        rows = []
        for array in self.arrays.values():
            for index, element in sorted(array.elements.items()):
                if element.word != "PENDING":
                    # an element that ends shows nothing of what it will be
                    reason = "None" if element.word == "COMPLETING" else element.reason
                    rows.append((array, str(index), element.word, reason))
            for reason in sorted({one.reason for one in array.elements.values() if one.word == "PENDING"}):
                waiting = [i for i, one in array.elements.items() if one.word == "PENDING" and one.reason == reason]
                rows.append((array, ",".join(map(str, sorted(waiting))) + "%4", "PENDING", reason))
        return "".join(
            f"{array.job_id}|{spec}|{word}|{reason}|{array.name}|{array.comment}|.\n"
            for array, spec, word, reason in rows
        )

    def sacct(self) -> str:
        return "".join(text for unix, text in self._accounts if self.now - unix >= ACCOUNTING_LAG_S)

    def _stop(self, element: Element, *, with_result: bool) -> None:
        if element.process:
            self.processes.remove(element.process)
            element.process = None
        if with_result:
            self.results.setdefault(element.unit, self.now + self.visible_s)

    def _settle(self, element: Element) -> None:
        if element.reason == "requeue":
            element.word, element.reason = "PENDING", "BeginTime"
        else:
            self._finish(element, element.reason)

    def _finish(self, element: Element, word: str) -> None:
        element.word, element.reason, element.over_unix = word, "None", self.now
        for array in self.arrays.values():
            for index, one in array.elements.items():
                if one is element:
                    # under cgroups only the step says that the memory was used up
                    job_word = "FAILED" if word == "OUT_OF_MEMORY" else word
                    lines = f"{array.job_id}_{index}|{job_word}|{array.name}\n{array.job_id}_{index}.0|{word}|bash\n"
                    self._accounts.append((self.now, lines))

    def _forget(self, element: Element) -> None:
        for array in self.arrays.values():
            array.elements = {index: one for index, one in array.elements.items() if one is not element}
