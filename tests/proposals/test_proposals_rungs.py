"""Rungs: what is asked, what a reply becomes, and which replies are refused in one line."""

from __future__ import annotations

import ast

import pytest
import torch

from arch_search.errors import ProposalError
from arch_search.proposals import rungs
from arch_search.proposals.assignment import Assignment
from arch_search.proposals.registry import BUILT_IN
from arch_search.proposals.rendering import is_toolbox_program
from cognition_db.records import Insight

GATED = (
    "# gate the output with the input\n"
    "def output_gate(self, o, x):\n"
    '    return o * torch.sigmoid(self.p.lind("gate", x))\n'
)
TWO = (
    "def mix(self, q, k, v, x):\n"
    '    a1 = self.read(q, k, v, torch.sigmoid(self.p.lin1("b", x)), self.decay(q, k, v, x))\n'
    "    a2 = prev(v, 3)\n"
    '    return a1 + self.p.conv("fir", v, 5)\n'
)
INSIGHT = Insight(id="i", arxiv_id="1", section="2", title="", claim="CLAIM.", trigger="", how="HOW", cost="")


MAPPED = 'def feature_map(self, q, k, x):\n    return q, k * torch.sigmoid(self.p.lin1("key", x))\n'
FILTERS = 'def mix(self, q, k, v, x):\n    return v + self.p.conv("long", v, 31)\n'


def edit(seed, method: str = "output_gate") -> Assignment:
    return Assignment(rung="grammar_edit", parent=seed, method=method, insight=INSIGHT)


def refusal(assignment: Assignment, reply: str) -> str:
    with pytest.raises(ProposalError) as caught:
        rungs.program_from_reply(assignment, reply)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- replies that become programs


def test_where_a_mix_reads_no_memory_any_more_nothing_is_learned_for_it_or_asked_about_it(seed, candidate, build):
    mapped = candidate(rungs.program_from_reply(edit(seed, "feature_map"), MAPPED).program)
    program = rungs.program_from_reply(Assignment(rung="grammar_program", parent=mapped), FILTERS).program
    mixer = build(program)
    mixer(torch.randn(1, 5, 16)).sum().backward()
    assert [name for name, one in mixer.named_parameters() if one.grad is None] == []

    child = candidate(program)
    assert is_toolbox_program(program, BUILT_IN)
    assert "feature_map" in rungs.editable_methods(mapped.program, BUILT_IN)
    assert rungs.editable_methods(program, BUILT_IN) == ("values", "mix_paths", "output_gate")
    task = rungs.writing_task(Assignment(rung="grammar_program", parent=child, insight=INSIGHT))
    assert "self.read" not in (task.grammar or "")
    assert "self.read" not in str(task.facts["toolbox"])
    assert "self.read" in (rungs.writing_task(Assignment(rung="grammar_program", parent=mapped)).grammar or "")


def test_an_edit_becomes_a_readable_program_that_can_be_edited_again(seed, candidate, build):
    draft = rungs.program_from_reply(edit(seed), GATED)
    assert "output_gate: `o` became `o * torch.sigmoid(self.p.lind('gate', x))`" in draft.motivation
    assert draft.class_name == "DeltaNet"
    header = ast.get_docstring(ast.parse(draft.program)) or ""
    assert seed.id in header
    assert "not checked: gate the output with the input" in header
    assert max(len(line) for line in draft.program.splitlines()) <= 120
    child = candidate(draft.program)
    assert rungs.editable_methods(child.program, BUILT_IN) == rungs.editable_methods(seed.program, BUILT_IN)
    again = "def decay(self, q, k, v, x):\n    return -0.05 * F.softplus(self.p.lin1('f', x))\n"
    grandchild = rungs.program_from_reply(edit(child, "decay"), again).program
    assert 'self.p.lind("gate", x)' in grandchild
    build(grandchild)(torch.randn(1, 5, 16)).sum().backward()


def test_what_a_rewritten_forward_reads_is_kept(seed, candidate):
    mapped = rungs.program_from_reply(edit(seed, "feature_map"), MAPPED).program
    reads = candidate(mapped.replace("self.output_gate(self.norm(o), x)", "self.output_gate(self.norm(o), x) + k"))
    assert is_toolbox_program(reads.program, BUILT_IN)
    program = rungs.program_from_reply(Assignment(rung="grammar_program", parent=reads), FILTERS).program
    assert 'self.p.lin1("key", x)' in program
    assert "feature_map" in rungs.editable_methods(program, BUILT_IN)


def test_the_same_reply_gives_the_same_text(seed):
    first, second = (rungs.program_from_reply(edit(seed), GATED).program for _ in range(2))
    assert first == second


