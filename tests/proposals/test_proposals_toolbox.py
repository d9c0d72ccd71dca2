"""The toolbox: the registry that writers see and the torch pieces that programs copy in say the same."""

from __future__ import annotations

import inspect

import pytest
import torch

from arch_search.models.toolbox import functions
from arch_search.models.toolbox.learned import Learned
from arch_search.proposals.registry import BUILT_IN, HOOKS, MIX, PRIMITIVES, Primitive, toolbox_text

B, H, T, D = 2, 2, 40, 8
_CASES = [(primitive, signature) for primitive in PRIMITIVES for signature in primitive.signatures]
_SHAPES = {
    "vector": (B, H, T, D // H),
    "scalar": (B, H, T, 1),
    "fixed_vector": (H, 1, D // H),
    "fixed_scalar": (H, 1, 1),
}


def _implementation(primitive: Primitive, learned: Learned):
    if primitive.home == "learned":
        return getattr(learned, primitive.name)
    if primitive.home == "torch":
        module, name = primitive.call.split(".")
        return getattr(torch if module == "torch" else torch.nn.functional, name)
    return getattr(functions, primitive.name)


def _argument(kind: str, x: torch.Tensor) -> object:
    """One argument as a function of x [B, T, D], so that causality in x can be tested."""
    heads = x.view(B, -1, H, D // H).transpose(1, 2)
    values = {"vector": heads, "scalar": heads[..., :1], "x": x, "name": "n", "count": 3, "taps": 5, "start": 0.5}
    return values[kind]


def _call(primitive: Primitive, signature, learned: Learned, x: torch.Tensor) -> torch.Tensor:
    arguments = [_argument(kind, x) for kind in signature.takes]
    if primitive.home == "mixer":
        q, k, v, beta, g = arguments
        arguments = [q, functions.l2norm(k), v, torch.sigmoid(beta), -torch.nn.functional.softplus(g)]
    return _implementation(primitive, learned)(*arguments)


@pytest.mark.parametrize("primitive, signature", _CASES, ids=lambda one: getattr(one, "name", None))
def test_primitive_keeps_its_layout_is_causal_and_differentiable(primitive, signature):
    learned = Learned(D, H).double()
    torch.manual_seed(0)
    x = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    torch.set_default_dtype(torch.float64)
    try:
        out = _call(primitive, signature, learned, x)
        other = torch.cat([x[:, :21], 30 * torch.randn(B, T - 21, D)], 1)
        changed = _call(primitive, signature, learned, other)
    finally:
        torch.set_default_dtype(torch.float32)
    assert out.shape == _SHAPES[signature.gives]
    past = slice(None) if signature.gives.startswith("fixed") else slice(21)
    assert torch.allclose(out[..., past, :], changed[..., past, :], rtol=0, atol=1e-10)
    (out.square().sum()).backward()
    leaves = [x, *learned.parameters()]
    assert any(leaf.grad is not None and torch.isfinite(leaf.grad).all() for leaf in leaves)


def test_registry_and_torch_pieces_hold_the_same_names():
    registered = {primitive.name for primitive in PRIMITIVES if primitive.home in ("function", "mixer")}
    assert registered == {name for name, _ in inspect.getmembers(functions, inspect.isfunction)}
    kinds = {name for name, _ in inspect.getmembers(Learned, inspect.isfunction) if name in Learned.__dict__}
    registered = {primitive.name for primitive in PRIMITIVES if primitive.home == "learned"}
    assert registered == kinds - {"__init__", "get"}


def test_call_arity_of_the_registry_is_that_of_the_pieces():
    for primitive in PRIMITIVES:
        if primitive.home in ("function", "learned"):
            owner = functions if primitive.home == "function" else Learned
            parameters = [
                name
                for name, one in inspect.signature(getattr(owner, primitive.name)).parameters.items()
                if name != "self" and one.default is one.empty  # programs do not choose the chunk
            ]
            assert len(parameters) == len(primitive.signatures[0].takes), primitive.name


def test_a_shift_to_the_left_would_fail_the_causality_check():
    x = torch.randn(B, H, T, 4)
    other = x.clone()
    other[:, :, 21:] = 0
    ahead = [torch.roll(one, -1, 2)[:, :, :21] for one in (x, other)]
    behind = [functions.prev(one, 1)[:, :, :21] for one in (x, other)]
    assert not torch.equal(*ahead)
    assert torch.equal(*behind)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_windows_longer_than_the_text_are_defined(length):
    x = torch.ones(1, 1, length, 3)
    assert torch.equal(functions.prev(x, 8), torch.zeros_like(x))
    assert torch.allclose(functions.avg(x, 8), x)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 70])  # below, at and beside the chunk of 32
def test_linear_memory_is_its_recurrence(length):
    rng = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(B, H, length, 4, generator=rng, dtype=torch.float64) for _ in range(3))
    forget = 3 * torch.randn(B, H, length, 1, generator=rng, dtype=torch.float64)
    state, out = torch.zeros(B, H, 4, 4, dtype=torch.float64), []
    for t in range(length):
        keep = torch.sigmoid(forget[:, :, t, :, None]) ** (1 / 16)
        state = keep * state + functions.l2norm(k)[:, :, t, :, None] * v[:, :, t, None, :]
        out.append((functions.l2norm(q)[:, :, t, None, :] @ state)[:, :, 0])
    assert torch.allclose(functions.linear_memory(q, k, v, forget), torch.stack(out, 2), rtol=0, atol=1e-12)


