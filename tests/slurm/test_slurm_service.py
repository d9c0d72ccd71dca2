"""Services: the script of one long-lived job, what squeue's words mean for it, and what is on file when."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from slurm.errors import SlurmError, SubmitError, UnavailableError
from slurm.service import ServiceJob, ServiceLauncher
from slurm.service_text import ServiceState, judge_row, sbatch_options, service_script
from slurm.states import parse_sacct, parse_squeue
from slurm.units import Resources

ASKED = Resources(cpus_per_task=4, memory_gb=1.5, timeout_min=240, partition="gpu", gres="gpu:a100:1", mail_type="FAIL")
NAME = "asx-llm-ca978112ca1b"  # what the launcher makes of asx-llm and the comment "a"


def test_the_options_ask_for_what_is_set_and_never_for_a_requeue_by_themselves() -> None:
    assert sbatch_options(ASKED) == {
        "nodes": 1,
        "ntasks": 1,
        "cpus-per-task": 4,
        "mem": "1536M",
        "time": 240,
        "partition": "gpu",
        "gres": "gpu:a100:1",
        "mail-type": "FAIL",
        "no-requeue": True,
    }


def test_extra_options_go_before_ours_where_they_say_the_same() -> None:
    extra = Resources(
        cpus_per_task=1, memory_gb=1, timeout_min=1, extra_sbatch={"mem_per_gpu": "20G", "requeue": True, "nice": 5}
    )
    options = sbatch_options(extra)
    assert options["mem-per-gpu"] == "20G"
    assert options["nice"] == 5
    assert {"mem", "no-requeue"} & set(options) == set()
    with pytest.raises(SubmitError, match="extra_sbatch may not set output, signal"):
        sbatch_options(
            Resources(cpus_per_task=1, memory_gb=1, timeout_min=1, extra_sbatch={"output": "x", "signal": 1})
        )


def test_the_script_runs_its_command_in_place_of_the_shell_with_every_word_kept(tmp_path: Path) -> None:
    command = ["python3", "-c", "import os, sys; print(os.getpid(), os.environ['MARK'], sys.argv[1:])", "it's", "a b"]
    text = service_script(command, {"time": 5, "requeue": True}, setup=["echo $$"], environment={"MARK": "x'y $HOME"})
    assert "#SBATCH --requeue\n#SBATCH --time=5\n" in text
    said = subprocess.run(["bash"], input=text, capture_output=True, text=True, check=True).stdout.split("\n")
    assert said[1] == f"{said[0]} x'y $HOME [\"it's\", 'a b']"


@pytest.mark.parametrize(
    "word, reason, state, said",
    [
        ("PENDING", "Priority", ServiceState.WAITING, "waits: Priority"),
        ("PENDING", "None", ServiceState.WAITING, ""),
        ("CONFIGURING", "None", ServiceState.WAITING, "booting"),
        ("PENDING", "JobHeldUser", ServiceState.HELD, "scontrol release"),
        ("PENDING", "PartitionTimeLimit", ServiceState.HELD, "timeout_min"),
        ("RUNNING", "None", ServiceState.RUNNING, ""),
        ("COMPLETING", "None", ServiceState.RUNNING, ""),
        ("TIMEOUT", "TimeLimit", ServiceState.ENDED, "job 17 reached its time limit"),
        ("CANCELLED", "None", ServiceState.ENDED, "job 17 was cancelled"),
        ("PREEMPTED", "None", ServiceState.ENDED, "job 17 was preempted"),
        ("A_NEW_WORD", "None", ServiceState.UNKNOWN, "A_NEW_WORD"),
    ],
)
def test_every_word_of_squeue_has_a_meaning_for_a_service(
    word: str, reason: str, state: ServiceState, said: str
) -> None:
    answer = parse_squeue(f"17|N/A|{word}|{reason}|{NAME}|a|.\n")
    assert answer.whole
    assert answer.rows == ()
    status = judge_row(answer.singles[0])
    assert status.state is state
    assert said in status.reason


def test_jobs_that_are_no_arrays_are_kept_apart_from_arrays_in_both_answers() -> None:
    queue = parse_squeue(f"17|N/A|RUNNING|None|{NAME}|a|.\n18|[0-3]|PENDING|Priority|asx|c|.\n")
    assert [row.job_id for row in queue.singles] == ["17"]
    assert [row.job_id for row in queue.rows] == ["18"]
    past = parse_sacct(f"17|CANCELLED by 1000|{NAME}\n17.batch|CANCELLED|batch\n18_0|COMPLETED|asx\n")
    assert [(row.job_id, row.word) for row in past.singles] == [("17", "CANCELLED")]
    assert [row.job_id for row in past.rows] == ["18"]


# ---- with programs in the place of Slurm's, which print what was recorded

Slurm = Callable[..., None]


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Slurm:
    """Makes programs of the given names that run the given shell text; each call is a line in calls.txt."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def programs(**texts: str) -> None:
        for name, text in {"squeue": "", "sacct": "", "scontrol": "echo MaxArraySize = 9", **texts}.items():
            calls = shlex.quote(str(tmp_path / "calls.txt"))
            (folder / name).write_text(f"#!/bin/sh\necho {name} >> {calls}\n{text}\n")
            (folder / name).chmod(0o755)

    return programs


