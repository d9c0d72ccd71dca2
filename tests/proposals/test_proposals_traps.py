"""Replies that parse but would trip what comes after: line counters, syntax tree walkers, encodings, terminals."""

from __future__ import annotations

import json

import pytest

from arch_search.clean_text import one_line, without_surrogates
from arch_search.drawing import refusal
from arch_search.errors import ProposalError
from arch_search.proposals import rungs
from arch_search.proposals.assignment import Assignment
from arch_search.proposals.registry import BUILT_IN
from cognition_db.records import canonical_json, to_json

GATE = "def shape(self, y):\n    return torch.tanh(y) * torch.sigmoid(y)\n"


def module(body: str) -> str:
    return f"```python\nimport torch\nfrom torch import nn\n\n\nclass DeltaNet(nn.Module):\n{body}\n```"


FORWARD = "    def forward(self, hidden_states, **kwargs):\n        return torch.tanh(hidden_states)\n"


@pytest.mark.parametrize("sign", ["\x0c", "\x1c", "\x85", "\u2028"])
def test_a_sign_that_only_some_count_as_a_line_end_does_not_shift_the_splice(free_parent, candidate, sign):
    program = free_parent.program.replace("import torch\n", f"import torch\n# one{sign}two\n", 1)
    parent = candidate(program, "Ema")
    reply = f"```python\n{GATE}```"
    spliced = rungs.program_from_reply(Assignment(rung="method_splice", parent=parent, method="shape"), reply)
    plain = rungs.program_from_reply(Assignment(rung="method_splice", parent=free_parent, method="shape"), reply)
    body = spliced.program.partition("import torch\n")[2]
    assert body.replace(f"# one{sign}two\n", "") == plain.program.partition("import torch\n")[2]


def test_words_with_half_a_character_or_a_terminal_command_become_text_that_a_file_can_hold(seed):
    words = json.dumps({"motivation": "half \ud800, \x1b[2J, \x00 and \u202e turned"})
    reply = words + "\n" + module(FORWARD)
    draft = rungs.program_from_reply(Assignment(rung="whole_module", parent=seed), reply)
    text = canonical_json(to_json(draft)).encode().decode()
    assert "half" in draft.program
    assert not any(sign in text for sign in ("\x1b", "\\u001b", "\\u0000", "\u202e"))


@pytest.mark.parametrize(
    "body, said",
    [
        (f"    x = 0x{'f' * 9000}\n{FORWARD}", "an integer of 36000 bits"),
        (f"    x = 1{'+1' * 400}\n{FORWARD}", "nested more than 100 levels deep"),
        (f"    # {'w' * 300_000}\n{FORWARD}", "at most 200000 are read"),
    ],
)
def test_a_program_that_no_later_step_could_read_is_refused(seed, body, said):
    with pytest.raises(ProposalError, match=said):
        rungs.program_from_reply(Assignment(rung="whole_module", parent=seed), module(body))


def test_a_class_that_leaves_all_to_its_base_is_no_parent_of_splices(candidate):
    program = "from torch import nn\n\n\nclass Base(nn.Module):\n    pass\n\n\nclass DeltaNet(Base):\n    pass\n"
    assert rungs.rungs_for(candidate(program), BUILT_IN) == ("whole_module",)


def test_a_class_without_a_constructor_can_be_spliced(candidate):
    parent = candidate(f"import torch\nfrom torch import nn\n\n\nclass DeltaNet(nn.Module):\n{FORWARD}")
    assignment = Assignment(rung="method_splice", parent=parent, method="forward")
    (constructor,) = rungs.writing_task(assignment).facts["init"]
    assert constructor.text == ""
    reply = "```python\nself.scale = 2\ndef forward(self, hidden_states, **kwargs):\n    return hidden_states\n```"
    with pytest.raises(ProposalError, match="no __init__"):
        rungs.program_from_reply(assignment, reply)


def test_a_reason_is_one_clean_line_of_bounded_length():
    verdict = refusal("program", ProposalError("reads \x1b[31m\u202e\n\ud800 " + "name, " * 1000))
    assert verdict.reason.startswith("reads ")
    assert len(verdict.reason) == 400
    assert verdict.reason.isprintable()
    verdict.reason.encode()


def test_text_is_mended_only_where_utf8_cannot_hold_it():
    assert without_surrogates("é \x00 \U0001f600") == "é \x00 \U0001f600"
    assert without_surrogates("\ud83d\ude00 \ud800") == "\U0001f600 \N{REPLACEMENT CHARACTER}"
    assert one_line("a\r\n b\tc", 4) == "a..."
