"""The training loop: it learns, ends as a value, and a resumed run equals an undisturbed one bit for bit."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from arch_search.models.language_model import LanguageModel
from arch_search.training import checkpoint, trainer
from arch_search.training.seeds import derive_seed
from arch_search.training.trainer import PLAIN, Numerics, Recipe, Step, Training, learning_rate, train
from kernels.linear_cross_entropy.naive import IGNORED

V, T, B = 11, 12, 8


class RunningMean(nn.Module):
    """A small causal mixer with dropout, so that random streams show."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, 16)
        self.inner = nn.Linear(16, 16)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(16, V)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        past = x.cumsum(dim=1) / torch.arange(1, tokens.shape[1] + 1)[:, None]
        logits: Tensor = self.head(self.dropout(torch.tanh(self.inner(past + x))))
        return logits


def model() -> RunningMean:
    torch.manual_seed(5)
    return RunningMean()


def next_batch(step: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """The next token is the last one plus one: easy to learn."""
    first = rng.integers(0, V, (B, 1))
    tokens = torch.from_numpy((first + np.arange(T + 1)) % V)
    return tokens[:, :-1], tokens[:, 1:]


def recipe(steps: int = 24, seed: int = 3, checkpoint_every_s: float = 1e9) -> Recipe:
    return Recipe(
        steps=steps,
        lr=1e-2,
        warmup_steps=4,
        weight_decay=0.1,
        clip_norm=1.0,
        seed=seed,
        checkpoint_every_s=checkpoint_every_s,
    )


def run(
    net: nn.Module,
    path: Path,
    plan: Recipe,
    should_stop: Callable[[Step], bool] = lambda step: False,
    numerics: Numerics = PLAIN,
) -> Training:
    return train(net, next_batch, recipe=plan, checkpoint_path=path, should_stop=should_stop, numerics=numerics)


def weights(net: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in net.parameters()])


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    done = run(model(), tmp_path / "c.pt", recipe(steps=120))
    assert done.ended == "finished"
    assert done.curve_loss[-1] < 0.5 * done.curve_loss[0]


def test_curve_ends_at_the_last_step_and_counts_tokens(tmp_path: Path) -> None:
    done = run(model(), tmp_path / "c.pt", recipe(steps=90))
    assert done.curve_steps[-1] == 90
    assert len(done.curve_steps) == len(done.curve_loss) <= 46
    assert done.tokens_seen == 90 * B * T


@pytest.mark.parametrize("stop_at", [1, 7, 23])
def test_a_stopped_and_resumed_run_equals_an_undisturbed_one_exactly(tmp_path: Path, stop_at: int) -> None:
    undisturbed = model()
    expected = run(undisturbed, tmp_path / "a.pt", recipe())
    stopped = run(model(), tmp_path / "b.pt", recipe(), lambda step: step.step == stop_at)
    assert stopped.ended == "stopped"
    resumed = RunningMean()
    found = run(resumed, tmp_path / "b.pt", recipe())
    assert found.resumed_from_step == stop_at
    assert found.curve_loss == expected.curve_loss
    assert torch.equal(weights(resumed), weights(undisturbed))


def test_a_killed_run_continues_from_its_periodic_checkpoint(tmp_path: Path) -> None:
    undisturbed = model()
    run(undisturbed, tmp_path / "a.pt", recipe())

    def die(step: Step) -> bool:
        if step.step == 15:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        run(model(), tmp_path / "b.pt", recipe(checkpoint_every_s=0.0), die)
    resumed = RunningMean()
    assert run(resumed, tmp_path / "b.pt", recipe()).resumed_from_step == 14
    assert torch.equal(weights(resumed), weights(undisturbed))


def saves(every_s: float, save_s: float, until: int) -> list[int]:
    """Full seconds at which a start saves that looks at its schedule once a second."""
    schedule, found = checkpoint.Schedule(every_s=every_s, begun=0.0), []
    for second in range(1, until):
        if schedule.is_due(second):
            found.append(second)
            schedule.note(second, second + save_s)
    return found


