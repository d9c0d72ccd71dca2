"""Near duplicates: the same change up to its constants is 1 alike, one line of a long program is not."""

from __future__ import annotations

import pytest

from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.proposals import splice
from arch_search.proposals.nearness import alike
from arch_search.proposals.registry import BUILT_IN
from arch_search.proposals.rendering import MIXER, render


def with_hooks(**results: str) -> str:
    """The seed program with other results of some hooks."""
    program = SEED_PROGRAM
    for name, result in results.items():
        source = splice.method_source(program, MIXER, name)
        program = splice.put_method(program, MIXER, name, source[: source.index("return")] + f"return {result}\n")
    return render(program, "", BUILT_IN)


def test_the_same_up_to_constants_and_names_of_learned_quantities_is_one_alike() -> None:
    slow = with_hooks(decay='-0.01 * F.softplus(self.p.lin1("slow", x))')
    fast = with_hooks(decay='-0.2 * F.softplus(self.p.lin1("fast", x))')
    assert alike(slow, fast) == 1.0


@pytest.mark.parametrize(
    "other",
    [
        {"decay": '-0.01 * F.softplus(self.p.scalar("slow", 0.5) + k.sum(-1, keepdim=True))'},
        {"output_gate": '-0.01 * F.softplus(self.p.lin1("slow", x))'},
        {"decay": '-0.01 * F.softplus(self.p.lin1("slow", x))', "mix_paths": "o + prev(v, 1)"},
    ],
)
def test_another_change_another_place_or_one_more_change_is_less_alike(other: dict[str, str]) -> None:
    assert alike(with_hooks(decay='-0.01 * F.softplus(self.p.lin1("slow", x))'), with_hooks(**other)) < 0.9


def test_what_both_have_in_the_same_form_does_not_count() -> None:
    assert alike(with_hooks(mix_paths="o + prev(v, 1)"), with_hooks(output_gate="o * torch.sigmoid(o)")) < 0.1
    assert alike(SEED_PROGRAM, SEED_PROGRAM) == 1.0


def test_a_child_of_a_long_line_is_as_far_from_its_parent_as_one_of_a_short_line() -> None:
    """In campaign=agents nine of ten programs of generation 8 were marked: all that a line had changed counted."""
    far = " + ".join(f"torch.sigmoid(self.p.lin1('s{n}', x)) * prev(v, {n})" for n in range(1, 8))
    line = {"mix_paths": f"o + {far}", "decay": '-0.01 * F.softplus(self.p.lin1("slow", x))'}
    gate = "o * torch.sigmoid(o)"
    apart = alike(with_hooks(**line), with_hooks(**line, output_gate=gate))
    assert apart == alike(SEED_PROGRAM, with_hooks(output_gate=gate)) < 0.5


def test_a_program_that_has_nothing_of_the_reference_counts_as_a_whole() -> None:
    body = "\n".join(f"        y = torch.tanh(y + self.w{index} * y)" for index in range(30))
    text = f"class Free(nn.Module):\n    def forward(self, y):\n{body}\n        return y\n"
    one_line = text.replace("torch.tanh(y + self.w7 * y)", "torch.sigmoid(y - self.w7)")
    assert 0.7 < alike(text, one_line) < 0.95
    assert alike(text, text.replace("30", "31")) == 1.0


def test_what_does_not_parse_is_like_nothing() -> None:
    assert alike("def (", SEED_PROGRAM) == 0.0
    assert alike("def (", "def (") == 0.0
