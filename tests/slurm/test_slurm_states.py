"""States from the text of squeue and sacct: recorded from a real cluster (recorded/), and generated."""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slurm.advice import LOOP, REASON_RULES, STATE_RULES, markdown, reason_rule
from slurm.states import (
    PHASES,
    ArrayRow,
    Phase,
    is_alive,
    judge,
    never_starts,
    parse_indices,
    parse_sacct,
    parse_squeue,
    rows_of_elements,
)
from slurm.units import Evidence, UnitState

RECORDED = Path(__file__).parent / "recorded"
relaxed = settings(deadline=None)  # the machine of the tests may be busy
NO_RESULT = Evidence(done=False)
_TEXT = st.text(alphabet=st.characters(blacklist_categories=["Cs"], blacklist_characters="|\n\x00"), max_size=12)


def elements(name: str, job_id: str, count: int) -> dict[int, tuple[str, Phase]]:
    """Word and phase of each element of one array in a recorded answer; absent ones are left out."""
    text = (RECORDED / name).read_text()
    answer = parse_sacct(text) if name.startswith("sacct") else parse_squeue(text)
    rows = rows_of_elements([row for row in answer.rows if row.job_id == job_id], count)
    return {index: (row.word, row.phase) for index, row in enumerate(rows) if row is not None}


@pytest.mark.parametrize("path", sorted(RECORDED.glob("s*e*_*.txt")), ids=lambda path: path.name)
def test_every_recorded_answer_is_read_whole(path: Path) -> None:
    if path.name == "scontrol_config.txt":
        return
    read = parse_sacct if path.name.startswith("sacct") else parse_squeue
    assert read(path.read_text()).whole
    assert read(path.read_text()).rows


def test_a_pending_array_is_one_row_for_all_its_elements() -> None:
    states = elements("squeue_running.txt", "1", 31)
    assert states[0] == states[1] == ("RUNNING", Phase.RUNNING)
    assert all(states[index] == ("PENDING", Phase.WAITING) for index in range(2, 31))


def test_an_element_cancelled_while_it_waited_is_absent_and_one_that_ran_is_over() -> None:
    states = elements("squeue_cancelled.txt", "1", 31)
    assert states[0] == ("CANCELLED", Phase.OVER)
    assert set(range(31)) - set(states) == {3, 4, 8, 11, 12, 17, 22, 23, 29}


def test_elements_behind_the_dots_of_a_cut_list_count_as_waiting() -> None:
    states = elements("squeue_cut.txt", "1", 31)
    assert states[9] == states[30] == ("PENDING", Phase.WAITING)


def test_held_requeued_failed_and_dependent_elements_get_their_own_phase() -> None:
    assert elements("squeue_mixed.txt", "5", 4) == dict.fromkeys(range(4), ("PENDING", Phase.HELD))
    assert elements("squeue_mixed.txt", "6", 3) == dict.fromkeys(range(3), ("FAILED", Phase.OVER))
    assert elements("squeue_mixed.txt", "9", 2) == dict.fromkeys(range(2), ("PENDING", Phase.HELD))
    requeued = elements("squeue_mixed.txt", "12", 3)
    assert [requeued[index][1] for index in range(3)] == [Phase.WAITING, Phase.HELD, Phase.RUNNING]


def test_a_comment_with_a_bar_and_a_line_end_stays_in_its_row() -> None:
    rows = parse_squeue((RECORDED / "squeue_mixed.txt").read_text()).rows
    assert [row.comment for row in rows if row.job_id == "9"] == ["asx|four\nwith a line end"]


def test_a_lost_node_and_a_time_limit_are_over_with_the_reason() -> None:
    rows = {row.job_id: row for row in parse_squeue((RECORDED / "squeue_later.txt").read_text()).rows}
    assert rows["16"].phase is rows["11"].phase is Phase.OVER
    assert rows["16"].note() == "NODE_FAIL: lost its node"
    assert "raise slurm.timeout_min" in rows["11"].note()


def test_a_step_that_ran_out_of_memory_names_the_cause_of_its_attempt_alone() -> None:
    text = (
        "7_0|FAILED|asx\n7_0.batch|FAILED|batch\n7_0.0|OUT_OF_MEMORY|bash\n"
        "7_1|FAILED|asx\n7_1.batch|FAILED|batch\n"
        "7_2|COMPLETED|asx\n7_2.batch|OUT_OF_MEMORY|batch\n"
        "8|FAILED|plain\n8.0|OUT_OF_MEMORY|bash\n"
        "7_3|FAILED|asx\n7_3.extern|COMPLETED|extern\n7_3|RUNNING|asx\n7_3.batch|RUNNING|batch\n"
    )
    answer = parse_sacct(text)
    assert answer.whole
    found = rows_of_elements(answer.rows, 4)
    assert [row.word if row else None for row in found] == ["OUT_OF_MEMORY", "FAILED", "COMPLETED", "RUNNING"]
    assert "raise slurm.memory_gb" in (found[0].note() if found[0] else "")
    assert [row.word for row in answer.singles] == ["OUT_OF_MEMORY"]