def submit(folder: Path) -> ServiceJob:
    return ServiceLauncher(poll_s=0).submit(
        ["true"], resources=ASKED, folder=folder, name="asx-llm", comment="a", environment={}
    )


def desk(folder: Path) -> Path:
    return folder / "ca978112ca1b"


def calls(folder: Path) -> Sequence[str]:
    return (folder / "calls.txt").read_text().split()


def test_a_service_is_submitted_once_however_often_it_is_asked_for(tmp_path: Path, slurm: Slurm) -> None:
    slurm(sbatch="echo 4711")
    first = submit(tmp_path)
    assert first.job_id == "4711"
    assert first.name == NAME
    assert submit(tmp_path) == first
    assert ServiceLauncher(poll_s=0).find("a", folder=tmp_path) == first
    assert calls(tmp_path) == ["sbatch"]


def test_the_script_and_the_intent_are_on_file_before_sbatch_is_called(tmp_path: Path, slurm: Slurm) -> None:
    slurm(sbatch=f"test -s {desk(tmp_path)}/intent.json && test -s {desk(tmp_path)}/script.sh && echo 12")
    assert submit(tmp_path).job_id == "12"


def test_a_job_whose_receipt_was_lost_is_found_by_its_name_and_not_submitted_again(
    tmp_path: Path, slurm: Slurm
) -> None:
    slurm(sbatch="echo 4711", squeue=f"echo '4711|N/A|RUNNING|None|{NAME}|a|.'; echo '9|N/A|RUNNING|None|other|b|.'")
    first = submit(tmp_path)
    (desk(tmp_path) / "job.json").unlink()
    assert submit(tmp_path) == first
    assert calls(tmp_path).count("sbatch") == 1


def test_a_job_that_squeue_has_forgotten_is_found_in_the_accounting(tmp_path: Path, slurm: Slurm) -> None:
    config = "echo 'MaxArraySize = 9'; echo 'AccountingStorageType = accounting_storage/slurmdbd'"
    slurm(sbatch="echo 4711", scontrol=config, sacct=f"echo '4711|TIMEOUT|{NAME}'")
    first = submit(tmp_path)
    (desk(tmp_path) / "job.json").unlink()
    assert ServiceLauncher(poll_s=0).find("a", folder=tmp_path) == first
    status = ServiceLauncher(poll_s=0).state(first)
    assert (status.state, status.reason) == (ServiceState.ENDED, "job 4711 reached its time limit")


