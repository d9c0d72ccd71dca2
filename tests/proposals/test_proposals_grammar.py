"""Grammars: every sentence is a valid program, and what is not of the toolbox is no sentence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arch_search.proposals import examples, rungs
from arch_search.proposals.assignment import Assignment
from arch_search.proposals.grammar import MAX_LINES, edit_grammar, program_grammar
from arch_search.proposals.registry import BUILT_IN, HOOKS

_HOOK_NAMES = [hook.name for hook in HOOKS]
_BOTH = ("write_strength", "decay")


@pytest.mark.parametrize("name", _HOOK_NAMES)
def test_every_sentence_of_an_edit_grammar_makes_a_causal_finite_program(name, gbnf, seed, build, leak):
    rng = np.random.default_rng(len(name))
    grammar = gbnf(edit_grammar(name, BUILT_IN))
    assignment = Assignment(rung="grammar_edit", parent=seed, method=name)
    for _ in range(6):
        module = build(rungs.program_from_reply(assignment, grammar.sample(rng)).program)
        assert torch.isfinite(module(torch.randn(2, 7, 16))).all()
        assert leak(module) < 1e-8  # float64; inputs reach 30 and the last layers amplify rounding


def test_every_sentence_of_the_program_grammar_makes_a_causal_finite_program(gbnf, seed, build, leak):
    rng = np.random.default_rng(3)
    grammar = gbnf(program_grammar(_BOTH, BUILT_IN))
    assignment = Assignment(rung="grammar_program", parent=seed)
    for _ in range(10):
        module = build(rungs.program_from_reply(assignment, grammar.sample(rng)).program)
        assert torch.isfinite(module(torch.randn(2, 7, 16))).all()
        assert leak(module) < 1e-8


def test_program_grammar_reads_a_memory_first_and_uses_the_last_name(gbnf):
    rng = np.random.default_rng(0)
    grammar = gbnf(program_grammar(_BOTH, BUILT_IN))
    lengths = set()
    for _ in range(40):
        lines = grammar.sample(rng).splitlines()
        assert lines[2].startswith(("    a1 = self.read(", "    a1 = linear_memory("))
        count = len(lines) - 3
        lengths.add(count)
        assert f"a{count}" in lines[-1]
    assert max(lengths) <= MAX_LINES
    assert len(lengths) > 1


@pytest.mark.parametrize("name", ["mix_paths", "decay"])
def test_worked_examples_are_sentences_of_their_grammar(name, gbnf):
    other = "feature_map" if name == "mix_paths" else "mix_paths"
    for _, answer in examples.examples_for("grammar_edit", other, on_toolbox=True):
        method = answer.split("def ")[1].split("(")[0]
        assert gbnf(edit_grammar(method, BUILT_IN)).accepts(answer)
        assert not gbnf(edit_grammar("output_gate", BUILT_IN)).accepts(answer)


def test_worked_programs_are_sentences_of_the_program_grammar(gbnf):
    for _, answer in examples.examples_for("grammar_program", "mix", on_toolbox=True):
        assert gbnf(program_grammar(_BOTH, BUILT_IN)).accepts(answer)


@pytest.mark.parametrize(
    "expression",
    [
        "o + x",  # x stands only inside learned quantities
        "o + torch.cumsum(v, 2)",
        'o + self.p.lin1("a", q)',
        "o + prev(v, 0)",
        "o + v.flip(2)",
        "v",  # without o the memory would be a dead path
    ],
)
def test_grammar_has_no_sentence_outside_the_toolbox(expression, gbnf):
    head = "# add something to the output\ndef mix_paths(self, o, q, k, v, x):\n    return "
    grammar = gbnf(edit_grammar("mix_paths", BUILT_IN))
    assert grammar.accepts(f"{head}o + prev(v, 2)\n")
    assert not grammar.accepts(f"{head}{expression}\n")


def test_prose_is_bounded(gbnf):
    text = "# " + "a" * 400 + "\ndef mix_paths(self, o, q, k, v, x):\n    return o + prev(v, 2)\n"
    assert not gbnf(edit_grammar("mix_paths", BUILT_IN)).accepts(text)


def test_a_parent_without_the_hook_is_not_offered_its_call(gbnf):
    call = "self.write_strength(q, k, v, x)"
    assert call in program_grammar(("write_strength",), BUILT_IN)
    assert call not in program_grammar((), BUILT_IN)
