"""flash-linear-attention's kernels for heads of 128, where that package is installed (the extra `fla`).

Never run by us on a GPU so far.
"""

from __future__ import annotations

import importlib.util
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from torch import Tensor

HEAD_SIZE = 128


def refusal(v: Tensor) -> str:
    """Why these kernels cannot take values [B, T, H, 128] of this kind, in one line; empty where they can."""
    if v.dtype not in (torch.bfloat16, torch.float16):
        return f"v is {str(v.dtype).removeprefix('torch.')}, flash-linear-attention supports bfloat16 and float16"
    if not is_installed():
        return "heads of 128 need flash-linear-attention (pip install 'arch-search[fla]')"
    return ""


def is_installed() -> bool:
    """Whether `import fla` gives that package, and not another one of the name."""
    try:
        package = distribution("flash-linear-attention").locate_file("fla/__init__.py")
    except PackageNotFoundError:
        return False
    found = importlib.util.find_spec("fla")
    return found is not None and found.origin is not None and Path(found.origin) == Path(str(package))


def delta_rule_fla(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, *, scale: float | None = None) -> Tensor:
    """As `delta_rule_naive` from a zero state."""
    from fla.ops.delta_rule import chunk_delta_rule

    output: Tensor = chunk_delta_rule(q=q, k=k, v=v, beta=beta, scale=scale)[0]
    return output


def gated_delta_rule_fla(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor, *, scale: float | None = None
) -> Tensor:
    """As `gated_delta_rule_naive` from a zero state."""
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    output: Tensor = chunk_gated_delta_rule(q=q, k=k, v=v, g=log_g, beta=beta, scale=scale)[0]
    return output
