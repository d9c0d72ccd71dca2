"""What the rows of the fault table work with: a campaign on a real Slurm, and what must hold after every fault."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from arch_search.campaign import open_campaign
from arch_search.integrity import check_campaign
from cognition_db.experience.archive import ArchiveContents
from tests.owner import REPOSITORY
from tests.slurm_cluster.cluster import SlurmCluster
from tests.slurm_cluster.faults.processes import TrainingWatch
from tests.slurm_cluster.faults.undisturbed import ATTEMPTS, CAMPAIGN, measured, prepared, undisturbed

POLL_S = 1
LEAVING_S = 30.0  # for elements that have ended to leave the queue
ON_CLUSTER = (
    *("slurm=cluster", f"slurm.poll_s={POLL_S}", "slurm.max_parallel=2", "slurm.timeout_min=10"),
    *("slurm.memory_gb=1", "slurm.estimate_time=false", "slurm.lease_s=5", "slurm.warn_s=20"),
)
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
# shell text that kills the driver that this program was started by, however many programs are between them
KILL_DRIVER = """\
p=$PPID
until tr '\\0' ' ' < "/proc/$p/cmdline" | grep -q -e 'drive.py run ' -e 'arch_search.cli run '; do
    p=$(awk '{print $4}' "/proc/$p/stat")
done
kill -KILL "$p"
"""
Facts = Mapping[str, int | float | str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One cluster for one row. `is_short`: the form that the tests run; `rng` is the same in every run of the row."""

    cluster: SlurmCluster
    is_short: bool
    rng: random.Random

    def often(self, full: int, short: int) -> int:
        """How many times: `short` in the form that the tests run."""
        return short if self.is_short else full

    def wait_for(self, is_so: Callable[[], bool], problem: str, *, limit_s: float = 60.0) -> float:
        """Seconds until it was so; AssertionError with the problem after `limit_s`."""
        begun = time.monotonic()
        while not is_so():
            assert time.monotonic() - begun < limit_s, f"{problem} within {limit_s:g} s"
            time.sleep(0.1)
        return time.monotonic() - begun

    def ask(self, *command: str) -> str:
        """Output of a client of Slurm; it must succeed."""
        done = self.cluster.run_as_user(command)
        assert done.returncode == 0, f"{command[0]}: {done.stderr.strip()}"
        return done.stdout

    def queued(self) -> list[str]:
        """<job>_<index> and state of everything that is in the queue."""
        return self.ask("squeue", "-h", "-r", "-o", "%i %T").splitlines()

    def running(self) -> list[str]:
        """<job>_<index> of what runs, in order."""
        return self.ask("squeue", "-h", "-r", "-t", "running", "-o", "%i").split()

    def arrays_by_name(self) -> dict[str, set[str]]:
        """Job ids of our arrays of each name that Slurm has ever known."""
        if self.cluster.options.accounting:
            listed = self.ask("sacct", "-n", "-P", "-X", "-D", "-S", "now-1day", "-o", "JobName,JobID")
        else:
            listed = self.ask("squeue", "-h", "--states=all", "-o", "%j|%F")
        found: dict[str, set[str]] = {}
        for line in listed.splitlines():
            name, _, job = line.rpartition("|")
            if name.startswith("asx-"):
                found.setdefault(name, set()).add(job.partition("_")[0])
        return found

    def counting(self, *programs: str) -> tuple[dict[str, str], Callable[[], dict[str, int]]]:
        """An environment that counts the calls of these programs, and what tells the counts so far."""
        folder = self.cluster.make_folder(f"calls-{time.monotonic_ns()}")
        path = self.cluster.environment["PATH"]
        for program in programs:
            text = f'date +%s.%N >> "{folder}/{program}"; exec "$real" "$@"'
            path = f"{self.cluster.wrapper(program, text)['PATH'].partition(':')[0]}:{path}"

        def counts() -> dict[str, int]:
            files = {program: folder / program for program in programs}
            return {name: len(file.read_text().split()) if file.exists() else 0 for name, file in files.items()}

        return {"PATH": path}, counts