@pytest.mark.parametrize("length", [1, 31, 32, 33, 70])
def test_ema_is_its_recurrence(length):
    learned = Learned(D, H).double()
    x = torch.randn(B, H, length, 3, dtype=torch.float64)
    made = learned.ema("slow", x)
    a = torch.sigmoid(learned.made["ema_slow"])[:, 0]
    state, out = torch.zeros(B, H, 3, dtype=torch.float64), []
    for t in range(length):
        state = a * state + (1 - a) * x[:, :, t]
        out.append(state)
    assert torch.allclose(made, torch.stack(out, 2), rtol=0, atol=2e-6)  # the rate is a float32 number


def test_peak_is_the_largest_of_its_window():
    x = torch.randn(1, 1, 6, 2)
    expected = torch.stack([x[:, :, max(0, t - 2) : t + 1].amax(2) for t in range(6)], 2)
    assert torch.equal(functions.peak(x, 3), expected)


@pytest.mark.parametrize("d", [4, 5])
def test_rotated_vectors_meet_by_their_distance(d):
    q, k = torch.randn(d, dtype=torch.float64), torch.randn(d, dtype=torch.float64)
    turned_q, turned_k = (functions.rotate(one.expand(1, 1, 20, d))[0, 0] for one in (q, k))
    assert torch.allclose(turned_q[3] @ turned_k[1], turned_q[17] @ turned_k[15])
    assert not torch.allclose(turned_q[3] @ turned_k[1], turned_q[3] @ turned_k[2])


def test_heads_start_unmixed_and_mix_heads_only():
    learned = Learned(D, H)
    x = torch.randn(B, H, 5, 3)
    assert torch.equal(learned.heads("talk", x), x)
    with torch.no_grad():
        learned.made["heads_talk"].copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert torch.equal(learned.heads("talk", x), x.flip(1))


def test_one_more_learned_quantity_leaves_the_others_and_the_global_stream_alone():
    x = torch.randn(1, 3, D)
    first = _made(x, ("a", "b"))
    second = _made(x, ("a", "extra", "b"))
    assert torch.equal(first[0]["lin1_b"], second[0]["lin1_b"])
    assert first[1] == second[1]
    assert not torch.equal(first[0]["lin1_a"], first[0]["lin1_b"])


def _made(x: torch.Tensor, names: tuple[str, ...]):
    torch.manual_seed(5)
    learned = Learned(D, H)
    for name in names:
        learned.lin1(name, x)
    return learned.made, float(torch.rand(()))


def test_a_name_is_kept_apart_by_kind():
    learned = Learned(D, H)
    learned.lin1("rate", torch.randn(1, 3, D))
    learned.scalar("rate", 0.5)
    assert sorted(learned.made) == ["lin1_rate", "scalar_rate"]


def test_a_quantity_that_the_dry_call_did_not_reach_is_refused():
    learned = Learned(D, H)
    learned.sealed = True
    with pytest.raises(KeyError, match="lin1_late was not reached"):
        learned.lin1("late", torch.randn(1, 3, D))


def test_the_prompt_lists_every_primitive_once():
    text = toolbox_text(BUILT_IN)
    for primitive in PRIMITIVES:
        assert (
            text.count(f"{primitive.call}(") + text.count(f"{primitive.call},") + text.count(f"{primitive.call} ") == 1
        )
    assert len({hook.name for hook in (*HOOKS, MIX)}) == len(HOOKS) + 1
