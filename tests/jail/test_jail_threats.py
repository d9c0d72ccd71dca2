"""THREATS.md says what the tests show: every test it names exists, every probe has its line, every gap is written."""

from __future__ import annotations

import ast
import re

import pytest

from arch_search.jail.rungs import LADDER
from tests.jail.probing import PROBES
from tests.owner import REPOSITORY

ROWS = [
    [cell.strip() for cell in line.strip("| ").split(" | ")]
    for line in (REPOSITORY / "THREATS.md").read_text().splitlines()
    if line.startswith("| ")
]
NAMED = [row[-1] for row in ROWS if row[-1].startswith("tests/")]
OF_PROBES = {row[-1].removeprefix("probe "): row for row in ROWS if row[-1].startswith("probe ")}
RUNGS = (*LADDER, "off")
TRUSTED = ("arch_search", "slurm", "cognition_db")


def test_every_line_names_a_test_or_a_probe() -> None:
    told = {*NAMED, *(f"probe {name}" for name in OF_PROBES), "Test"}

    assert [row for row in ROWS if row[-1] not in told] == []


@pytest.mark.parametrize("named", sorted(set(NAMED)))
def test_a_test_that_is_named_exists(named: str) -> None:
    path, _, function = named.partition("::")
    tree = ast.parse((REPOSITORY / path).read_text())

    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_probe_has_one_line_and_no_line_a_probe_that_is_none() -> None:
    assert sorted(OF_PROBES) == sorted(PROBES)


@pytest.mark.parametrize("name", PROBES)
def test_the_line_of_a_probe_says_what_is_open_on_which_rung(name: str) -> None:
    cells = dict(zip(RUNGS, OF_PROBES[name][1:4], strict=True))
    record = PROBES[name].open_on

    for rung in LADDER:
        assert cells[rung].startswith("open") == (rung in record), rung
        assert [step for step in record.get(rung, ()) if step not in cells[rung]] == []
    assert (cells["off"] == "open") == (not PROBES[name].everywhere)


def test_no_trusted_module_reads_a_pickle() -> None:
    found = []
    for path in (path for folder in TRUSTED for path in (REPOSITORY / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and _may_unpickle(ast.unparse(node)):
                found.append(f"{path.name}:{node.lineno}")

    assert found == []


@pytest.mark.parametrize(
    "text",
    ["pickle.load(file)", "cloudpickle.loads(x)", "torch.load(p)", "np.load(p)", "job.result()", "pickle.Unpickler(f)"],
)
def test_a_call_that_unpickles_is_found(text: str) -> None:
    assert _may_unpickle(text)


def _may_unpickle(call: str) -> bool:
    name, _, arguments = call.partition("(")
    if name == "torch.load":
        return "weights_only=True" not in arguments
    if name in ("np.load", "numpy.load"):
        return "allow_pickle=False" not in arguments
    return bool(re.fullmatch(r"(\w*[pP]ickle\w*|joblib|marshal|shelve|dill)\.(loads?|open|Unpickler)", name)) or bool(
        re.search(r"(^|\.)(job|jobs\[\w+\])\.results?$|DelayedSubmission\.load$", name)
    )
