"""Arms without a language model: random mutation and placebo."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arch_search.errors import ProposalError
from arch_search.proposals import mutation, placebo, rungs
from arch_search.proposals.fingerprint import normal_form
from arch_search.proposals.registry import BUILT_IN


def test_mutations_of_mutations_are_valid_causal_changed_programs(seed, candidate, build, leak):
    for start in range(4):
        parent = seed
        for step in range(3):
            draft = mutation.mutate(parent, np.random.default_rng([start, step]), BUILT_IN)
            assert normal_form(draft.program) != normal_form(parent.program)
            assert rungs.editable_methods(draft.program, BUILT_IN)
            parent = candidate(draft.program)
        module = build(parent.program)
        assert torch.isfinite(module(torch.randn(2, 7, 16))).all()
        assert leak(module) < 1e-8


def test_the_same_random_stream_gives_the_same_mutation(seed):
    first, second = (mutation.mutate(seed, np.random.default_rng(4), BUILT_IN).program for _ in range(2))
    assert first == second
    assert first != mutation.mutate(seed, np.random.default_rng(5), BUILT_IN).program


def test_mutations_reach_every_hook(seed):
    touched = {mutation.mutate(seed, np.random.default_rng(i), BUILT_IN).motivation.split(":")[0] for i in range(25)}
    assert touched >= {"feature_map", "values", "write_strength", "decay", "mix_paths", "output_gate", "mix"}


def test_a_mutation_never_loosens_the_guard_of_write_strength_and_decay(seed, candidate):
    parent = seed
    for step in range(12):
        parent = candidate(mutation.mutate(parent, np.random.default_rng(step), BUILT_IN).program)
    assert "(zero + beta).clamp(0, 2)" in parent.program
    assert "(zero + g).clamp(-20, 0)" in parent.program


def test_a_program_outside_the_toolbox_is_mutated_too(free_parent):
    draft = mutation.mutate(free_parent, np.random.default_rng(0), BUILT_IN)
    assert "became" in draft.motivation
    assert draft.class_name == "Ema"


def test_a_program_with_nothing_to_change_is_refused(candidate):
    bare = "import torch\nclass DeltaNet(torch.nn.Module):\n    def forward(self, x):\n        return x\n"
    with pytest.raises(ProposalError, match="no random change"):
        mutation.mutate(candidate(bare), np.random.default_rng(0), BUILT_IN)


def test_a_placebo_computes_the_same_from_the_same_weights_but_draws_others(seed, build):
    draft = placebo.placebo(seed, generation=2, slot=5)
    ours, theirs = build(draft.program), build(seed.program)
    x = torch.randn(2, 40, 16)
    assert not torch.equal(ours(x), theirs(x))
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(x), theirs(x))
    assert draft.program != seed.program


def test_placebos_of_two_slots_draw_different_weights(seed, build):
    x = torch.randn(1, 5, 16)
    outputs = [build(placebo.placebo(seed, generation=1, slot=slot).program)(x) for slot in (1, 2)]
    assert not torch.equal(*outputs)


def test_a_reference_without_constructor_has_no_placebo(candidate):
    bare = "import torch\nclass DeltaNet(torch.nn.Module):\n    def forward(self, x):\n        return x\n"
    with pytest.raises(ProposalError, match="no __init__"):
        placebo.placebo(candidate(bare), generation=0, slot=0)
