from __future__ import annotations

import json

import pytest

from arch_search.analysis.costs import Budget
from arch_search.analysis.report import render
from arch_search.analysis.statistics import standings
from arch_search.analysis.status import budget_values, standing_values
from arch_search.analysis.status_lines import COLUMNS, array_table, slurm_time, status_lines
from arch_search.analysis.summary import RoleCalls
from cognition_db.experience.archive import ArchiveContents

HOW = {"metric": "recall_accuracy", "confidence": 0.95}
BUDGET = Budget(
    unit="GPU-hours", gpu_hours=12.5, core_hours=100.0, by_outcome={"finished": 12.0, "lost": 0.5}, limit=20.0
)


def standing_of(contents, calls=()):
    rows = standings(contents, reference_id=contents.candidates[0].id, **HOW) if contents.candidates else ()
    return standing_values(rows, calls)


def array(**changes):
    values = {
        "job_id": "4711", "generation": 12, "round": 1, "elements": 1000, "timeout_min": 120, "notes": {},
        "states": {"waiting": 900, "running": 64, "done": 36},
    }  # fmt: skip
    return values | changes


def facts_with(**changes):
    facts = {
        "dir": "campaigns/demo-001", "campaign": "demo", "finished": False, "generation": 1, "generations_total": 2,
        "tasks": {"done": 3, "begun": 2, "waiting": 1}, "proposed": 11, "admitted": 10, "trainings_done": 3,
        "trainings_planned": 19, "trainings_failed": 0, "seconds_left": 4000.0, "best_in_words": "nothing measured yet",
        "model_server": "vllm_job: qwen on gpu7, ready; 25 replies, 1895 tokens",
        "driver": {"running": True, "words": "pid 77 on login1, lease renewed 3 s ago"}, "last_event": None,
        "budget": budget_values(BUDGET), "report": None, "stopped_by": [], "arrays": [array()], "seen": "12 s ago",
    }  # fmt: skip
    return facts | changes


def text(lines):
    return "\n".join(line.text for line in lines)


def test_the_standing_is_plain_json_without_nan(invent):
    calls = [RoleCalls(role="researcher", calls=3, prompt_tokens=900, reply_tokens=300, seconds=20.0)]
    values = standing_of(invent(), calls)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["tokens"]["reply_per_s"] == 15.0
    assert values["best"]["verdict"] in ("better", "within_noise")


def test_baselines_count_only_where_nothing_is_searched_for(invent):
    contents = invent(generations=0)
    rows = standings(contents, reference_id=contents.candidates[0].id, **HOW)
    assert standing_values(rows, ())["best"] is None
    values = standing_values(rows, (), is_search=False)
    assert values["best"]["id"] == rows[0].candidate_id
    assert sum(values["verdicts"].values()) == len(rows)


def test_there_is_no_best_before_the_first_result():
    assert standing_of(ArchiveContents())["best"] is None


def test_the_budget_tells_what_is_used_and_left():
    values = budget_values(BUDGET)
    assert (values["used"], values["left"], values["by_outcome"]["lost"]) == (12.5, 7.5, 0.5)
    assert "12.5 GPU-hours used, of 20, 7.5 left (finished 12, lost 0.5)" in text(status_lines(facts_with()))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dir": "x" * 60},
        {"best_in_words": "a very long name of a program " * 9},
        {"last_event": "12:00:00 gen 1: slot 3 " + "refused because of this and that, " * 9},
        {"stopped_by": ["campaign.max_gpu_hours=20: 20.1 GPU-hours are used; " * 3]},
        {"arrays": [array(job_id="123456789012", generation=9999, states={"waiting": 100_000, "held": 100_000})]},
        {"arrays": [array(notes={"waits: Resources: " + "the cluster is full, nothing to do, " * 5: 900})]},
        {"arrays": [array(job_id=None), array(job_id="local")]},
    ],
)
def test_no_line_is_wider_than_eighty_columns(changes):
    assert max(len(line.text) for line in status_lines(facts_with(**changes))) <= COLUMNS


def test_a_path_longer_than_a_line_stays_whole():
    path = "/scratch/" + "deep/" * 30 + "report.html"
    assert path in text(status_lines(facts_with(report=path)))


def test_every_array_has_a_line_and_below_it_its_reasons_by_size():
    notes = {"waits: Resources": 5, "waits: Priority": 895, "JobHeldUser: scontrol release <job>": 2}
    lines = text(array_table([array(notes=notes), array(job_id="4712")], seen="12 s ago")).splitlines()
    assert lines[1].split() == ["4711", "12", "1", "900", "64", "36", "0", "0", "0", "2:00:00"]
    assert [line.split()[0] for line in lines[2:5]] == ["895", "5", "2"]
    assert lines[4].endswith("scontrol release 4711")
    assert lines[5].startswith("4712")
    assert lines[6] == "12 s ago"


def test_many_reasons_of_one_array_are_cut_and_counted():
    shown = text(array_table([array(notes={f"reason {n}": n for n in range(1, 10)})], seen=""))
    assert "reason 9" in shown
    assert "reason 5" not in shown
    assert "and 5 more reasons" in shown


def test_elements_that_are_held_or_unknown_stand_out():
    for state in ("held", "unknown"):
        assert array_table([array(states={state: 1})], seen="")[1].tone == "warning"
    assert array_table([array()], seen="")[1].tone == "plain"


def test_control_characters_of_a_note_do_not_reach_the_terminal():
    assert "\x1b" not in text(array_table([array(notes={"\x1b[2J gone": 1})], seen=""))


@pytest.mark.parametrize(("minutes", "shown"), [(5, "5:00"), (125, "2:05:00"), (1500, "1-01:00:00")])
def test_times_are_written_as_slurm_writes_them(minutes, shown):
    assert slurm_time(minutes) == shown


def test_the_report_shows_the_budget_by_outcome(invent, facts_of):
    contents = invent()
    html = render(contents, facts=facts_of(contents, budget=BUDGET))
    assert "12.500 GPU-hours used of 20.000, 7.500 left" in html
    assert "<td>lost</td>" in html
    assert "<h3>Budget</h3>" not in render(contents, facts=facts_of(contents))
