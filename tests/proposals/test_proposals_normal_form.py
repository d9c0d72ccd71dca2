"""The normal form: what one computation may be written as is one form, and two computations never are."""

from __future__ import annotations

import ast
import random

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arch_search.domains.linear_attention import SEED_PROGRAM
from arch_search.errors import ProposalError
from arch_search.proposals import mutation, splice
from arch_search.proposals.fingerprint import normal_form
from arch_search.proposals.registry import BUILT_IN
from arch_search.proposals.rendering import MIXER, render

MIX_PATHS = "def mix_paths(self, o, q, k, v, x):\n    return o\n"
LAYER = """
import torch
from torch import nn

class Layer(nn.Module):
    def __init__(self, d_model=16, **kwargs):
        super().__init__()
        self.gate, self.out = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def bend(self, y, n):
        return torch.tanh(y) ** n

    def widen(self, y):
        return y.sum(dim=-1, keepdim=True)

    def forward(self, hidden_states, **kwargs):
        y = torch.sigmoid(self.gate(hidden_states))
        return self.out(RESULT)
"""


def mixing(result: str) -> str:
    """The seed program with another result of mix_paths."""
    return render(
        splice.put_method(SEED_PROGRAM, MIXER, "mix_paths", MIX_PATHS.replace("return o", f"return {result}")),
        "",
        BUILT_IN,
    )


def layer(result: str) -> str:
    return LAYER.replace("RESULT", result)


@pytest.mark.parametrize(
    "one, other",
    [
        ("(1 - 0.5) * o", "0.5 * o"),
        ("o * (2 * 3)", "o * 6"),
        ("-(-o)", "o"),
        ("o * 1.0 + 0", "o"),
        ("o / 1 - 0", "o"),
        ("o - 0.5", "o + -0.5"),
        ("o + v", "v + o"),
        ("o + v * k + q", "q + (k * v + o)"),
        ('o * self.p.lin1("a", x) + v * self.p.lin1("b", x)', 'v * self.p.lin1("a", x) + self.p.lin1("b", x) * o'),
        ('self.p.lin1("a", x) + self.p.lin1("b", x) + prev(self.p.lin1("a", x), 1) * o',
         'self.p.lin1("b", x) + self.p.lin1("a", x) + prev(self.p.lin1("a", x), 1) * o'),
    ],
)  # fmt: skip
def test_a_computation_written_in_two_ways_has_one_form(one: str, other: str) -> None:
    assert normal_form(mixing(one)) == normal_form(mixing(other))


@pytest.mark.parametrize(
    "one, other",
    [
        ("o - v", "v - o"),
        ("o / v", "v / o"),
        ("o @ v", "v @ o"),
        ("prev(k, 1)", "prev(k, 2)"),
        ("prev(q, 1)", "prev(k, 1)"),
        ("o * 2", "o + 2"),
        ("(o + v) * k", "o + v * k"),
        ("-(o * 0.5)", "o * 0.5"),
        ("o + v + v", "o + o + v"),
        ("o ** 2", "2 ** o"),
        ("o * (3 // 2)", "o * (3 / 2)"),
        ('o * self.p.lin1("a", x) + v * self.p.lin1("a", x)', 'o * self.p.lin1("a", x) + v * self.p.lin1("b", x)'),
        ('o * self.p.lin1("a", x) + self.p.lin1("b", q)', 'o * self.p.lin1("b", x) + self.p.lin1("b", q)'),
    ],
)
def test_two_computations_keep_two_forms(one: str, other: str) -> None:
    assert normal_form(mixing(one)) != normal_form(mixing(other))


@pytest.mark.parametrize(
    "one, other",
    [
        # whole numbers and truth values become floating point by these
        ("y.argmax(-1, keepdim=True) * 1.0", "y.argmax(-1, keepdim=True)"),
        ("(y > 0) + 0", "(y > 0)"),
        # sequences are joined in their order
        ("y.view(y.shape[:1] + y.shape[1:])", "y.view(y.shape[1:] + y.shape[:1])"),
        ("self.bend(y, n=2)", "self.bend(y, n=3)"),
    ],
)
def test_what_looks_neutral_is_kept_where_it_is_not_certain(one: str, other: str) -> None:
    assert normal_form(layer(one)) != normal_form(layer(other))


