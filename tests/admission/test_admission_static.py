"""Checks on the text of a program: contract, imports, duplicates, loops over tokens."""

from __future__ import annotations

import pytest

from arch_search.admission.static import check_program
from arch_search.settings import load_config
from cognition_db.records import Verdict

MODULE = "from torch import nn\n\n\nclass {name}(nn.Module):\n    pass\n"


def checked(program: str, *, class_name: str = "", normal_form: str = "", own_rung: bool = True) -> tuple[Verdict, ...]:
    return check_program(
        program,
        class_name=class_name,
        default_class="DeltaNet",
        normal_form=normal_form,
        settings=load_config([]).admission,
        known={"the same": "0123456789abcdef"},
        own_rung=own_rung,
    )


def refusal(program: str, **given: str) -> Verdict:
    verdicts = checked(program, **given)
    assert [verdict.refuses for verdict in verdicts] == [False] * (len(verdicts) - 1) + [True]
    return verdicts[-1]


@pytest.mark.parametrize(
    "program, told",
    [
        ("", "empty"),
        ("Here is the program you asked for.", "line 1"),
        ("def f(:\n    pass", "line 1"),
        ("x = 1\x00", "null bytes"),
        ("x = " + "(" * 5000 + ")" * 5000, "nested"),
        ("x = " + "-" * 50_000 + "1", "nested too deeply"),
        ("x = 1  #" + "a" * 70_000, "at most 60000"),
        ("x = '\ud800'", "not text in UTF-8"),
    ],
    ids=["empty", "prose", "syntax", "null byte", "parentheses", "minus signs", "too large", "surrogate"],
)
def test_what_is_no_python_program_is_refused_with_the_place(program: str, told: str) -> None:
    verdict = refusal(program)

    assert verdict.check == "syntax"
    assert told in verdict.reason
    assert "\n" not in verdict.reason


def test_the_default_class_a_named_class_and_the_only_public_module_are_found() -> None:
    reasons = [
        checked(MODULE.format(name="DeltaNet") + MODULE.format(name="Other"))[1].reason,
        checked(MODULE.format(name="A") + MODULE.format(name="B"), class_name="B")[1].reason,
        checked(MODULE.format(name="Base") + "class _Hidden(nn.Module):\n    pass\n")[1].reason,
        checked("import torch.nn as tn\nclass _B(tn.Module):\n    pass\nclass Only(_B):\n    pass\n")[1].reason,
        checked(MODULE.format(name="A") + MODULE.format(name="B") + "DeltaNet = B\n")[1].reason,
    ]

    assert reasons == [
        "the program defines DeltaNet",
        "the program defines B",
        "the only public module is Base",
        "the only public module is Only",
        "the program defines DeltaNet",
    ]


def test_several_public_modules_and_no_default_are_refused_by_name() -> None:
    verdict = refusal(MODULE.format(name="A") + MODULE.format(name="B"))

    assert (verdict.check, "2 public modules (A, B)" in verdict.reason) == ("contract", True)


def test_a_program_without_a_module_or_without_the_named_class_is_refused() -> None:
    assert "no public torch.nn.Module" in refusal("class A:\n    pass\n").reason
    assert "no class B; the program defines A" in refusal(MODULE.format(name="A"), class_name="B").reason


@pytest.mark.parametrize(
    "line",
    [
        "import os",
        "from subprocess import run",
        "import os.path as p",
        "open('/etc/passwd')",
        "import os; os.system('id')",
        "import os as o; os = o; os.environ",
        "import os; f = os; os.getenv('A')",
        "import os, sys; os.getenv('A')",
        "import os; os.environ['A'] = '1'",
        "import os; os.environ.update(A='1')",
    ],
)
def test_what_a_mixer_has_no_use_for_is_refused_with_its_line(line: str) -> None:
    verdict = refusal(MODULE.format(name="DeltaNet") + line)

    assert verdict.check == "imports"
    assert verdict.reason.startswith("line 6: ")


@pytest.mark.parametrize("line", ["import os; FAST = os.environ.get('FLA_FAST', '1')", "import os; os.getenv('A')"])
def test_switches_in_the_environment_may_be_read_as_layers_of_libraries_do(line: str) -> None:
    verdicts = checked(MODULE.format(name="DeltaNet") + line)

    assert [one.outcome for one in verdicts if one.check == "imports"] == ["passed"]


def test_a_duplicate_text_is_refused_for_our_rungs_and_marked_for_others() -> None:
    program = MODULE.format(name="DeltaNet")
    ours = refusal(program, normal_form="the same")
    theirs = checked(program, normal_form="the same", own_rung=False)

    assert (ours.check, ours.evidence) == ("duplicate_text", {"candidate_id": "0123456789abcdef"})
    assert [(one.outcome, one.refuses) for one in theirs if one.check == "duplicate_text"] == [("failed", False)]


@pytest.mark.parametrize(
    "loop, marked",
    [
        ("for t in range(T):", True),
        ("for t in range(1, x.shape[1]):", True),
        ("for t in reversed(range(seq_len)):", True),
        ("for start in range(0, T, 64):", False),
        ("for i in range(n_chunks):", False),
        ("for block in self.blocks:", False),
    ],
)
def test_a_loop_over_tokens_is_only_marked(loop: str, marked: bool) -> None:
    verdicts = checked(
        MODULE.format(name="DeltaNet") + f"    def forward(self, x):\n        {loop}\n            pass\n"
    )

    assert [one.check for one in verdicts if one.outcome != "passed"] == (["token_loop_in_text"] if marked else [])
    assert not any(one.refuses for one in verdicts)
