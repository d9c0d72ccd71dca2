"""The blocks of a language model by torch's compiler, where it is given time for that and the result is the same.

Before the first step every block is compiled and tried, forward and backward, on random hidden states of the shape that
training has. The blocks stay as they are written where that takes longer than the limit, fails, or is less exact than
two times what they are: a wrong result is never faster. On two CPU cores it does not pay (DESIGN.md, 141).
B sequences, T tokens, D width.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from arch_search.models import stand_in
from arch_search.models.language_model import LanguageModel
from arch_search.models.time_limit import OutOfTimeError, time_limit
from kernels.dispatch import Choice, recorded_choices, remember

OPERATOR = "blocks"  # name of what is compiled, in the record of the paths that ran
LEAST_ERROR = 1e-4  # relative; another order of summation in float32 gives 1e-6
FURTHER_GRAPHS = 8  # that one block may need beside its own: another dtype, a branch on its number
_OPTIONS = {
    "compile_threads": 1,  # here, where the alarm rings, and not in threads and processes that stay
    "fallback_random": True,  # the same dropout as eager
    "cpp_cache_precompile_headers": False,  # 160 MB in each folder
}
_compile = stand_in.torch_compile  # the name that programs find is another function by the time of its use


def import_compiler() -> None:
    """Do what the compiler does to torch at its first use: before a child looks at what a program must not change."""
    importlib.import_module("torch._inductor.compile_fx")
    _compile(lambda x: x, backend="eager")(torch.zeros(1))


@contextmanager
def compiled_blocks(
    model: LanguageModel, *, shape: tuple[int, int], precision: torch.dtype, limit_s: int, cache: Path
) -> Iterator[None]:
    """Inside, the blocks run compiled where that worked within `limit_s` seconds; 0 does not try.

    `shape` is [B, T] of a training step, `precision` that of its products. What is compiled is kept in `cache`, so that
    a training that is resumed waits for it no second time; give each program its own, because what it leaves there is
    loaded as code. The path that ran is remembered as operator `blocks`: compiled, or eager and why. Afterwards the
    model is as it was, and its numbers were not touched. Main thread only: the limit is an alarm.
    """
    if not limit_s:
        yield
        return
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "inductor")
    os.environ["TRITON_CACHE_DIR"] = str(cache / "triton")
    blocks = list(model.blocks)
    with torch._dynamo.config.patch(recompile_limit=len(blocks) + FURTHER_GRAPHS):
        path = _tried(blocks, model, shape, precision, limit_s)
        remember(Choice(operator=OPERATOR, path=path, reason=""))
        try:
            # a shape that was not tried, as of a last smaller batch, is not waited for
            with torch.compiler.set_stance("eager_on_recompile"):
                yield
        finally:
            _as_written(blocks)


def _tried(
    blocks: list[nn.Module], model: LanguageModel, shape: tuple[int, int], precision: torch.dtype, limit_s: int
) -> str:
    """Leave the blocks compiled and say so, or as they were and say why."""
    weight = model.embedding.weight
    hidden = torch.randn(*shape, weight.shape[1], generator=torch.Generator().manual_seed(0)).to(weight.device)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # the paths that operators take here, also in float32, are not those of the training
    with torch.random.fork_rng(), recorded_choices():
        try:
            with time_limit(limit_s):
                same = all(_is_same_compiled(block, hidden, precision) for block in blocks)
            path = "compiled" if same else "eager_differs"
        except OutOfTimeError:
            path = "eager_timeout"
        except Exception:  # whatever the compiler does not understand, or misses on this machine
            traceback.print_exc(file=sys.stderr)
            path = "eager_failed"
    model.load_state_dict(state)  # running statistics
    if path != "compiled":
        _as_written(blocks)
        torch._dynamo.reset()
    return path


def _is_same_compiled(block: nn.Module, hidden: Tensor, precision: torch.dtype) -> bool:
    """Leave the block compiled; whether it is then as exact as it was, against itself in float32."""
    exact, written = _measured(block, hidden, torch.float32), _measured(block, hidden, precision)
    block.forward = _compile(block.forward, options=dict(_OPTIONS))
    return _error(_measured(block, hidden, precision), exact) <= 2 * _error(written, exact) + LEAST_ERROR


def _as_written(blocks: list[nn.Module]) -> None:
    for block in blocks:
        vars(block).pop("forward", None)


def _measured(block: nn.Module, hidden: Tensor, precision: torch.dtype) -> list[Tensor]:
    """Output for the hidden states [B, T, D] and the gradients of these and of the parameters, dropout as seeded."""
    torch.manual_seed(0)
    block.train()
    x = hidden.clone().requires_grad_()
    with torch.autocast(hidden.device.type, dtype=precision, enabled=precision != torch.float32):
        output = block(x)
    given = [x, *(parameter for parameter in block.parameters() if parameter.requires_grad)]
    weight = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output)
    gradients = torch.autograd.grad((output * weight).sum(), given, allow_unused=True)
    return [output.detach(), *(gradient for gradient in gradients if gradient is not None)]


def _error(found: list[Tensor], exact: list[Tensor]) -> float:
    """Root mean square, over the tensors, of the relative error of each; infinite where they do not match."""
    if [x.shape for x in found] != [x.shape for x in exact]:
        return float("inf")
    pairs = zip(found, exact, strict=True)
    each = torch.stack([(x.float() - y.float()).norm() / y.float().norm().clamp_min(1e-30) for x, y in pairs])
    return float(each.nan_to_num(nan=float("inf")).square().mean().sqrt())
