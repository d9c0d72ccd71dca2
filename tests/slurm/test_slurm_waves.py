"""ClusterLauncher submitting in waves: limits, refusals, crashes around sbatch. sbatch and squeue play what is told."""

from __future__ import annotations

import fcntl
import json
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from slurm import (
    ClusterLauncher,
    Evidence,
    Order,
    Resources,
    Submission,
    SubmitError,
    UnavailableError,
    UnitState,
    WorkUnit,
    batch,
)
from slurm.files import Desk, Intent, arrays_of, tidy

RECORDED = Path(__file__).parent / "recorded"
NOTHING: Callable[[str], Evidence] = lambda unit: Evidence(done=False)  # noqa: E731
# takes arrays while the user has at most `limit` elements; counts as slurmctld does
_SBATCH = """
echo >> {folder}/sbatch.calls
limit=$(cat {folder}/limit) held=$(awk '{{n += $3}} END {{print n + 0}}' {folder}/queue)
script="${{@: -1}}" last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\).*/\\1/p' "$script")
name=$(sed -n 's/^#SBATCH --job-name=//p' "$script")
if [ -e {folder}/refusal ]; then cat {folder}/refusal >&2; exit 1; fi
if [ $((held + last + 1)) -gt "$limit" ]; then
    echo "sbatch: error: AssocMaxSubmitJobLimit" >&2
    echo "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)" >&2
    exit 1
fi
id=$(($(wc -l < {folder}/ids) + 1)); echo >> {folder}/ids
echo "$id $name $((last + 1))" >> {folder}/queue
cp "$script" {folder}/script-$id.sh
echo "Submitted batch job $id"
"""
_SQUEUE = """
echo >> {folder}/squeue.calls
while read id name count; do echo "$id|[0-$((count - 1))]|PENDING|Priority|$name|asx waves|."; done < {folder}/queue
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class Queue:
    """A PATH with a Slurm of one user that takes `limit` elements; jobs leave it when the test says so."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "bin"
        self.folder.mkdir()
        self.files = folder / "campaign files"
        self.clock = Clock()
        monkeypatch.setenv("PATH", f"{self.folder}:/usr/bin:/bin")
        for name in ("queue", "ids", "limit"):
            (self.folder / name).touch()
        self.limit(1000)
        config = (RECORDED / "scontrol_config.txt").read_text().replace("/slurmdbd", "/none")
        self.site(config)
        self.act("sbatch", _SBATCH.format(folder=self.folder))
        self.act("squeue", _SQUEUE.format(folder=self.folder))
        self.act("scancel", f'echo "$@" >> {self.folder}/cancelled')

    def act(self, program: str, text: str) -> None:
        path = self.folder / program
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)

    def site(self, config: str) -> None:
        (self.folder / "config").write_text(config)
        self.act("scontrol", f"cat {self.folder}/config")

    def limit(self, elements: int) -> None:
        (self.folder / "limit").write_text(str(elements))

    def leave(self, *job_ids: str) -> None:
        rows = [row for row in (self.folder / "queue").read_text().splitlines() if row.split()[0] not in job_ids]
        (self.folder / "queue").write_text("".join(f"{row}\n" for row in rows))

    def calls(self, program: str) -> int:
        path = self.folder / f"{program}.calls"
        return len(path.read_text()) if path.exists() else 0

    def launcher(self, *, max_submitted: int = 0, max_parallel: int = 0) -> ClusterLauncher:
        return ClusterLauncher(
            Resources(cpus_per_task=1, memory_gb=1, timeout_min=5),
            poll_s=10, max_submitted=max_submitted, max_parallel=max_parallel, clock=self.clock,
        )  # fmt: skip

    def order(self, count: int) -> Order:
        return Order(
            units=units(count), command=lambda index: ["true", str(index)], folder=self.files, name="asx-test",
            comment="asx waves", environment={},
        )  # fmt: skip

    def submit(self, launcher: ClusterLauncher, count: int) -> Submission:
        return launcher.submit(self.order(count))

    def sizes(self, submission: Submission) -> list[int]:
        return [array.count for array in arrays_of(submission)]

    @property
    def desk(self) -> Desk:
        return Desk(self.files, "asx waves")


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Queue:
    return Queue(tmp_path, monkeypatch)


def units(count: int) -> tuple[WorkUnit, ...]:
    return tuple(WorkUnit(name=f"u{index:03d}", index=index) for index in range(count))


def test_what_has_no_room_waits_with_the_limit_in_its_note_and_follows_later(queue: Queue) -> None:
    launcher = queue.launcher(max_submitted=40)
    receipt = queue.submit(launcher, 100)
    states = launcher.states(receipt, units(100), NOTHING)
    assert queue.sizes(receipt) == [32, 8]
    assert states["u000"] is states["u099"] is UnitState.WAITING
    assert launcher.notes(receipt)["u099"] == "not submitted yet: slurm.max_submitted=40 leaves no room"
    queue.leave("1")
    queue.clock.now += 11
    launcher.states(receipt, units(100), NOTHING)
    assert queue.sizes(receipt) == [32, 8, 32]
    queue.leave("2", "3")
    queue.clock.now += 11
    states = launcher.states(receipt, units(100), NOTHING)
    assert queue.sizes(receipt) == [32, 8, 32, 28]
    assert set(states.values()) == {UnitState.WAITING, UnitState.UNKNOWN}


