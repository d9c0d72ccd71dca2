"""Whole packs through the real jail: results, bad programs as values, kills and stops, failures of ours."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import pytest

from arch_search.config import Stage
from arch_search.domains import domain_named
from arch_search.domains.linear_attention import seed_program
from arch_search.generation import read_record
from arch_search.jail.guard import descendants
from arch_search.jail.rungs import best_rung
from arch_search.worker.heartbeat import read_heartbeat
from cognition_db.experience.files import write_atomic
from cognition_db.experience.merge import merge
from cognition_db.experience.seal import make_secret, seal
from cognition_db.experience.shard import read_shard
from cognition_db.records import Evaluation, Score, canonical_json, to_json

COME_BACK, HELD_BY_ANOTHER, FAILED = 4, 3, 1
# long enough to be met in the middle, on two busy cores too
SLOWLY = "time.sleep(0.04)"


class MakeBench(Protocol):
    def __call__(self, *bodies: str, seeds: tuple[int, ...] = (0,)) -> Any: ...


@pytest.fixture
def long_stage(tiny_stage: Stage) -> Stage:
    return replace(tiny_stage, steps=60, recall=replace(tiny_stage.recall, steps=30))


def test_a_finished_pack_has_a_shard_with_every_score(finished_bench: Any) -> None:
    (found,) = finished_bench.evaluations()
    assert found.ending == "finished", found.cause
    assert {score.name for score in found.scores} == {
        "recall_accuracy",
        "heldout_loss",
        "bits_per_byte",
        "random_loss",
        "prefix_gap",
        "step_s",
    }
    assert found.score("heldout_loss") == pytest.approx(5.3, abs=0.5)  # near the logarithm of 256 after eight steps


def test_a_feed_forward_is_trained_beside_its_mixer_and_not_asked_to_recall(bench: MakeBench) -> None:
    made = bench()
    found = made.rewritten(replace(made.manifest, contract=domain_named("feed_forward").contract)).evaluation()
    assert found.ending == "finished", found.cause
    assert found.score("recall_accuracy") is None
    assert found.score("heldout_loss") == pytest.approx(5.3, abs=0.5)
    assert found.certificate is not None
    assert found.certificate.layers == 1
    # 256 x 16 of the embedding, three norms of 16, the linear map of the program and the DeltaNet beside it
    mixer = sum(one.numel() for one in seed_program.DeltaNet(16, 2).parameters())
    assert found.parameter_count == 256 * 16 + 3 * 16 + (16 * 16 + 16) + mixer


def test_a_feed_forward_that_changes_the_mixer_beside_it_is_told_of(bench: MakeBench) -> None:
    made = bench(
        "import sys; beside = sys.modules['arch_search.domains.linear_attention.seed_program'].DeltaNet; "
        "beside.values = lambda self, q, k, v, x: v"
    )
    found = made.rewritten(replace(made.manifest, contract=domain_named("feed_forward").contract)).evaluation()
    assert found.ending == "tampered"
    assert "seed_program.DeltaNet.values is replaced" in found.cause


def test_an_evaluation_says_where_it_comes_from(finished_bench: Any) -> None:
    (found,) = finished_bench.evaluations()
    assert found.fencing_token.startswith("0000-uuid/g1-u0/1/")
    assert found.config_sha256 == "c0ffee"
    assert found.program_sha256[:16] == found.task.candidate_id
    assert found.tokens_seen == 8 * 4 * 24
    assert found.cpu_s > 0
    assert found.peak_memory_mb > 50
    assert found.curve_steps[-1] == 8
    assert abs(found.parameter_count - 6000) < 300
    assert found.jail == best_rung("auto")
    assert found.certificate is not None
    assert (found.certificate.outcome, found.certificate.length) == ("passed", 24), found.certificate.reason


def test_a_finished_pack_leaves_no_working_files(finished_bench: Any) -> None:
    left = {path.name for path in finished_bench.unit().root.iterdir()}
    assert left == {
        "start-a1-001",
        "lock",
        "log.txt",
        "heartbeat.json",
        finished_bench.unit().evaluation(key_of(finished_bench)).name,
    }


def test_a_finished_pack_is_not_run_again(finished_bench: Any) -> None:
    shard = finished_bench.generation.shard("g1-u0", 1)
    before = shard.stat()
    assert finished_bench.run().returncode == 0
    assert shard.stat().st_mtime_ns == before.st_mtime_ns


def test_a_second_worker_leaves_at_once_while_the_first_holds_the_unit(bench: MakeBench) -> None:
    made = bench()
    made.unit().root.mkdir(parents=True)
    with made.unit().lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert made.run().returncode == HELD_BY_ANOTHER


def test_the_supervisor_imports_no_torch() -> None:
    question = "import sys, arch_search.worker.supervisor; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", question], timeout=60).returncode == 0


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda made: made.manifest_path.write_text("{}"), "no usable manifest"),
        (lambda made: made.manifest_path.unlink(), "no manifest"),
        (lambda made: program_file(made).write_text("changed"), "was changed after its admission"),
        (lambda made: program_file(made).unlink(), "program not readable"),
        (lambda made: made.rewritten(replace(made.manifest, classes={})), "names no class"),
        (lambda made: made.rewritten(replace(made.manifest, data_dir="/nowhere")), "no usable corpus"),
        (lambda made: made.rewritten(replace(made.manifest, packs=())), "no pack 0"),
    ],
)
def test_a_failure_of_ours_is_one_line_and_leaves_no_shard(
    bench: MakeBench, spoil: Callable[[Any], object], words: str
) -> None:
    made = bench()
    spoil(made)
    done = made.run()
    assert done.returncode == FAILED
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not made.generation.shards.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "body, ending, words",
    [
        ("raise KeyError('gate')", "crashed", "KeyError: 'gate' (program.py line"),
        ("raise SystemExit(0)", "crashed", "SystemExit"),
        ("os._exit(0)", "crashed", "without a usable result"),
        ("os.abort()", "crashed", "SIGABRT"),
        ("os.kill(os.getpid(), 9)", "poison", "no checkpoint beyond step 0 (was ended by SIGKILL)"),
        ("past = past * (float('nan') if self.calls > 5 else 1.0)", "non_finite", "training loss is nan at step 6"),
        ("past = past + x.roll(-1, dims=1)", "below_floor", "sees the future or the length"),
        ("self.hoard = torch.ones(1 << 29)", "out_of_memory", ""),
        ("return past[:, :1]", "crashed", "Error"),
        ("torch.tanh = torch.sigmoid", "tampered", "torch.tanh is replaced"),
        ("torch.set_default_dtype(torch.float64)", "tampered", "the default dtype was"),
        ("self.inner.bias.data += 0.0 if self.training else 1e-3", "tampered", "changed while it was measured"),
    ],
)
def test_a_bad_program_ends_as_a_value_in_the_shard(
    bench: MakeBench, tiny_stage: Stage, body: str, ending: str, words: str
) -> None:
    found = bench(body).with_stage(replace(tiny_stage, memory_gb=1)).evaluation()
    assert found.ending == ending, found.cause
    assert words in found.cause
    assert "\n" not in found.cause
    assert found.score("recall_accuracy") is None


@pytest.mark.slow
def test_a_program_that_hangs_is_ended_at_the_task_limit(bench: MakeBench, tiny_stage: Stage) -> None:
    found = bench("time.sleep(3600)").with_stage(replace(tiny_stage, task_limit_s=8)).evaluation()
    assert found.ending == "timed_out"
    assert "stage.task_limit_s=8" in found.cause


@pytest.mark.slow
def test_a_program_far_slower_than_the_reference_is_ended_early(bench: MakeBench, long_stage: Stage) -> None:
    made = bench("sum(range(10_000_000 * (x.shape[1] == 24)))")
    made = made.rewritten(replace(made.manifest, stage=long_stage, reference_step_s=0.001))
    found = made.evaluation()
    assert found.ending == "too_slow", found.cause
    assert "CPU-seconds a step" in found.cause


@pytest.mark.slow
def test_a_bad_task_does_not_keep_the_others_of_its_pack_from_running(bench: MakeBench) -> None:
    made = bench("raise KeyError('gate')", seeds=(0, 1))
    assert made.run().returncode == 0
    assert [found.ending for found in made.evaluations()] == ["crashed", "crashed"]


@pytest.mark.slow
@pytest.mark.parametrize("phase, step", [("recall", 12), ("language_model", 20)])
def test_a_killed_worker_is_continued_to_the_same_numbers(
    bench: MakeBench, long_stage: Stage, phase: str, step: int
) -> None:
    undisturbed, killed = bench("pass", SLOWLY).with_stage(long_stage), 1
    expected = undisturbed.evaluation(0)
    process = undisturbed.start_until_step(step, phase=phase, index=killed)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=20)
    found = undisturbed.evaluation(killed)
    assert found.ending == "finished", found.cause
    assert found.resumed_from_step > 0
    assert found.curve_loss == expected.curve_loss
    assert found.score("heldout_loss") == expected.score("heldout_loss")
    assert found.score("recall_accuracy") == expected.score("recall_accuracy")


@pytest.mark.slow
@pytest.mark.parametrize("request_by", [signal.SIGTERM, signal.SIGUSR1])
def test_a_worker_asked_to_stop_writes_a_checkpoint_and_is_continued(
    bench: MakeBench, long_stage: Stage, request_by: signal.Signals
) -> None:
    made = bench(SLOWLY).with_stage(replace(long_stage, checkpoint_every_s=1e6))
    process = made.start_until_step(10, phase="language_model")
    process.send_signal(request_by)
    assert process.wait(timeout=30) == COME_BACK
    assert not made.generation.shards.exists()
    spent = read_heartbeat(made.unit().heartbeat)
    found = made.evaluation()
    assert found.ending == "finished", found.cause
    assert found.resumed_from_step >= 30 + 10
    assert spent is not None
    assert found.wall_s > spent.wall_s


@pytest.mark.slow
def test_a_signal_that_reaches_every_process_of_a_job_still_lets_the_child_save(
    bench: MakeBench, long_stage: Stage
) -> None:
    made = bench(SLOWLY).with_stage(replace(long_stage, checkpoint_every_s=1e6))
    process = made.start_until_step(10, phase="language_model")
    for pid in (*descendants(process.pid), process.pid):
        os.kill(pid, signal.SIGTERM)
    assert process.wait(timeout=30) == COME_BACK
    assert "signalled" not in made.unit().log.read_text()
    assert made.evaluation().resumed_from_step >= 30 + 10


@pytest.mark.slow
def test_nothing_of_a_killed_worker_goes_on_running(bench: MakeBench, long_stage: Stage) -> None:
    made = bench(SLOWLY).with_stage(long_stage)
    process = made.start_until_step(2, phase="recall")
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=20)
    mark = str(made.unit().task(key_of(made)))
    until = time.monotonic() + 10
    while any(mark in command_line(folder) for folder in Path("/proc").glob("[0-9]*")):
        assert time.monotonic() < until, "the child outlived its supervisor"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_later_attempt_records_what_an_earlier_one_finished(bench: MakeBench) -> None:
    made = bench()
    first = made.evaluation()
    pack = made.manifest.packs[0]
    again = replace(pack, attempt=2, tasks=tuple(replace(task, attempt=2) for task in pack.tasks))
    second = made.rewritten(replace(made.manifest, round=2, packs=(again,)))
    assert second.run().returncode == 0
    (found,) = read_shard(made.generation.shard("g1-u0", 2))
    assert found.task.attempt == 2
    assert found.scores == first.scores


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_in_another_unit(bench: MakeBench) -> None:
    made = bench("pass", "pass  # the same behaviour")
    one, other = made.evaluation(0), made.evaluation(1)
    assert one.curve_loss == other.curve_loss
    assert one.score("recall_accuracy") == other.score("recall_accuracy")


def sealed(made: Any) -> Any:
    """The same generation in a campaign with a secret, as the driver leaves it."""
    sha256 = make_secret(made.generation.campaign.secret, like=None)
    return made.rewritten(replace(made.manifest, secret_sha256=sha256))


@pytest.mark.slow
def test_the_shard_of_a_campaign_with_a_secret_bears_its_seal(bench: MakeBench) -> None:
    made = sealed(bench())
    (found,) = [made.evaluation()]
    secret = made.generation.campaign.secret.read_text()
    assert merge([made.generation.shard("g1-u0", 1)], [found.task], secret=secret).evaluations == (found,)
    assert merge([made.generation.shard("g1-u0", 1)], [found.task], secret="0" * 64).evaluations == ()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["unsealed", "sealed by another campaign", "no record", "of another training"])
def test_a_record_that_somebody_wrote_beforehand_is_not_taken(bench: MakeBench, kind: str) -> None:
    made = sealed(bench())
    forged = to_json(forged_evaluation(made))
    if kind == "of another training":
        forged["task"]["seed"] = 7
        secret = made.generation.campaign.secret.read_text()
        forged |= {"seal": seal(secret, canonical_json(forged))}
    elif kind == "sealed by another campaign":
        forged |= {"seal": seal("0" * 64, canonical_json(forged))}
    elif kind == "no record":
        forged = {"seal": 7}
    write_atomic(made.unit().evaluation(key_of(made)), json.dumps(forged).encode())
    found = made.evaluation()
    assert found.score("recall_accuracy") != 1.0
    assert found.score("heldout_loss") is not None
    assert "no record of this campaign" in made.unit().log.read_text()


def forged_evaluation(made: Any) -> Evaluation:
    best = Score(name="recall_accuracy", value=1.0, count=1, unit="share")
    return Evaluation(
        task=made.manifest.packs[0].tasks[0], unit="g1-u0", fencing_token="t", ending="finished", cause="",
        scores=(best,), curve_steps=(8,),
        curve_loss=(5.0,), tokens_seen=768, parameter_count=6000, wall_s=1.0, cpu_s=1.0, peak_memory_mb=1.0,
        resumed_from_step=0, started_unix=0.0, host="", versions={}, config_sha256="c0ffee", program_sha256="0" * 64,
    )  # fmt: skip


@pytest.mark.slow
def test_a_finished_record_of_this_campaign_is_taken_by_the_next_start(bench: MakeBench) -> None:
    made = sealed(bench("pass", seeds=(0,)))
    first = made.evaluation()
    # status, report and budget of an open generation read it as any record
    assert read_record(Evaluation, made.unit().evaluation(key_of(made))) == first
    made.generation.shard("g1-u0", 1).unlink()
    assert replace(made.evaluation(), fencing_token="") == replace(first, fencing_token="")


def test_a_worker_without_the_secret_of_its_campaign_fails_in_one_line(bench: MakeBench) -> None:
    made = sealed(bench())
    made.generation.campaign.secret.unlink()
    done = made.run()
    assert done.returncode == FAILED
    assert "the secret of a campaign can't be read" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not made.generation.shards.exists()


@pytest.mark.slow
def test_who_knows_the_seed_but_not_the_secret_cannot_draw_the_held_out_questions(bench: MakeBench) -> None:
    """The program has the seed of its task; the questions of two campaigns of one seed are others."""
    asked = [questions_of(sealed(bench(SLOWLY))) for _ in range(2)]
    assert asked[0] != asked[1]


def questions_of(made: Any) -> bytes:
    """What the child is asked; its unit is as new afterwards."""
    process = made.start_until(lambda: made.working().recall_inputs.exists())
    asked: bytes = made.working().recall_inputs.read_bytes()
    process.kill()
    process.wait()
    shutil.rmtree(made.unit().root)
    return asked


def key_of(made: Any) -> str:
    key: str = made.manifest.packs[0].tasks[0].key
    return key


def program_file(made: Any) -> Path:
    path: Path = made.generation.program(made.manifest.packs[0].tasks[0].candidate_id)
    return path


def command_line(folder: Path) -> str:
    try:
        return (folder / "cmdline").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""
