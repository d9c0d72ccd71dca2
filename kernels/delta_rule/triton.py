"""The delta rule in Triton, forward and backward, for heads of 32 and 64; the gated rule calls the same kernels.

    S_t = exp(log_g_t) (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T,   o_t = scale * S_t^T q_t

Kernels (device.py) and what they read and write, in tensors of B*T*H*D elements; the inverse of a chunk of C = 32
tokens has C / D of one, its state D / C:

    inverse         every chunk at once           reads k                                       writes A^-1
    output          chunk after chunk of a head   reads q, k, v, A^-1                           writes o, states
    state gradient  from the last chunk of a head reads q, k, do, A^-1                          writes ds
    input gradient  every chunk at once           reads q, k, v, do, A^-1, states, ds           writes dq, dk, dv

At B32 T2048 H8 D32 in bfloat16 (a tensor is 33.6 MB) the forward pass moves 7 tensors (8 where states are kept for the
backward pass) and its floor is 4; with the backward pass it is 23, and the floor 11. By these bytes alone it can come
to 1.8 and 2.1 times the floor. Multiplications: per token and head 2 (3 K V + 2 C (K + V)) FLOP forward, 7.5 GFLOP
in all and 25 GFLOP backward: bound by bandwidth.

Why so: the walk over chunks is serial, and 256 heads give a GPU of 132 multiprocessors two programs each, so what one
chunk waits for decides. The inverse, the longest chain, does not need the state and runs for all chunks before; so do
the gradients of the inputs after. One kernel for everything would read 4 tensors but do the inverse 64 times in a row;
the usual split into states and outputs shortens the walk further and moves 12 tensors forward. Chunks of 32 are short
enough that the inverse is cheap, long enough that it and the states cost one tensor at D = 32; and no product of 32
rows takes Hopper's warpgroup instructions, with which Triton 3.4 to 3.7 was reported to compile transposed operands of
such kernels wrongly (flash-linear-attention issues 640 and 984).

A head of 64 is walked in two halves of V, which read its q, k and A^-1 at the same time.

Nothing here has been timed on a GPU yet; warps are chosen by what Triton 3.7.1 compiles for one (compile_delta_rule.py
of the tests): registers, spills, barriers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.common import read_out_scale
from kernels.delta_rule import device
from kernels.dispatch import UnsupportedError

CHUNK = 32
HEAD_SIZES = (32, 64)
DTYPES = (torch.float32, torch.bfloat16)
COLUMNS_OF_WALK = 32  # of V and the state: 64 would not fit into the registers of two warps
# a product of 32 rows is split over two warps and done twice by four
WARPS_OF_INVERSE = 1
WARPS_OF_WALK = 2  # with 4, the update of a state of 64 rows would take warpgroup instructions
WARPS_OF_INPUT_GRADIENT = {32: 2, 64: 4}  # by head size


def delta_rule_triton(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, *, scale: float | None = None) -> Tensor:
    """Output [B, T, H, V] of `delta_rule_naive` from a zero state, differentiable once in every input.

    Products have operands of the dtype of v, sums and states are float32.
    """
    return run(q, k, v, beta, None, scale=scale)


def run(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor | None, *, scale: float | None) -> Tensor:
    """As `gated_delta_rule_naive`, without decay where `log_g` is None."""
    refusal = unsupported(q, k, v, beta, log_g)
    if refusal:
        raise UnsupportedError(refusal)
    output: Tensor = _DeltaRule.apply(q, k, v, beta, log_g, read_out_scale(q, scale))
    return output


def unsupported(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor | None = None) -> str:
    """Why the kernels do not take these inputs, in one line; empty where they do."""
    per_token = {"beta": beta} if log_g is None else {"beta": beta, "log_g": log_g}
    for name, x in {"q": q, "k": k, "v": v, **per_token}.items():
        if x.dtype not in DTYPES:
            return f"{name} is {str(x.dtype).removeprefix('torch.')}, the Triton kernel supports float32 and bfloat16"
    for name, x in {"q": q, "v": v}.items():
        if x.ndim != 4 or x.shape[-1] not in HEAD_SIZES:
            return f"{name} is {list(x.shape)}, the Triton kernel supports [B, T, H, D] with D 32 or 64"
    if 0 in q.shape:
        return f"q is {list(q.shape)}, the Triton kernel supports one token or more"
    expected = {"k": q.shape, "v": (*q.shape[:3], v.shape[3]), **dict.fromkeys(per_token, q.shape[:3])}
    for name, x in {"k": k, "v": v, **per_token}.items():
        if tuple(x.shape) != tuple(expected[name]):
            return f"{name} is {list(x.shape)}, the Triton kernel supports {list(expected[name])} beside q"
    return ""


class _DeltaRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor | None, scale: float) -> Tensor:
        q, k, v, beta = (x.contiguous() for x in (q, k, v, beta))
        log_g = None if log_g is None else log_g.contiguous()
        (batch, length, heads, K), V = q.shape, v.shape[3]
        chunks = -(-length // CHUNK)
        inverse = v.new_empty(batch, heads, chunks, CHUNK, CHUNK)
        states = v.new_empty(batch, heads, chunks, K, V) if any(ctx.needs_input_grad) else None
        output = torch.empty_like(v)
        sizes = {"T": length, "H": heads, "N": chunks, "K": K, "C": CHUNK}
        with torch.cuda.device_of(v):
            device.inverse_kernel[(batch * heads * chunks,)](
                k, beta, log_g, inverse, **sizes, num_warps=WARPS_OF_INVERSE
            )
            device.output_kernel[_walks(v)](
                q, k, v, beta, log_g, inverse, output, states, scale, **sizes,
                V=V, COLUMNS=COLUMNS_OF_WALK, num_warps=WARPS_OF_WALK,
            )  # fmt: skip
        ctx.save_for_backward(q, k, v, beta, log_g, inverse, states)
        ctx.scale, ctx.sizes = scale, sizes | {"V": V}
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, beta, log_g, inverse, states = ctx.saved_tensors
        d_output = d_output.contiguous()
        d_states = torch.empty_like(states)
        d_q, d_k, d_v, d_beta = (torch.empty_like(x) for x in (q, k, v, beta))
        d_log_g = None if log_g is None else torch.empty_like(log_g)
        batch, heads, chunks = inverse.shape[:3]
        with torch.cuda.device_of(v):
            device.state_gradient_kernel[_walks(v)](
                q, k, beta, log_g, inverse, d_output, d_states, ctx.scale, **ctx.sizes,
                COLUMNS=COLUMNS_OF_WALK, num_warps=WARPS_OF_WALK,
            )  # fmt: skip
            device.input_gradient_kernel[(batch * heads * chunks,)](
                *(q, k, v, beta, log_g, inverse, states, d_states, d_output, d_q, d_k, d_v, d_beta, d_log_g),
                *(ctx.scale,), **ctx.sizes, num_warps=WARPS_OF_INPUT_GRADIENT[max(states.shape[3:])],
            )  # fmt: skip
        return d_q, d_k, d_v, d_beta, d_log_g, None


def _walks(v: Tensor) -> tuple[int]:
    """Grid of the walks over chunks: a program for every head and `COLUMNS_OF_WALK` columns of its values."""
    batch, _, heads, V = v.shape
    return (batch * heads * (V // COLUMNS_OF_WALK),)