class Trial:
    """One campaign under a fault, driven by `arch-search run` as its user would.

    `is_prepared`: it begins with six trainings of generation 1 about to be submitted, else with nothing. `attempts`:
    campaign.attempts_per_task of a prepared one.
    """

    def __init__(self, bench: Bench, *overrides: str, is_prepared: bool, attempts: int = ATTEMPTS) -> None:
        self.bench = bench
        self.cwd = bench.cluster.make_folder(f"trial {time.monotonic_ns()}")
        self.folder = self.cwd / "campaign"
        self.greeting = f"campaign smoke in {self.folder}"
        self.greetings_before = 0
        same_questions = f"campaign.secret_from={self._secret_of_undisturbed().name}"
        self._overrides = [
            *(*CAMPAIGN, same_questions, f"campaign.attempts_per_task={attempts}"),
            *(*ON_CLUSTER, *overrides),
        ]
        self._driver: subprocess.Popen[bytes] | None = None
        if is_prepared:
            self.prepare(attempts)

    def _secret_of_undisturbed(self) -> Path:
        """A copy that the user of the cluster may read: the held-out questions follow from it."""
        mine, owner = self.cwd / "secret", self.bench.cluster.owner
        shutil.copy(prepared() / "driver" / "secret", mine)
        shutil.chown(mine, owner.uid, owner.gid)
        return mine

    def prepare(self, attempts: int = ATTEMPTS) -> None:
        """Copy the prepared campaign, with an identity of its own, since Slurm knows its arrays by that."""
        shutil.copytree(prepared(), self.folder, symlinks=True)
        known = self.folder / "campaign.json"
        facts = json.loads(known.read_text())
        facts["uuid"] = uuid.uuid4().hex
        facts["config"]["campaign"]["attempts_per_task"] = attempts
        known.write_text(json.dumps(facts))
        owner = self.bench.cluster.owner
        for path in (self.folder, *self.folder.rglob("*")):
            shutil.chown(path, owner.uid, owner.gid)

    # ---- the driver

    def start(self, *, env: Mapping[str, str] | None = None, word: str = "run") -> subprocess.Popen[bytes]:
        """A driver in the background; its output is appended to out.txt."""
        self.greetings_before = self.said().count(self.greeting)
        cluster = self.bench.cluster
        arguments = self._overrides if word == "run" else [str(self.folder)]
        command = [cluster.python, "-m", "arch_search.cli", word, *arguments]
        with self.output.open("ab") as out:
            self._driver = subprocess.Popen(
                cluster.user_command([*_DIES_WITH_US, *command]),
                cwd=self.cwd,
                env={**cluster.environment, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._driver

    def allow(self, *overrides: str) -> None:
        """Settings for the drivers that are started from now on."""
        self._overrides += overrides

    def kill(self, sign: signal.Signals = signal.SIGKILL) -> None:
        """End the driver alone; what it started must see to itself."""
        assert self._driver is not None
        self._driver.send_signal(sign)
        self._driver.wait()

    def finish(self, *, limit_s: float = 900, env: Mapping[str, str] | None = None) -> None:
        """Let the driver that runs, or else a new one, come to the end of the campaign."""
        driver = self._driver if self._driver and self._driver.poll() is None else self.start(env=env)
        try:
            code = driver.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"not finished after {limit_s:g} s: {self.said()[-1500:]}") from None
        assert code == 0, f"the driver ended with exit code {code}: {self.said()[-1500:]}"

    @property
    def is_over(self) -> bool:
        """Whether the driver has ended by itself, which it must not do before the campaign is finished."""
        return self._driver is not None and self._driver.poll() is not None

    @contextmanager
    def running(self, *, env: Mapping[str, str] | None = None) -> Iterator[TrainingWatch]:
        """The trainings are watched, and no driver is left when the block is left."""
        try:
            with TrainingWatch(self.folder) as watch:
                self.start(env=env)
                yield watch
        finally:
            if not self.is_over:
                self.kill()

    # ---- what its files say

    @property
    def output(self) -> Path:
        return self.cwd / "out.txt"

    def said(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def has_begun(self) -> bool:
        """Whether the driver started last holds the campaign, which its first words say."""
        return self.said().count(self.greeting) > self.greetings_before

    def is_submitted(self, generation: int) -> bool:
        """Whether the receipt of its first round is written."""
        path = self.folder / f"gen-{generation:04d}" / "submission-001.json"
        return path.exists() and json.loads(path.read_text())["state"] == "submitted"

    def contents(self) -> ArchiveContents:
        return open_campaign(self.folder).contents()

    def records(self) -> set[str]:
        """Files of measurements of single trainings, by generation, unit and training, in closed generations too."""
        found = {str(path.relative_to(self.folder)) for path in self.folder.glob("gen-*/units/*/*-s*.json")}
        for packed in self.folder.glob("gen-*/units.zip"):
            names = zipfile.ZipFile(packed).namelist()
            found |= {f"{packed.parent.name}/units/{name}" for name in names if fnmatch(name, "*/*-s*.json")}
        return found

    def heartbeats(self) -> dict[str, dict[str, Any]]:
        """Unit -> its heartbeat."""
        found = {}
        for path in self.folder.glob("gen-*/units/*/heartbeat.json"):
            found[path.parent.name] = json.loads(path.read_text())
        return found

    # ---- what must hold

    def check_clean(self) -> None:
        """fsck finds nothing: whatever was acknowledged is there, byte for byte."""
        if (self.folder / "campaign.json").exists():
            problems = check_campaign(open_campaign(self.folder))
            assert not problems, f"fsck: {'; '.join(f'{one.where}: {one.what}' for one in problems[:3])}"

    def check_measurements(self, *, without: str = "") -> int:
        """Every training measured what it measures undisturbed, to the last bit; their number.

        without: key of a training that is not looked at.
        """
        contents = self.contents()
        found, wanted = measured(contents), undisturbed()
        assert found.keys() == wanted.keys(), f"other trainings: {sorted(found.keys() ^ wanted.keys())}"
        causes = {one.task.key: f"{one.ending} {one.cause}" for one in contents.evaluations}
        looked_at = [key for key in wanted if key != without]
        for key in looked_at:
            assert found[key] == wanted[key], f"{key}: {found[key]} ({causes[key]}), undisturbed {wanted[key]}"
        return len(looked_at)

    def check_arrays(self, *, leaving_s: float = LEAVING_S) -> int:
        """One array for each name, none in the queue; their number."""
        begun = time.monotonic()
        while left := self.bench.queued():
            assert time.monotonic() - begun < leaving_s, f"left in the queue: {', '.join(left)}"
            time.sleep(0.5)
        arrays = self.bench.arrays_by_name()
        doubled = {name: sorted(ids) for name, ids in arrays.items() if len(ids) > 1}
        assert not doubled, f"arrays submitted twice: {doubled}"
        return len(arrays)

    def check_all(self, watch: TrainingWatch, *, leaving_s: float = LEAVING_S) -> Facts:
        """All of these, for a campaign that is finished."""
        self.check_clean()
        assert not watch.doubled, f"trained twice: {watch.doubled}"
        facts = {
            "trainings": self.check_measurements(),
            "arrays": self.check_arrays(leaving_s=leaving_s),
            "doubled": 0,
            "lost": 0,
        }
        resumed = sum(one.resumed_from_step > 0 for one in self.contents().evaluations)
        return {**facts, "resumed": resumed}


class Batch:
    """Light units (a shell that sleeps) driven by drive.py as the user of the cluster would drive them."""

    def __init__(self, bench: Bench, name: str, *options: str) -> None:
        self.cluster = bench.cluster
        self.folder = bench.cluster.make_folder(f"{name} units")
        self._comment = f"asx-{name}"
        self._options = options

    def command(self, action: str, *options: str) -> list[str]:
        drive = str(REPOSITORY / "tests/slurm_cluster/drive.py")
        return [self.cluster.python, drive, action, str(self.folder), self._comment, *self._options, *options]

    def __call__(
        self, action: str, *options: str, env: Mapping[str, str] | None = None, limit_s: float = 300
    ) -> dict[str, Any]:
        """The answer of drive.py."""
        done = self.cluster.run_as_user(self.command(action, *options), env=env, timeout_s=limit_s)
        assert done.returncode == 0, done.stderr[-1500:]
        answer: dict[str, Any] = json.loads(done.stdout)
        assert "error" not in answer, answer
        return answer

    @contextmanager
    def start(
        self, action: str, *options: str, env: Mapping[str, str] | None = None
    ) -> Iterator[subprocess.Popen[str]]:
        """drive.py in the background; its answer comes from `answer_of`."""
        process = subprocess.Popen(
            self.cluster.user_command([*_DIES_WITH_US, *self.command(action, *options)]),
            cwd=self.cluster.workdir,
            env={**self.cluster.environment, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def starts(self) -> list[str]:
        """Names of the units that began, one entry for each job that began them."""
        return sorted(path.name.partition(".")[0] for path in self.folder.glob("*.started.*"))

    def done(self) -> list[str]:
        return sorted(path.name.partition(".")[0] for path in self.folder.glob("*.done"))


def answer_of(process: subprocess.Popen[str], *, limit_s: float) -> dict[str, Any]:
    """What drive.py printed, once it has ended."""
    try:
        out, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"the driver of the units did not end within {limit_s:g} s") from None
    assert process.returncode == 0, f"exit code {process.returncode}: {errors[-1500:]}"
    answer: dict[str, Any] = json.loads(out)
    assert "error" not in answer, answer
    return answer