def test_each_way_of_preemption_gets_its_own_phase() -> None:
    cancelled = elements("squeue_preempted.txt", "1", 4)
    assert [cancelled[index] for index in range(3)] == [
        ("PREEMPTED", Phase.OVER), ("COMPLETING", Phase.RUNNING), ("COMPLETING", Phase.RUNNING)
    ]  # fmt: skip
    assert elements("squeue_suspended.txt", "1", 3) == dict.fromkeys(range(3), ("SUSPENDED", Phase.RUNNING))
    assert elements("squeue_requeued.txt", "1", 3) == dict.fromkeys(range(3), ("PENDING", Phase.WAITING))


def test_attempts_that_were_preempted_and_lost_their_node_give_way_to_the_one_that_waits() -> None:
    states = elements("sacct_steps.txt", "1", 4)
    assert [states[index][0] for index in range(4)] == ["PENDING", "PENDING", "PENDING", "FAILED"]


def test_a_kill_for_memory_that_slurm_calls_a_failed_launch_is_named() -> None:
    rows = parse_squeue((RECORDED / "squeue_preempted.txt").read_text()).rows
    notes = [row.note() for row in rows if row.word == "FAILED"]
    assert len(notes) == 1
    assert "slurm.memory_gb" in notes[0]


def test_squeue_names_memory_as_the_reason_of_a_failed_job() -> None:
    assert parse_squeue("7|0|FAILED|OutOfMemory|job|note|.\n").rows[0].word == "OUT_OF_MEMORY"


def test_the_last_attempt_counts_in_sacct() -> None:
    states = elements("sacct_later.txt", "12", 3)
    assert [states[index][0] for index in range(3)] == ["COMPLETED", "PENDING", "COMPLETED"]
    assert elements("sacct_later.txt", "1", 31)[0] == ("CANCELLED", Phase.OVER)


def test_every_state_of_the_manual_has_a_rule() -> None:
    manual = (
        "BOOT_FAIL CANCELLED COMPLETED CONFIGURING COMPLETING DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PENDING "
        "PREEMPTED RUNNING RESV_DEL_HOLD REQUEUE_FED REQUEUE_HOLD REQUEUED RESIZING REVOKED SIGNALING SPECIAL_EXIT "
        "STAGE_OUT STOPPED SUSPENDED TIMEOUT"
    )
    newer = "EXPEDITING LAUNCH_FAILED POWER_UP_NODE RECONFIG_FAIL UPDATE_DB"
    assert set(PHASES) == set(manual.split()) | set(newer.split())
    assert len(STATE_RULES) == len(PHASES)


def test_every_state_that_ends_or_stops_a_unit_has_advice_for_the_user() -> None:
    quiet = {"PENDING", "RUNNING", "RESIZING", "SIGNALING", "UPDATE_DB"}
    assert {rule.word for rule in STATE_RULES if not rule.advice} == quiet
    assert set(LOOP) == set(Phase)


def test_every_reason_that_slurm_can_print_has_a_rule() -> None:
    reasons = (RECORDED / "reasons.txt").read_text().split("\n")
    lacking = [reason for reason in reasons if reason and reason_rule(reason) is None]
    assert len(reasons) > 190
    assert lacking == []


def test_every_rule_about_a_reason_is_the_first_to_fit_some_reason() -> None:
    reasons = (RECORDED / "reasons.txt").read_text().split("\n")
    used = {rule.reason for reason in reasons if (rule := reason_rule(reason))}
    assert {rule.reason for rule in REASON_RULES} - used == set()


def test_the_documentation_gets_a_row_for_every_rule() -> None:
    lines = [line for line in markdown().splitlines() if line.startswith("| ")]
    assert len(lines) == 2 + len(STATE_RULES) + len(REASON_RULES)
    assert all(line.count("|") in (4, 5) for line in lines)
    assert len(REASON_RULES) >= 35


@pytest.mark.parametrize(
    "word", ["PREEMPTED", "NODE_FAIL", "SUSPENDED", "REQUEUE_HOLD", "SPECIAL_EXIT", "REVOKED", "COMPLETED", "NO_SUCH"]
)
def test_no_word_of_slurm_makes_a_unit_done(word: str) -> None:
    row = parse_squeue(f"7|0|{word}|None|job|note|.\n").rows[0]
    for missing_s in (None, 0.0, 1e9):
        assert judge(NO_RESULT, row.phase, alive=False, missing_s=missing_s, grace_s=5) is not UnitState.DONE


