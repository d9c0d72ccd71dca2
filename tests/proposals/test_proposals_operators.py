"""Crossover and simplify: operators on measured programs, without a language model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from arch_search.errors import ProposalError
from arch_search.proposals import crossover, hooks, mutation, rungs, simplify, splice
from arch_search.proposals.fingerprint import normal_form
from arch_search.proposals.registry import BUILT_IN
from arch_search.proposals.rendering import MIXER, is_toolbox_program, render


@pytest.fixture(scope="module")
def evolved(seed, candidate):
    """Number of a lineage -> a program four mutations away from the reference."""

    def make(number: int):
        parent = seed
        for step in range(4):
            parent = candidate(mutation.mutate(parent, np.random.default_rng([number, step]), BUILT_IN).program)
        return parent

    return make


@pytest.fixture(scope="module")
def with_body(seed, candidate):
    """The reference with other bodies of the named hooks."""

    def make(**bodies: str):
        program = seed.program
        for name, body in bodies.items():
            lines = "\n".join(f"    {line}" for line in body.split("\n"))
            program = splice.put_method(program, MIXER, name, f"{hooks.BY_HOOK[name].signature}\n{lines}\n")
        return candidate(render(program, "", BUILT_IN))

    return make


def body_of(program: str, name: str) -> str:
    return "\n".join(splice.method_source(program, MIXER, name).strip().split("\n")[1:]).replace("    ", "")


def known(*programs) -> set[str]:
    return {normal_form(one.program) for one in programs}


# ---- crossover


def test_every_hook_of_a_crossing_is_of_one_of_its_parents_and_it_is_neither(
    seed, evolved, build, leak, candidate
) -> None:
    for number in range(4):
        one, other = evolved(number), evolved(number + 10)
        child = crossover.cross(one, other, known(seed), np.random.default_rng(number), BUILT_IN).program
        assert is_toolbox_program(child, BUILT_IN)
        assert normal_form(child) not in (normal_form(one.program), normal_form(other.program))
        kept, taken = hooks.movable(one.program, child), hooks.movable(other.program, child)
        assert kept
        assert taken
        assert not set(kept) & set(taken)
        module = build(child)
        assert torch.isfinite(module(torch.randn(2, 7, 16))).all()
        assert leak(module) < 1e-8


def test_a_crossing_is_the_same_for_the_same_random_stream_and_reaches_all_sets_of_hooks(seed, with_body) -> None:
    one = with_body(values="return v", output_gate="return F.silu(o)")
    other = with_body(values="return F.relu(v)", decay='return -F.softplus(self.p.lin1("a", x))')
    drafts = [crossover.cross(one, other, known(seed), np.random.default_rng(number), BUILT_IN) for number in range(40)]
    assert drafts[3] == crossover.cross(one, other, known(seed), np.random.default_rng(3), BUILT_IN)
    # three hooks differ; all three together would be the other parent
    assert {draft.method for draft in drafts} == {
        "values", "decay", "output_gate", "values+decay", "values+output_gate", "decay+output_gate",
    }  # fmt: skip


def test_a_crossing_is_not_the_reference_either(seed, with_body) -> None:
    one, other = with_body(values="return v"), with_body(output_gate="return F.silu(o)")
    assert {
        crossover.cross(one, other, known(seed), np.random.default_rng(number), BUILT_IN).method for number in range(8)
    } == {"output_gate"}


def test_a_crossing_that_somebody_else_is_already_is_left_out(seed, with_body) -> None:
    one = with_body(values="return v", output_gate="return F.silu(o)")
    other = with_body(values="return F.relu(v)", decay='return -F.softplus(self.p.lin1("a", x))')
    third = with_body(values="return F.relu(v)", output_gate="return F.silu(o)")
    left = {one.hooks for one in crossover.crossings(one, other, known(seed, third), BUILT_IN)}
    assert ("values",) not in left
    assert len(left) == 5
    every = known(seed, *(candidate for candidate in (one, other))) | {
        normal_form(crossing.program) for crossing in crossover.crossings(one, other, (), BUILT_IN)
    }
    with pytest.raises(ProposalError, match="no crossing that is new"):
        crossover.cross(one, other, every, np.random.default_rng(0), BUILT_IN)


def test_a_moved_mix_brings_the_hooks_that_it_calls(with_body, build) -> None:
    one = with_body(mix="return v + prev(q, 1)", values="return F.relu(v)")
    other = with_body(decay='return -F.softplus(self.p.lin1("a", x))', output_gate="return F.silu(o)")
    assert "decay" not in hooks.hooks_of(one.program)
    child = hooks.with_hooks(one.program, other.program, ("mix",), BUILT_IN)
    assert "softplus" in body_of(child, "decay")
    assert body_of(child, "values") == "return F.relu(v)"
    build(child)


def test_a_learned_quantity_of_a_moved_hook_is_not_shared_with_one_of_the_same_name(with_body, build) -> None:
    """Five taps here and three there under one name would be one filter of the wrong length."""
    one = with_body(values='return self.p.conv("mine", v, 5)', output_gate="return F.silu(o)")
    other = with_body(mix_paths='return o + self.p.conv("mine", v, 3)')
    child = hooks.with_hooks(one.program, other.program, ("mix_paths",), BUILT_IN)
    assert body_of(child, "mix_paths") == 'return o + self.p.conv("mine_b", v, 3)'
    assert torch.isfinite(build(child)(torch.randn(1, 9, 16))).all()


@pytest.mark.parametrize("other", [{"values": "return F.relu(v)"}, {}])
def test_parents_that_differ_in_fewer_than_two_hooks_are_refused_in_one_line(seed, with_body, other) -> None:
    parents = with_body(values="return v"), with_body(**other)
    assert not crossover.can_cross(*parents, BUILT_IN)
    with pytest.raises(ProposalError, match=r"differ in two or more hooks$") as error:
        crossover.cross(*parents, known(seed), np.random.default_rng(0), BUILT_IN)
    assert all(parent.id in str(error.value) for parent in parents)


def test_a_program_outside_the_toolbox_is_no_parent_of_a_crossing(seed, free_parent, evolved) -> None:
    with pytest.raises(ProposalError, match="built on the toolbox"):
        crossover.cross(free_parent, evolved(1), known(seed), np.random.default_rng(0), BUILT_IN)


def test_a_hook_brings_the_helper_it_calls_and_stays_where_the_other_program_has_another_one(
    seed,
) -> None:
    def with_helper(body: str) -> str:
        helper = f"def extra(self, v: Tensor) -> Tensor:\n    {body}\n"
        return splice.put_method(seed.program, MIXER, "extra", helper)

    values = f"{hooks.BY_HOOK['values'].signature}\n    return self.extra(v)\n"
    one, other = seed.program, splice.put_method(with_helper("return F.relu(v)"), MIXER, "values", values)
    assert hooks.movable(one, other) == ("values",)
    assert "F.relu(v)" in hooks.with_hooks(one, other, ("values",), BUILT_IN)
    assert hooks.movable(with_helper("return F.relu(v)"), other) == ("values",)
    assert hooks.movable(with_helper("return v"), other) == ()


def test_a_hook_that_reads_what_only_the_constructor_of_its_program_makes_is_not_moved(seed, candidate) -> None:
    program = splice.add_to_init(seed.program, MIXER, "self.extra = nn.Parameter(torch.ones(1))\n")
    gate = f"{hooks.BY_HOOK['output_gate'].signature}\n    return o * self.extra\n"
    other = candidate(splice.put_method(program, MIXER, "output_gate", gate))
    assert hooks.movable(seed.program, other.program) == ()
    assert hooks.movable(program, other.program) == ("output_gate",)


# ---- simplify


@pytest.fixture(scope="module")
def simplified(seed):
    """Parent -> the changed hook and its new body, over many random streams."""

    def collect(parent) -> set[tuple[str, str]]:
        drafts = [simplify.simplify(parent, seed, np.random.default_rng(number), BUILT_IN) for number in range(20)]
        assert all(is_toolbox_program(draft.program, BUILT_IN) for draft in drafts)
        return {(draft.method, body_of(draft.program, draft.method)) for draft in drafts}

    return collect


def test_a_term_a_factor_or_all_that_is_new_in_a_hook_is_taken_away(simplified, with_body) -> None:
    gate = 'torch.sigmoid(self.p.lin1("g", x))'
    parent = with_body(values=f"return F.silu(v) + {gate} * prev(k, 2)", output_gate="return F.silu(o)")
    assert simplified(parent) == {
        ("values", f"return {gate} * prev(k, 2)"),
        ("values", "return F.silu(v) + prev(k, 2)"),
        ("values", "return F.silu(v)"),
        ("output_gate", "return o"),
    }


def test_what_is_left_is_of_the_kind_of_what_was_there_and_never_a_number(simplified, with_body) -> None:
    """A gate alone, a learned constant alone or a 2 would not do for the vector that the hook must return."""
    parent = with_body(
        values='return 2 * torch.sigmoid(self.p.lin1("g", x)) * v', mix_paths='return o * self.p.vector("c", 0.5)'
    )
    assert simplified(parent) == {("values", "return F.silu(v)"), ("values", "return v"), ("mix_paths", "return o")}


def test_a_line_of_mix_is_left_out_and_a_memory_is_not_replaced_by_its_query(simplified, with_body) -> None:
    memory = "self.read(q, k, v, self.write_strength(q, k, v, x), 0 * k[..., :1])"
    parent = with_body(mix=f"a1 = avg(v, 3)\na2 = {memory}\nreturn prev(a2, 1) - a1")
    assert ("mix", f"a2 = {memory}\nreturn prev(a2, 1) - v") in simplified(parent)
    assert ("mix", f"a2 = {memory}\nreturn prev(a2, 1)") in simplified(parent)
    assert not [body for _, body in simplified(parent) if "self.read" not in body]


def test_simplified_programs_of_long_lineages_are_valid_and_causal(seed, evolved, build, leak) -> None:
    for number in range(4):
        parent = evolved(number)
        child = simplify.simplify(parent, seed, np.random.default_rng(number), BUILT_IN).program
        assert normal_form(child) != normal_form(parent.program)
        assert rungs.editable_methods(child, BUILT_IN)
        module = build(child)
        assert torch.isfinite(module(torch.randn(2, 7, 16))).all()
        assert leak(module) < 1e-8


def test_a_parent_of_which_nothing_but_the_reference_would_be_left_is_refused(seed, with_body) -> None:
    for parent in (seed, with_body(values="return v")):
        with pytest.raises(ProposalError, match=f"{parent.id} has no component to take away"):
            simplify.simplify(parent, seed, np.random.default_rng(0), BUILT_IN)


def test_a_program_outside_the_toolbox_is_not_simplified(seed, free_parent) -> None:
    with pytest.raises(ProposalError, match="not built on the toolbox"):
        simplify.simplify(free_parent, seed, np.random.default_rng(0), BUILT_IN)