def test_a_site_that_refuses_for_lack_of_room_is_no_error_and_teaches_its_limit(queue: Queue) -> None:
    queue.limit(20)
    launcher = queue.launcher()
    receipt = queue.submit(launcher, 50)
    assert sum(queue.sizes(receipt)) <= 20
    assert sum(queue.sizes(receipt)) >= 16
    asked = queue.calls("sbatch")
    for _ in range(5):
        launcher.states(receipt, units(50), NOTHING)
        queue.clock.now += 11
    assert queue.calls("sbatch") <= asked + 1
    assert "AssocMaxSubmitJobLimit" in launcher.notes(receipt)["u049"]


def test_a_full_queue_is_tried_once_for_each_answer_of_squeue(queue: Queue) -> None:
    queue.limit(0)
    launcher = queue.launcher()
    receipt = queue.submit(launcher, 1)
    for _ in range(30):
        launcher.states(receipt, units(1), NOTHING)
        queue.clock.now += 1
    assert queue.calls("sbatch") <= 5


def test_every_unit_passes_a_queue_of_20_whose_limit_nobody_told(queue: Queue) -> None:
    queue.limit(20)
    launcher = queue.launcher()
    receipt = queue.submit(launcher, 200)
    for turn in range(100):
        if sum(queue.sizes(receipt)) == 200:
            break
        queue.clock.now += 11
        launcher.states(receipt, units(200), NOTHING)
        queue.leave(*(array.job_id for array in arrays_of(receipt)[: turn + 1]))
    covered = [array.offset + index for array in arrays_of(receipt) for index in range(array.count)]
    assert covered == list(range(200))
    assert queue.calls("squeue") <= 102


def test_jobs_of_the_user_that_are_no_arrays_take_room_too(queue: Queue) -> None:
    queue.act("squeue", 'for id in 901 902 903; do echo "$id|N/A|RUNNING|None|notebook|(null)|."; done')
    queue.site((queue.folder / "config").read_text().replace("MaxJobCount             = 5000", "MaxJobCount = 8"))
    receipt = queue.submit(queue.launcher(), 30)
    assert queue.sizes(receipt) == [5]


def test_a_request_that_the_site_never_takes_is_one_line_with_slurms_words(queue: Queue) -> None:
    (queue.folder / "refusal").write_text(
        "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified\n"
    )
    with pytest.raises(SubmitError, match="Invalid account or account/partition") as refused:
        queue.submit(queue.launcher(), 3)
    assert "\n" not in str(refused.value)
    assert not list(queue.desk.root.glob("*.intent"))


def test_a_controller_that_is_away_is_asked_again_later_and_nothing_is_submitted_twice(queue: Queue) -> None:
    refusal = queue.folder / "refusal"
    refusal.write_text(
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)\n"
    )
    launcher = queue.launcher()
    with pytest.raises(UnavailableError, match="Unable to contact slurm controller"):
        queue.submit(launcher, 3)
    refusal.unlink()
    queue.clock.now += 11
    assert queue.sizes(queue.submit(launcher, 3)) == [3]
    assert len((queue.folder / "queue").read_text().splitlines()) == 1


def test_an_array_that_slurm_took_before_the_driver_died_is_put_on_record_and_not_submitted_again(queue: Queue) -> None:
    receipt = queue.submit(queue.launcher(), 3)
    forget_job(queue, count=3)
    found = queue.launcher().find("asx waves", folder=queue.files)
    assert found is not None
    assert [(array.job_id, array.offset, array.count) for array in found.arrays] == [("1", 0, 3)]
    assert queue.sizes(receipt) == [3]
    assert queue.calls("sbatch") == 1


def test_an_array_that_never_reached_slurm_is_submitted_by_the_next_driver(queue: Queue) -> None:
    queue.submit(queue.launcher(), 3)
    forget_job(queue, count=3)
    queue.leave("1")
    launcher = queue.launcher()
    found = launcher.find("asx waves", folder=queue.files)
    assert found is not None
    assert found.arrays == ()
    queue.clock.now += 11
    launcher.states(found, units(3), NOTHING)
    assert [array.job_id for array in arrays_of(found)] == ["2"]


def test_a_living_sbatch_of_a_killed_driver_is_waited_for(queue: Queue) -> None:
    queue.submit(queue.launcher(), 3)
    forget_job(queue, count=3)
    with queue.desk.submit_lock.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UnavailableError, match="an sbatch of an earlier driver has not ended"):
            queue.launcher().find("asx waves", folder=queue.files)
    assert queue.launcher().find("asx waves", folder=queue.files) is not None