def test_a_start_saves_early_and_then_ever_more_rarely() -> None:
    assert saves(every_s=10, save_s=0, until=60) == [2, 5, 11, 22, 33, 44, 55]


def test_slow_saves_are_far_apart_until_the_usual_interval_is_reached() -> None:
    assert saves(every_s=30, save_s=1, until=60) == [2, 24, 51]
    assert saves(every_s=4, save_s=1, until=14) == [2, 8]


def test_a_short_interval_holds_from_the_begin() -> None:
    assert saves(every_s=0.5, save_s=0, until=5) == [1, 2, 3, 4]


def test_a_resumed_run_says_from_which_checkpoint(tmp_path: Path) -> None:
    run(model(), tmp_path / "c.pt", recipe(), lambda step: step.step == 7)
    saved: list[int] = []
    train(
        model(),
        next_batch,
        recipe=recipe(),
        checkpoint_path=tmp_path / "c.pt",
        should_stop=lambda step: step.step == 9,
        on_saved=saved.append,
    )
    assert saved == [7, 9]


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first = model()
    run(first, tmp_path / "c.pt", recipe())
    again = RunningMean()
    assert run(again, tmp_path / "c.pt", recipe()).resumed_from_step == 24
    assert torch.equal(weights(again), weights(first))


def test_another_seed_trains_on_other_batches(tmp_path: Path) -> None:
    one, other = model(), model()
    run(one, tmp_path / "a.pt", recipe(seed=3))
    run(other, tmp_path / "b.pt", recipe(seed=4))
    assert not torch.equal(weights(one), weights(other))


def test_a_program_that_reseeds_the_global_generator_does_not_change_the_data(tmp_path: Path) -> None:
    seen: list[list[int]] = []

    def spy(step: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        batch = next_batch(step, rng)
        seen[-1] += batch[0][:, 0].tolist()
        torch.manual_seed(0)
        np.random.seed(0)
        return batch

    for name in ("a", "b"):
        seen.append([])
        train(model(), spy, recipe=recipe(), checkpoint_path=tmp_path / name, should_stop=lambda step: False)
    assert seen[0] == seen[1]
    assert len(set(seen[0])) > 3


def test_a_damaged_checkpoint_starts_the_training_afresh(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    run(model(), path, recipe())
    path.write_bytes(path.read_bytes()[:-100])
    assert checkpoint.load(path) is None
    assert run(model(), path, recipe()).resumed_from_step == 0


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    class Shell:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"model": Shell()}, tmp_path / "c.pt")
    assert checkpoint.load(tmp_path / "c.pt") is None
    assert not (tmp_path / "ran").exists()


class Broken(RunningMean):
    """Goes wrong at the third call, in the output or in the gradient only."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where, self.calls = where, 0

    def forward(self, tokens: Tensor) -> Tensor:
        self.calls += 1
        logits = super().forward(tokens)
        if self.calls < 3:
            return logits
        # the root of zero has an infinite slope
        return logits * float("nan") if self.where == "loss" else logits + (logits * 0).sum().sqrt()


@pytest.mark.parametrize("where, words", [("loss", "training loss is nan at step 3"), ("gradient", "gradient norm is")])
def test_a_number_that_is_not_finite_ends_the_run_as_a_value(tmp_path: Path, where: str, words: str) -> None:
    done = run(Broken(where), tmp_path / "c.pt", recipe())
    assert done.ended == "non_finite"
    assert words in done.cause
    assert done.steps == 2


def test_learning_rate_warms_up_and_falls_to_a_tenth() -> None:
    plan = recipe(steps=24)
    rates = [learning_rate(plan, step) for step in range(24)]
    assert rates[0] == pytest.approx(0.25e-2)
    assert max(rates) == rates[4] == pytest.approx(1e-2)
    assert rates[-1] == pytest.approx(1e-3)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_seeds_of_different_purposes_differ_and_repeat() -> None:
    assert derive_seed(1, "data", 0) == derive_seed(1, "data", 0)
    assert len({derive_seed(1, "data", 0), derive_seed(1, "data", 1), derive_seed(1, "dropout", 0)}) == 3


def test_a_step_counts_cpu_time_and_on_a_gpu_time_on_the_wall() -> None:
    clocks = [Numerics(device=torch.device(name)).clock for name in ("cpu", "cuda")]
    before = [clock() for clock in clocks]
    time.sleep(0.2)
    cpu_s, wall_s = (clock() - begun for clock, begun in zip(clocks, before, strict=True))
    assert cpu_s < 0.1
    assert wall_s >= 0.2


class CausalMean(nn.Module):
    """A mixer [B, T, D] whose output depends on dropout, so that random streams show."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.inner(x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]))


