"""Programs as text: normal form, difference, splice."""

from __future__ import annotations

import pytest

from arch_search.errors import ProposalError
from arch_search.proposals import splice
from arch_search.proposals.difference import describe_difference
from arch_search.proposals.fingerprint import normal_form

PROGRAM = '''"""Words."""
import torch
from torch import nn


class A(nn.Module):
    """More words."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)  # a comment

    @torch.no_grad()
    def bend(self, y):
        z = torch.tanh(y)
        return z + self.p.lin1("gate", y)

    def forward(self, x):
        return self.bend(self.map(x))
'''


@pytest.mark.parametrize(
    "old, new",
    [
        ('"""Words."""', '"""Others."""'),
        ("  # a comment", ""),
        ("width", "size"),
        ("self.map", "self.linear"),
        ("bend", "shape"),
        ('"gate"', '"door"'),
        ("z", "zz"),
        ("class A", "class B"),
        ("width: int = 4", "width=4"),
        ("import torch\nfrom torch import nn\n", "from torch import nn\nimport torch\n"),
    ],
)
def test_wording_does_not_count_in_the_normal_form(old, new):
    assert normal_form(PROGRAM.replace(old, new)) == normal_form(PROGRAM)


@pytest.mark.parametrize(
    "old, new", [("tanh", "sigmoid"), ("= 4", "= 8"), ("lin1", "lind"), ("z + ", "z - "), ('"gate", y', '"gate", z')]
)
def test_what_is_computed_counts_in_the_normal_form(old, new):
    assert normal_form(PROGRAM.replace(old, new)) != normal_form(PROGRAM)


def test_sharing_a_learned_quantity_is_another_program():
    shared = PROGRAM.replace("return z +", 'return z * self.p.lin1("gate", y) +')
    apart = PROGRAM.replace("return z +", 'return z * self.p.lin1("other", y) +')
    assert normal_form(shared) != normal_form(apart)


def test_normal_form_of_what_does_not_parse_is_an_error():
    with pytest.raises(ProposalError, match="does not parse at line 1"):
        normal_form("def (")


def test_difference_names_what_changed_what_is_new_and_what_is_gone():
    after = PROGRAM.replace("torch.tanh(y)", "torch.relu(y)").replace("bend(self.map", "last(self.map")
    after += "\n    def last(self, y):\n        return 2 * y\n"
    text = describe_difference(PROGRAM, after)
    assert "A.bend: `z = torch.tanh(y)` became `z = torch.relu(y)`" in text
    assert "new A.last: `2 * y`" in text
    assert "without A.last" in describe_difference(after, PROGRAM)


def test_difference_does_not_see_words():
    assert describe_difference(PROGRAM, PROGRAM.replace('"""More words."""', '"""Fewer."""')) == "nothing but wording"


def test_difference_cuts_long_expressions():
    after = PROGRAM.replace("return z", "return " + " + ".join(["z"] * 300))
    assert len(describe_difference(PROGRAM, after)) < 300


def test_put_method_replaces_decorators_too_and_keeps_the_rest():
    after = splice.put_method(PROGRAM, "A", "bend", "def bend(self, y):\n    return y\n")
    assert "no_grad" not in after
    assert "# a comment" in after
    assert splice.method_source(after, "A", "bend") == "def bend(self, y):\n    return y\n"
    assert list(splice.methods(after, "A")) == ["__init__", "bend", "forward"]


def test_put_method_adds_a_new_one_at_the_end_of_the_class():
    after = splice.put_method(PROGRAM, "A", "more", "def more(self):\n    return 1\n")
    assert list(splice.methods(after, "A")) == ["__init__", "bend", "forward", "more"]


def test_drop_method_removes_only_that_method():
    assert list(splice.methods(splice.drop_method(PROGRAM, "A", "bend"), "A")) == ["__init__", "forward"]


def test_add_to_init_puts_statements_at_its_end():
    source = splice.method_source(splice.add_to_init(PROGRAM, "A", "self.b = 1\n"), "A", "__init__")
    assert source.rstrip().endswith("self.b = 1")


def test_a_class_without_constructor_or_a_missing_class_is_named():
    with pytest.raises(ProposalError, match="no __init__"):
        splice.add_to_init("class A:\n    def f(self):\n        pass\n", "A", "self.b = 1\n")
    with pytest.raises(ProposalError, match="no class B"):
        splice.methods(PROGRAM, "B")


def test_names_bound_anywhere_are_defined():
    text = "import os as o\nfor i in range(3):\n    print(o, i, [j for j in ()], missing)\n"
    assert splice.undefined_names(text) == ("missing",)
