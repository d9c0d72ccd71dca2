"""What a trained model says on held-out tokens: its answers and its loss per token. No scoring: labels stay outside.

On the device of the model, in float32 whatever the training computed in.

N sequences, T tokens, V vocabulary, K asked positions, P prefix positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arch_search.evaluation.heldout import Floats, Ints


@torch.no_grad()
def answers(model: nn.Module, inputs: Ints, asked: Ints, *, batch_size: int) -> Ints:
    """Most likely token [N, K] at the asked positions of inputs [N, T]."""
    model.eval()
    found = [model(rows)[:, asked].argmax(dim=-1) for rows in _batches(model, inputs, batch_size)]
    return torch.cat(found).cpu().numpy()


@torch.no_grad()
def token_nll(model: nn.Module, windows: Ints, *, batch_size: int) -> Floats:
    """Loss of every target [N, T] in nats, from windows [N, T+1]."""
    model.eval()
    found = [_nll(model(rows[:, :-1]), rows[:, 1:]) for rows in _batches(model, windows, batch_size)]
    return torch.cat(found).cpu().numpy()


@torch.no_grad()
def prefix_nll(model: nn.Module, windows: Ints, positions: Ints) -> Floats:
    """Loss [P] of the target at each (window, position), where the model is given no token after the position."""
    model.eval()
    found = []
    for row, position in positions.tolist():
        (window,) = _batches(model, windows[row : row + 1], 1)
        logits = model(window[:, : position + 1])
        found.append(_nll(logits[:, -1:], window[:, position + 1 : position + 2]).item())
    return np.asarray(found, dtype=np.float32)


def state_sha256(model: nn.Module) -> str:
    """Hash of all parameters and persistent buffers."""
    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def _batches(model: nn.Module, rows: Ints, batch_size: int) -> Iterator[Tensor]:
    """Rows on the device of the model's parameters."""
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    for start in range(0, len(rows), batch_size):
        yield torch.from_numpy(rows[start : start + batch_size]).to(device)


def _nll(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