def test_a_program_holds_exactly_the_toolbox_pieces_it_uses(seed):
    program = rungs.program_from_reply(Assignment(rung="grammar_program", parent=seed), TWO).program
    names = {node.name for node in ast.parse(program).body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assert names == {"l2norm", "gated_delta_rule", "Learned", "DeltaNet"}
    assert "def conv(" in program
    assert "def lind(" not in program


def test_lines_that_nothing_reads_and_hooks_that_nothing_calls_are_left_out(seed):
    program = rungs.program_from_reply(Assignment(rung="grammar_program", parent=seed), TWO).program
    assert "a2 =" not in program
    assert "def write_strength" not in program
    assert "write_strength" not in rungs.editable_methods(program, BUILT_IN)
    assert "decay" in rungs.editable_methods(program, BUILT_IN)


def test_a_toolbox_program_is_taken_with_and_without_a_fence_and_with_prose_behind_it(seed):
    assignment = Assignment(rung="toolbox_program", parent=seed)
    texts = [TWO, f"```python\n{TWO}```\nThis mixes two paths.", f"{TWO}```\nNote: fine."]
    programs = {rungs.program_from_reply(assignment, text).program for text in texts}
    assert len(programs) == 1


def test_a_spliced_method_brings_new_methods_and_attributes(free_parent, build):
    reply = (
        '{"motivation":"a learned slope"}\n```python\n'
        "self.slope = nn.Parameter(torch.ones(1))\n\n"
        "def shape(self, y):\n    return torch.tanh(self.bent(y))\n\n"
        "def bent(self, y):\n    return self.slope * y\n```\n"
    )
    draft = rungs.program_from_reply(Assignment(rung="method_splice", parent=free_parent, method="shape"), reply)
    assert draft.class_name == "Ema"
    assert "new Ema.bent" in draft.motivation
    assert "a learned slope" in draft.program
    module = build(draft.program, "Ema", d_model=64)
    assert "slope" in dict(module.named_parameters())


def test_new_attributes_stand_before_the_dry_call_of_a_toolbox_constructor(seed, build):
    reply = (
        "```python\nself.own = nn.Parameter(torch.ones(num_heads, 1, 1))\n\n"
        "def output_gate(self, o, x):\n    return self.own * o\n```"
    )
    draft = rungs.program_from_reply(Assignment(rung="method_splice", parent=seed, method="output_gate"), reply)
    assert "own" in dict(build(draft.program).named_parameters())


def test_a_whole_module_is_the_longest_block_dedented(seed, build):
    body = (
        "    import torch\n    from torch import nn\n    class DeltaNet(nn.Module):\n"
        "        def __init__(self, hidden_size=8, **kwargs):\n            super().__init__()\n"
        "            self.out = nn.Linear(hidden_size, hidden_size)\n"
        "        def forward(self, hidden_states, **kwargs):\n            return self.out(hidden_states)\n"
    )
    reply = f'{{"motivation":"only a projection"}}\n```\nx = 1\n```\n```python\n{body}```\n'
    draft = rungs.program_from_reply(Assignment(rung="whole_module", parent=seed), reply)
    assert not is_toolbox_program(draft.program, BUILT_IN)
    assert "only a projection" in draft.program
    assert build(draft.program)(torch.randn(1, 3, 16)).shape == (1, 3, 16)


# ---- refusals


@pytest.mark.parametrize(
    "rung", ["grammar_edit", "grammar_program", "toolbox_program", "method_splice", "whole_module"]
)
@pytest.mark.parametrize("reply, reason", [("", "empty"), ("  \n", "empty"), ("I think attention is good.", "no ")])
def test_empty_replies_and_prose_are_refused(rung, reply, reason, seed):
    method = "output_gate" if rung in ("grammar_edit", "method_splice") else ""
    assert reason in refusal(Assignment(rung=rung, parent=seed, method=method), reply)


def test_a_reply_without_a_fenced_block_is_refused(seed):
    text = 'def output_gate(self, o, x):\n    return o * 2\n{"motivation":"x"}'
    assignment = Assignment(rung="method_splice", parent=seed, method="output_gate")
    assert "no fenced block" in refusal(assignment, text)


@pytest.mark.parametrize(
    "code, reason",
    [
        ("def output_gate(self, o, x):\n    return o * (\n", "does not parse at line 2"),
        ("def output_gate(self, o, x):\n    return o  # as it was\n", "copy of the parent"),
        ("def output_gate(self, o, x):\n    return o * gate\n", "undefined names: gate"),
        ("def output_gate(self, o, y):\n    return o * y\n", "must keep its arguments"),
        ("def decay(self, q, k, v, x):\n    return k\n", "no def output_gate"),
        ("def output_gate(self, o, x):\n    o = 2 * o\n", "returns nothing"),
        ("def output_gate(self, o, x):\n    return o * self.p.lin2('a', x)\n", "no learned quantity"),
        ("def output_gate(self, o, x):\n    return o * self.gate(x)\n", "self.gate, which the mixer does not have"),
        ("def output_gate(self, o, x):\n    return prev(o)\n", "prev takes 2 arguments, the reply gives 1"),
        ("def output_gate(self, o, x):\n    return o * 2\n\nprint(1)\n", "and nothing else, not 2 parts"),
    ],
)
def test_an_unusable_edit_is_refused_with_its_reason(code, reason, seed):
    assert reason in refusal(edit(seed), code)


@pytest.mark.parametrize(
    "code, reason",
    [
        ("def shape(self, y:\n    return y\n", "does not parse"),
        ("def other(self, y):\n    return y\n", "no def shape"),
        ("def __init__(self):\n    pass\ndef shape(self, y):\n    return y\n", "redefines __init__"),
        ("def shape(self, z):\n    '''Other words.'''\n    return torch.tanh(z)\n", "copy of the parent"),
        ("def shape(self, y):\n    return torch.tanh(y) * scale\n", "undefined names: scale"),
    ],
)
def test_an_unusable_splice_is_refused_with_its_reason(code, reason, free_parent):
    assignment = Assignment(rung="method_splice", parent=free_parent, method="shape")
    assert reason in refusal(assignment, f"```python\n{code}```")


def test_a_whole_module_without_a_class_is_refused(seed):
    assert "no class DeltaNet" in refusal(Assignment(rung="whole_module", parent=seed), "```python\nx = 1\n```")


def test_a_renamed_copy_of_the_parent_is_refused(seed):
    copied = seed.program.replace("hidden_states", "tokens").replace("self.qkv", "self.all").replace("kb", "written")
    assignment = Assignment(rung="whole_module", parent=seed)
    assert "copy of the parent" in refusal(assignment, f"```python\n{copied}```")


@pytest.mark.parametrize("depth", [5_000, 90_000])
def test_a_program_nested_without_end_is_refused(depth, seed):
    assert "parse" in refusal(edit(seed), f"def output_gate(self, o, x):\n    return {'(' * depth}o{')' * depth}\n")


# ---- what is asked


def test_rungs_of_a_parent_follow_from_its_program(seed, free_parent):
    assert rungs.rungs_for(seed, BUILT_IN)[0] == "grammar_edit"
    assert rungs.rungs_for(free_parent, BUILT_IN) == ("method_splice", "whole_module")
    assert rungs.methods_for("method_splice", free_parent, BUILT_IN) == ("shape", "forward")
    assert rungs.methods_for("grammar_edit", free_parent, BUILT_IN) == ()


def test_a_rung_that_the_parent_cannot_take_is_refused(seed, free_parent):
    with pytest.raises(ProposalError, match="not built on the toolbox"):
        rungs.writing_task(Assignment(rung="grammar_edit", parent=free_parent, method="decay"))
    with pytest.raises(ProposalError, match="no method 'nothing'"):
        rungs.writing_task(Assignment(rung="grammar_edit", parent=seed, method="nothing"))
    with pytest.raises(ProposalError, match="not written by a model"):
        rungs.writing_task(Assignment(rung="mutation", parent=seed))


def test_only_grammar_rungs_carry_a_grammar(seed):
    for rung in rungs.rungs_for(seed, BUILT_IN):
        task = rungs.writing_task(Assignment(rung=rung, parent=seed, method="decay", insight=INSIGHT))
        assert (task.grammar is not None) == rung.startswith("grammar_")
        assert "CLAIM" in task.facts["insight"]
        assert task.hints["rung"] == rung


def test_an_example_never_shows_the_method_that_is_asked(seed):
    for method in rungs.editable_methods(seed.program, BUILT_IN):
        task = rungs.writing_task(edit(seed, method))
        assert len(task.examples) == 2
        assert all(f"def {method}(" not in answer for _, answer in task.examples)


def test_insights_are_drawn_for_the_place_of_the_change():
    assert rungs.insight_tags("grammar_edit", "values") == ("convolution",)
    assert "memory" in rungs.insight_tags("grammar_program", "")
    assert rungs.insight_tags("whole_module", "") == ()


def test_a_whole_module_that_changed_a_toolbox_piece_takes_only_the_free_rungs(seed, candidate):
    changed = seed.program.replace("decay = (g_ - g_.mT).tril().exp().tril()", "decay = torch.ones_like(lower)")
    assert changed != seed.program
    helped = seed.program.replace("class Learned", "def helper(x):\n    return x\n\n\nclass Learned")
    for program in (changed, helped):
        assert rungs.rungs_for(candidate(program), BUILT_IN) == ("method_splice", "whole_module")


def test_a_splice_into_a_toolbox_program_gets_the_pieces_it_uses(seed):
    reply = "```python\ndef output_gate(self, o, x):\n    return o - avg(o, 4)\n```"
    draft = rungs.program_from_reply(Assignment(rung="method_splice", parent=seed, method="output_gate"), reply)
    assert "def avg(" in draft.program
    assert "def prev(" in draft.program
    assert is_toolbox_program(draft.program, BUILT_IN)