@pytest.mark.parametrize(
    "old, new",
    [
        # the framework passes d_model by this name
        ("d_model", "width"),
        # torch calls these by name
        ("def widen(self, y)", "def train(self, y)"),
    ],
)
def test_a_name_that_means_something_elsewhere_counts(old: str, new: str) -> None:
    assert normal_form(layer("y").replace(old, new)) != normal_form(layer("y"))


def test_two_builtins_are_two_though_a_variable_hides_one_of_them() -> None:
    lower = layer("min(y, (lambda min: min)(y))")
    assert normal_form(lower) != normal_form(lower.replace("min", "max"))


@pytest.mark.parametrize("given", ["base=2, power=3", '**{"base": 2, "power": 3}'])
def test_arguments_that_are_given_by_name_keep_their_names(given: str) -> None:
    one = layer(f"self.bend(y, {given})").replace("y, n):", "y, base, power):").replace("** n", "* base**power")
    other = one.replace("y, base, power):", "y, power, base):").replace("* base**power", "* power**base")
    assert normal_form(one) != normal_form(other)


def test_which_of_two_classes_is_the_mixer_counts() -> None:
    both = layer("y").replace("class Layer", "class DeltaNet") + layer("2 * y").split("from torch import nn\n")[1]
    swapped = both.replace("DeltaNet", "X").replace("Layer", "DeltaNet").replace("X", "Layer")
    assert normal_form(both) != normal_form(swapped)


def test_names_that_are_looked_up_as_text_count() -> None:
    text = layer('getattr(self, "bend")(y, 2) + self.widen(y)')
    assert normal_form(text) != normal_form(text.replace("widen", "other"))
    assert normal_form(layer("self.widen(y)").replace("widen", "other")) == normal_form(layer("self.widen(y)"))


def test_a_row_of_definitions_and_the_order_of_keywords_do_not_count() -> None:
    bend, widen = (splice.method_source(layer("y"), "Layer", name) for name in ("bend", "widen"))
    swapped = splice.put_method(splice.put_method(layer("y"), "Layer", "bend", widen), "Layer", "widen", bend)
    swapped = swapped.replace("dim=-1, keepdim=True", "keepdim=True, dim=-1")
    assert list(splice.methods(swapped, "Layer")) != list(splice.methods(layer("y"), "Layer"))
    assert normal_form(swapped) == normal_form(layer("y"))


def test_operands_that_change_state_keep_their_order() -> None:
    text = layer("self.bend(y, 2) * self.widen(y)")
    counting = text.replace("return y.sum", "self.seen = y\n        return y.sum")
    swap = ("self.bend(y, 2) * self.widen(y)", "self.widen(y) * self.bend(y, 2)")
    assert normal_form(text) == normal_form(text.replace(*swap))
    assert normal_form(counting) != normal_form(counting.replace(*swap))


@pytest.mark.parametrize("change", ["z += 1", "z[:, 0] = 1", "z.add_(1)"])
@pytest.mark.parametrize("copy", ["y * 1.0", "-(-y)"])
def test_a_copy_that_is_changed_in_place_is_not_what_it_was_copied_from(change: str, copy: str) -> None:
    text = layer("y + z").replace("return self.out", f"z = {copy}\n        {change}\n        return self.out")
    assert normal_form(text) != normal_form(text.replace(copy, "y"))


def test_of_two_imports_of_one_name_the_last_counts() -> None:
    first, last = "from torch import relu as act\n", "from torch import tanh as act\n"
    assert normal_form(first + last + layer("act(y)")) != normal_form(last + first + layer("act(y)"))


def test_copied_pieces_of_the_toolbox_do_not_count_and_changed_ones_do() -> None:
    piece = "def prev(x: Tensor, n: int) -> Tensor:\n"
    used = mixing("o + prev(v, 1)")
    assert piece in used
    assert normal_form(SEED_PROGRAM.replace("class DeltaNet", used[used.index(piece) : used.index("class Learned")]
                                            + "class DeltaNet")) == normal_form(SEED_PROGRAM)  # fmt: skip
    assert normal_form(used.replace("F.pad(x, (0, 0, n, 0))", "F.pad(x, (0, 0, n, 1))")) != normal_form(used)
    assert normal_form(used.replace("self.d_model**-0.5", "self.d_model**-1.5")) != normal_form(used)


def test_a_program_without_end_has_no_form() -> None:
    with pytest.raises(ProposalError):
        normal_form("x = " + " + ".join(["y"] * 5000))


# ---- generated programs