def language_model() -> LanguageModel:
    torch.manual_seed(5)
    return LanguageModel(lambda layer: CausalMean(), vocab=V, d_model=16, n_layers=2, feed_forward=24)


NARROW = Numerics(precision=torch.bfloat16, micro_batch=3)  # of 8 sequences: 3, 3 and 2


def gradients(net: nn.Module) -> Tensor:
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters() if parameter.grad is not None])


@pytest.mark.parametrize(
    "numerics, tolerance",
    [
        (Numerics(micro_batch=3), 1e-5),
        (Numerics(micro_batch=8), 1e-5),
        # products of 8 bits: the roundings of 2^-9 of a few layers
        (NARROW, 2e-2),
    ],
)
def test_parts_of_a_batch_have_the_loss_and_gradient_of_the_whole(numerics: Numerics, tolerance: float) -> None:
    tokens, targets = next_batch(0, np.random.default_rng(0))
    targets = targets.clone()
    targets[:5, :7] = IGNORED
    whole, parts = language_model().eval(), language_model().eval()
    loss = trainer._whole_backward(whole, tokens, targets)
    assert trainer._backward_in_parts(parts, tokens, targets, numerics) == pytest.approx(loss, rel=tolerance)
    assert (gradients(parts) - gradients(whole)).norm() <= tolerance * gradients(whole).norm()


def test_a_training_in_bfloat16_parts_learns_and_keeps_its_weights_in_float32(tmp_path: Path) -> None:
    net, products = language_model(), set[torch.dtype]()
    net.get_submodule("blocks.0.mixer.inner").register_forward_hook(lambda *call: products.add(call[2].dtype))
    done = run(net, tmp_path / "c.pt", recipe(steps=120), numerics=NARROW)
    assert done.ended == "finished"
    assert done.curve_loss[-1] < 0.5 * done.curve_loss[0]
    assert products == {torch.bfloat16}
    assert {parameter.dtype for parameter in net.parameters()} == {torch.float32}
    assert done.tokens_seen == 120 * B * T


@pytest.mark.parametrize("stop_at", [1, 7])
def test_a_training_in_parts_resumes_exactly(tmp_path: Path, stop_at: int) -> None:
    undisturbed = language_model()
    expected = run(undisturbed, tmp_path / "a.pt", recipe(), numerics=NARROW)
    run(language_model(), tmp_path / "b.pt", recipe(), lambda step: step.step == stop_at, numerics=NARROW)
    resumed = language_model()
    found = run(resumed, tmp_path / "b.pt", recipe(), numerics=NARROW)
    assert found.resumed_from_step == stop_at
    assert found.curve_loss == expected.curve_loss
    assert torch.equal(weights(resumed), weights(undisturbed))


def test_a_loss_that_is_not_finite_in_one_part_ends_the_run_as_a_value(tmp_path: Path) -> None:
    net = language_model()
    with torch.no_grad():
        net.embedding.weight[3] = torch.nan
    done = run(net, tmp_path / "c.pt", recipe(), numerics=NARROW)
    assert (done.ended, done.steps) == ("non_finite", 0)
    assert "training loss is nan at step 1" in done.cause


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_training_on_a_gpu_learns_what_one_on_the_cpu_does(tmp_path: Path) -> None:
    losses = []
    for device in ("cpu", "cuda"):
        numerics = Numerics(device=torch.device(device), precision=torch.bfloat16, micro_batch=3)
        done = run(language_model(), tmp_path / device, recipe(steps=120), numerics=numerics)
        losses.append(done.curve_loss[-1])
    assert max(losses) < 0.5 * done.curve_loss[0]