def test_an_sbatch_that_starts_after_its_array_was_given_up_submits_nothing(queue: Queue) -> None:
    queue.submit(queue.launcher(), 3)
    token = forget_job(queue, count=3)
    queue.leave("1")
    queue.launcher().find("asx waves", folder=queue.files)
    script = next(queue.desk.root.glob("*_submission.sh"))
    late = ["flock", str(queue.desk.submit_lock), "sh", "-c", batch.GUARDED, "sbatch", token, str(queue.desk.intent(0))]
    done = subprocess.run([*late, "60", str(script)], capture_output=True, check=False)
    assert done.returncode != 0
    assert queue.calls("sbatch") == 1


def test_a_second_array_of_the_same_name_is_cancelled(queue: Queue) -> None:
    launcher = queue.launcher()
    receipt = queue.submit(launcher, 3)
    with (queue.folder / "queue").open("a") as rows:
        rows.write(f"7 asx-test-{queue.desk.key}-0 3\n")
    queue.clock.now += 11
    launcher.states(receipt, units(3), NOTHING)
    assert (queue.folder / "cancelled").read_text().split() == ["--quiet", "7"]


def test_a_cancelled_submission_submits_nothing_more_and_its_other_units_end(queue: Queue) -> None:
    launcher = queue.launcher(max_submitted=10)
    receipt = queue.submit(launcher, 30)
    launcher.cancel(receipt)
    queue.leave("1")
    queue.clock.now += 11
    states = launcher.states(receipt, units(30), NOTHING)
    assert queue.sizes(receipt) == [10]
    assert states["u029"] is UnitState.ENDED
    assert launcher.notes(receipt)["u029"] == "was cancelled before it was submitted"


def test_the_first_receipt_is_valid_for_arrays_that_came_later(queue: Queue) -> None:
    launcher = queue.launcher(max_submitted=10)
    receipt = Submission.from_json(json.loads(json.dumps(queue.submit(launcher, 20).to_json())))
    queue.leave("1")
    queue.clock.now += 11
    launcher.states(receipt, units(20), NOTHING)
    queue.clock.now += 11
    states = queue.launcher().states(receipt, units(20), NOTHING)
    assert [array.job_id for array in arrays_of(receipt)] == ["1", "2"]
    assert states["u015"] is UnitState.WAITING
    assert queue.calls("sbatch") == 2


def test_arrays_under_a_throttle_wait_for_each_other_only_where_they_would_break_it(queue: Queue) -> None:
    queue.submit(queue.launcher(max_parallel=40), 70)
    dependencies = [
        re.findall("--dependency=(.*)", (queue.folder / f"script-{index}.sh").read_text()) for index in (1, 2, 3)
    ]
    assert dependencies == [[], ["afterany:1"], ["afterany:2"]]
    assert "--array=0-31%40" not in (queue.folder / "script-1.sh").read_text()


def test_the_wall_time_of_a_submission_goes_before_that_of_the_resources(queue: Queue) -> None:
    queue.launcher().submit(replace(queue.order(1), timeout_min=3))
    script = (queue.folder / "script-1.sh").read_text()
    assert "#SBATCH --time=3\n" in script
    assert "#SBATCH --signal=B:USR1@90\n" in script


def test_a_rehearsal_is_the_text_that_is_submitted_and_writes_nothing(queue: Queue) -> None:
    launcher = queue.launcher(max_parallel=2)
    rehearsal = launcher.rehearse(queue.order(40), limits=launcher.limits)
    assert not queue.files.exists()
    queue.submit(launcher, 40)
    submitted = [(queue.folder / f"script-{index}.sh").read_text() for index in (1, 2)]
    assert [script.replace("JOB1", "1") for script in rehearsal.scripts] == submitted


def test_a_unit_whose_command_holds_a_line_end_gets_it_as_it_is(queue: Queue) -> None:
    order = replace(queue.order(1), command=lambda index: ["printf", "%s|", "two\nlines", "it's\n"])
    queue.launcher().submit(order)
    line = queue.desk.commands(0).read_text().splitlines()
    assert len(line) == 1
    subprocess.run(["bash", "-c", line[0]], check=True)
    assert queue.desk.log("u000").read_text() == "two\nlines|it's\n|"


def test_a_tidied_submission_keeps_its_job_ids_and_at_most_two_files_for_each_array(queue: Queue) -> None:
    receipt = queue.submit(queue.launcher(), 70)
    (queue.desk.root / "1.out").touch()
    (queue.desk.root / "2.out").write_text("slurmstepd: error: CANCELLED DUE TO TIME LIMIT")
    known = arrays_of(receipt)
    tidied = tidy(receipt)
    assert (tidied.ours, tidied.submitit) == (5, 3)
    assert arrays_of(receipt) == known
    assert sorted(path.name for path in queue.desk.root.iterdir()) == [
        "0.job",
        "2.out",
        "32.job",
        "64.job",
        "plan.json",
    ]


def forget_job(queue: Queue, *, count: int) -> str:
    """Leave the desk as a driver does that is killed after sbatch; the token of its intent."""
    queue.desk.job(0).unlink()
    queue.desk.write_intent(Intent(offset=0, count=count, token="t0ken", written_unix=queue.clock.now))
    return "t0ken"