class _Rewriter(ast.NodeTransformer):
    """Writes the same program in another way: names of variables and learned quantities, order of operands."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._names: dict[str, str] = {}

    def _other(self, name: str) -> str:
        return self._names.setdefault(name, f"z{len(self._names)}{self._rng.choice('abc')}")

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(self._other(node.id) if node.id in "qkvox" else node.id, node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(self._other(node.arg) if node.arg in "qkvox" else node.arg, node.annotation)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        if ast.unparse(node.func).startswith("self.p."):
            node.args[0] = ast.Constant(self._other(node.args[0].value))
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, (ast.Add, ast.Mult)) and self._rng.random() < 0.5:
            node.left, node.right = node.right, node.left
        return node


def _written_otherwise(program: str, rng: random.Random) -> str:
    tree = ast.parse(program)
    mixer = tree.body[-1]
    for node in mixer.body:
        if isinstance(node, ast.FunctionDef) and node.name in ("mix_paths", "values", "decay"):
            _Rewriter(rng).visit(node)
    others = [node for node in mixer.body if isinstance(node, ast.FunctionDef) and node.name != "__init__"]
    kept = [node for node in mixer.body if node not in others]
    mixer.body = kept + rng.sample(others, len(others))
    return ast.unparse(ast.fix_missing_locations(tree))


_vectors = st.recursive(
    st.sampled_from(["o", "q", "k", "v", 'self.p.lind("a", x)', 'self.p.lind("b", x)', "0.5", "(1 - 0.5)"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
        st.tuples(st.sampled_from(["prev({}, 1)", "prev({}, 2)", "torch.sigmoid({})", "F.silu({})"]), inner).map(
            lambda t: t[0].format(t[1] if "0.5" not in t[1] else f"(o * {t[1]})")
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(result=_vectors, seed=st.integers(0, 2**32 - 1))
def test_a_generated_program_has_one_form_however_it_is_written(result: str, seed: int) -> None:
    program = mixing(f"o + {result}")
    assert normal_form(_written_otherwise(program, random.Random(seed))) == normal_form(program)


def _behaviour(result: str) -> torch.Tensor:
    """The value of a result on fixed small inputs, with learned quantities that follow from their names."""
    rng = torch.Generator().manual_seed(3)
    o, q, k, v, a, b = (torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=rng) for _ in range(6))

    class P:
        def lind(self, name: str, x: object) -> torch.Tensor:
            return {"a": a, "b": b}[name]

    class Self:
        p = P()

    def prev(y: torch.Tensor, n: int) -> torch.Tensor:
        return torch.nn.functional.pad(y, (0, 0, n, 0))[:, :, : y.shape[2]]

    scope = {"o": o, "q": q, "k": k, "v": v, "x": None, "self": Self(), "prev": prev, "torch": torch,
             "F": torch.nn.functional}  # fmt: skip
    return o + eval(result, scope)


def _swapped(result: str) -> str:
    return result.replace('"a"', '"c"').replace('"b"', '"a"').replace('"c"', '"b"')


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(results=st.lists(_vectors, min_size=2, max_size=12, unique=True))
def test_no_two_generated_programs_of_one_form_behave_differently(results: list[str]) -> None:
    seen: dict[str, str] = {}
    for result in results:
        form = normal_form(mixing(f"o + {result}"))
        twin = seen.setdefault(form, result)
        # the names of learned quantities may be exchanged: then the values are those of the exchanged ones
        alike = [torch.allclose(_behaviour(result), _behaviour(one), rtol=1e-9) for one in (twin, _swapped(twin))]
        assert any(alike), f"{twin} and {result}"


def test_mutations_of_one_form_behave_alike(seed, build, candidate) -> None:
    x = torch.randn(1, 9, 16, generator=torch.Generator().manual_seed(5))
    seen: dict[str, list[float]] = {}
    parent = seed
    for number in range(16):
        program = mutation.mutate(parent, np.random.default_rng(number), BUILT_IN).program
        swapped = _written_otherwise(program, random.Random(number))
        assert normal_form(swapped) == normal_form(program)
        parent = candidate(program) if number % 5 == 0 else parent
        # one learned quantity after the other gets the values that its shape asks for
        module = build(program)
        for parameter in module.parameters():
            parameter.data.fill_(0.3)
        values = module(x).flatten().tolist()
        twin = seen.setdefault(normal_form(program), values)
        assert np.allclose(twin, values, rtol=1e-4, atol=1e-5)
    assert len(seen) > 8