def test_while_slurm_is_silent_nothing_is_submitted_a_second_time(tmp_path: Path, slurm: Slurm) -> None:
    slurm(sbatch="echo 4711")
    submit(tmp_path)
    (desk(tmp_path) / "job.json").unlink()
    slurm(sbatch="echo 4712", squeue="echo 'slurm_load_jobs error' >&2; exit 1")
    with pytest.raises(UnavailableError):
        submit(tmp_path)
    assert calls(tmp_path).count("sbatch") == 1


def test_a_submission_that_failed_after_slurm_took_the_job_is_no_failure(tmp_path: Path, slurm: Slurm) -> None:
    slurm(sbatch="echo 'Socket timed out' >&2; exit 1", squeue=f"echo '4711|N/A|PENDING|Priority|{NAME}|a|.'")
    assert submit(tmp_path).job_id == "4711"


def test_a_refusal_names_the_setting_where_it_stands(tmp_path: Path, slurm: Slurm) -> None:
    said = "sbatch: error: Batch job submission failed: Invalid partition name specified"
    slurm(sbatch=f"echo '{said}' >&2; exit 1", sinfo="exit 1")
    launcher = ServiceLauncher(poll_s=0)
    with pytest.raises(SubmitError, match=r"llm\.job\.partition=gpu"):
        launcher.submit(
            ["true"], resources=ASKED, folder=tmp_path, name="asx-llm", comment="a", environment={}, group="llm.job"
        )


def test_a_silent_squeue_ends_no_service_and_a_missing_row_does(tmp_path: Path, slurm: Slurm) -> None:
    slurm(sbatch="echo 4711")
    job = submit(tmp_path)
    slurm(squeue="exit 1")
    assert ServiceLauncher(poll_s=0).state(job).state is ServiceState.UNKNOWN
    slurm(squeue="echo '4711|N/A|RUN'")
    assert ServiceLauncher(poll_s=0).state(job).state is ServiceState.UNKNOWN, "the answer is cut"
    slurm(squeue="true")
    assert ServiceLauncher(poll_s=0).state(job).state is ServiceState.ENDED


def test_a_service_submitted_after_the_last_answer_is_not_taken_for_ended(tmp_path: Path, slurm: Slurm) -> None:
    slurm(sbatch="echo 4711")
    launcher = ServiceLauncher(poll_s=3600)
    assert launcher.states([]) == {}
    job = launcher.submit(["true"], resources=ASKED, folder=tmp_path, name="x", comment="a", environment={})
    status = launcher.state(job)
    assert (status.state, status.reason) == (ServiceState.WAITING, "job 4711 was submitted just now")


def test_a_damaged_receipt_is_named_with_its_file(tmp_path: Path, slurm: Slurm) -> None:
    slurm(sbatch="echo 4711")
    submit(tmp_path)
    (desk(tmp_path) / "job.json").write_text("{")
    with pytest.raises(SlurmError, match=r"job\.json: can't be read"):
        submit(tmp_path)


def test_a_job_inside_a_job_does_not_inherit_the_outer_one(
    tmp_path: Path, slurm: Slurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_MEM_PER_CPU", "100")
    monkeypatch.setenv("SLURM_CONF", "/etc/here")
    slurm(sbatch=f"env > {tmp_path}/env.txt; echo 4711")
    submit(tmp_path)
    seen = (tmp_path / "env.txt").read_text()
    assert "SLURM_MEM_PER_CPU" not in seen
    assert "SLURM_CONF=/etc/here" in seen


def test_receipts_hold_no_folder_so_that_a_campaign_may_move(tmp_path: Path, slurm: Slurm) -> None:
    slurm(sbatch="echo 4711")
    submit(tmp_path / "before")
    assert "folder" not in json.loads((desk(tmp_path / "before") / "job.json").read_text())
    (tmp_path / "before").rename(tmp_path / "after")
    moved = ServiceLauncher(poll_s=0).find("a", folder=tmp_path / "after")
    assert moved is not None
    assert moved.log == desk(tmp_path / "after") / "4711.out"