def test_a_word_that_is_not_known_is_unknown_and_never_ends_a_unit() -> None:
    row = parse_squeue("7|0|NO_SUCH_STATE|None|job|note|.\n").rows[0]
    assert judge(NO_RESULT, row.phase, alive=False, missing_s=1e9, grace_s=5) is UnitState.UNKNOWN


def test_a_revoked_sibling_gives_way_to_the_row_of_the_cluster_that_runs_it() -> None:
    for lines in (["REVOKED", "RUNNING"], ["RUNNING", "REVOKED"]):
        answer = parse_squeue("".join(f"7|0|{word}|None|job|note|.\n" for word in lines))
        row = rows_of_elements(answer.rows, 1)[0]
        assert row is not None
        assert row.word == "RUNNING"


@pytest.mark.parametrize(
    "reason", ["Priority", "Resources", "ReqNodeNotAvail, UnavailableNodes:n1", "QOSMaxJobsPerUserLimit", "Dependency",
               "AssocGrpCPUMinutesLimit", "JobArrayTaskLimit", "BeginTime", "None", "QOSMaxGRESPerUser",
               "PartitionDown",
               "QOSMaxSubmitJobPerUserLimit", "AssocMaxJobsLimit", "MaxGRESPerAccount", "Licenses", "Reservation",
               "Nodes_required_for_job_are_DOWN,_DRAINED_or_reserved_for_jobs_in_higher_priority_partitions",
               "NodeDown", "PartitionInactive", "Prolog", "Cleaning", "SystemFailure", "a reason of a later Slurm"],
)  # fmt: skip
def test_a_reason_that_passes_by_itself_does_not_hold_a_unit(reason: str) -> None:
    row = parse_squeue(f"7|0-3|PENDING|{reason}|job|note|.\n").rows[0]
    assert never_starts(reason) is None
    assert row.phase is Phase.WAITING
    assert row.note().startswith("" if reason == "None" else f"waits: {reason}")


@pytest.mark.parametrize(
    "reason", ["JobHeldUser", "JobHeldAdmin", "JobHoldMaxRequeue", "DependencyNeverSatisfied", "BadConstraints",
               "PartitionTimeLimit", "InvalidAccount", "launch failed requeued held", "QOSMaxWallDurationPerJobLimit",
               "AssocMaxCpuPerJobLimit", "job requeued in held state", "AssocMaxGRESPerNode", "QOSMinGRES",
               "launch_failed_requeued_held", "user env retrieval failed requeued held", "ReservationDeleted",
               "InvalidQOS", "PartitionConfig", "MaxMemPerLimit", "QOSMaxGRESMinutesPerJob"],
)  # fmt: skip
def test_a_reason_that_never_passes_holds_a_unit_with_advice(reason: str) -> None:
    row = parse_squeue(f"7|0-3|PENDING|{reason}|job|note|.\n").rows[0]
    assert row.phase is Phase.HELD
    assert len(row.note()) > len(f"PENDING ({reason}): ")


def test_over_without_result_ends_only_after_the_grace_period_and_without_a_sign_of_life() -> None:
    assert judge(NO_RESULT, Phase.OVER, alive=False, missing_s=4, grace_s=5) is UnitState.RUNNING
    assert judge(NO_RESULT, Phase.OVER, alive=True, missing_s=99, grace_s=5) is UnitState.RUNNING
    assert judge(NO_RESULT, Phase.OVER, alive=False, missing_s=5, grace_s=5) is UnitState.ENDED


def test_absent_everywhere_is_unknown_at_first_and_ended_after_the_grace_period() -> None:
    assert judge(NO_RESULT, None, alive=False, missing_s=4, grace_s=5) is UnitState.UNKNOWN
    assert judge(NO_RESULT, None, alive=False, missing_s=5, grace_s=5) is UnitState.ENDED
    assert judge(NO_RESULT, None, alive=False, missing_s=None, grace_s=5) is UnitState.UNKNOWN


def test_a_heartbeat_counts_while_it_is_fresh_and_a_wrong_clock_does_not_keep_a_unit_alive() -> None:
    beat = Evidence(done=False, heartbeat_unix=1000.0)
    assert is_alive(beat, now_unix=1004, fresh_s=5)
    assert not is_alive(beat, now_unix=1006, fresh_s=5)
    assert not is_alive(beat, now_unix=1000 - 3600, fresh_s=5)
    assert is_alive(Evidence(done=False, running=True), now_unix=0, fresh_s=5)


@relaxed
@given(
    done=st.booleans(),
    alive=st.booleans(),
    phase=st.sampled_from([*Phase, None]),
    missing_s=st.none() | st.floats(0, 1e6),
)
def test_the_verdict_follows_the_result_first_and_never_guesses(
    done: bool, alive: bool, phase: Phase | None, missing_s: float | None
) -> None:
    state = judge(Evidence(done=done), phase, alive=alive, missing_s=missing_s, grace_s=10)
    assert (state is UnitState.DONE) == done
    if state is UnitState.ENDED:
        assert phase in (Phase.OVER, None)
        assert not alive
        assert missing_s is not None
        assert missing_s >= 10


@relaxed
@given(indices=st.sets(st.integers(0, 300), min_size=1), throttle=st.none() | st.integers(1, 9))
def test_index_lists_are_read_back_as_they_were_written(indices: set[int], throttle: int | None) -> None:
    text = ",".join(_runs(sorted(indices))) + (f"%{throttle}" if throttle else "")
    for spelling in (text, f"[{text}]"):
        parsed = parse_indices(spelling)
        assert parsed is not None
        assert {index for part in parsed[0] for index in part} == indices
        assert not parsed[1]


@relaxed
@given(text=st.text(max_size=80))
def test_no_text_breaks_the_readers(text: str) -> None:
    for read in (parse_squeue, parse_sacct):
        for row in read(text).rows:
            assert isinstance(row.phase, Phase)
    parse_indices(text)


@relaxed
@given(
    words=st.lists(st.sampled_from([*PHASES, "NEW_STATE"]), min_size=1, max_size=30),
    name=_TEXT,
    comment=st.text(max_size=20).filter(lambda text: "|.\n" not in text and not text.endswith("|.")),
    reason=_TEXT,
)
def test_a_whole_answer_is_whole_and_a_cut_one_is_not(words: list[str], name: str, comment: str, reason: str) -> None:
    text = "".join(f"41|{index}|{word}|{reason}|{name}|{comment}|.\n" for index, word in enumerate(words))
    answer = parse_squeue(text)
    assert answer.whole
    assert [row.word for row in answer.rows] == words
    cut = parse_squeue(text[:-3])
    assert not cut.whole
    assert [row.word for row in cut.rows] == words[:-1]


@relaxed
@given(states=st.lists(st.sampled_from(["PENDING", "RUNNING", "COMPLETED", "gone"]), min_size=1, max_size=40))
def test_every_element_gets_the_row_that_names_it(states: list[str]) -> None:
    rows = []
    for word in ("PENDING", "RUNNING", "COMPLETED"):
        indices = [index for index, state in enumerate(states) if state == word]
        if indices:
            rows.append(f"9|{','.join(_runs(indices))}|{word}|None|job||.\n")
    found = rows_of_elements(parse_squeue("".join(rows)).rows, len(states))
    assert [row.word if row else "gone" for row in found] == states


def test_ten_times_the_elements_take_about_ten_times_the_time_to_read() -> None:
    times_s = []
    for count in (10_000, 100_000):
        text = "".join(f"9|{index}|RUNNING|None|job|note|.\n" for index in range(count))
        begin_s = time.process_time()
        found = rows_of_elements(parse_squeue(text).rows, count)
        times_s.append(time.process_time() - begin_s)
        assert all(isinstance(row, ArrayRow) for row in found)
    # 0.6 s were measured for the larger; a quadratic reader takes a hundred times the smaller
    assert times_s[1] < max(30 * times_s[0], 3)


@pytest.mark.parametrize("word", ["SUSPENDED", "STOPPED", "COMPLETING"])
def test_an_element_that_stands_still_never_ends_however_old_its_heartbeat(word: str) -> None:
    row = parse_squeue(f"7|0|{word}|None|job|note|.\n").rows[0]
    old = Evidence(done=False, heartbeat_unix=0.0)
    assert not is_alive(old, now_unix=1e9, fresh_s=180)
    assert judge(old, row.phase, alive=False, missing_s=1e9, grace_s=180) is UnitState.RUNNING
    assert row.note().startswith(f"{word}: ")


def test_the_manual_of_an_installed_slurm_names_no_state_without_a_rule() -> None:
    shown = subprocess.run(["bash", "-c", "man squeue | col -b"], capture_output=True, text=True, check=False).stdout
    codes = shown.partition("\nJOB STATE CODES")[2].partition("\nPERFORMANCE")[0]
    if not codes:
        pytest.skip("no manual page of squeue here")
    words = set(re.findall(r"^ {7}[A-Z]+\s+([A-Z_]+)\s", codes, flags=re.MULTILINE))
    assert len(words) > 20
    assert words <= set(PHASES)


def _runs(indices: list[int]) -> list[str]:
    """Sorted indices as Slurm writes them: "3", "5-8"."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
