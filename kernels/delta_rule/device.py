"""Device code of the delta rule and the gated delta rule: four Triton kernels over chunks of one head.

B batch, T tokens, H heads, K key width, V value width, N chunks, C tokens in a chunk. G_i is the sum of log_g up to
token i of its chunk and D_ij = exp(G_i - G_j) for j <= i, else 0; without a gate G is 0. A chunk that starts from the
state S [K, V] has

    A = I + tril(beta_i (k_i . k_j) D_ij, -1)          U = A^-1 diag(beta) (V - diag(exp G) K S)
    O = scale (diag(exp G) Q S + (Q K^T * D) U)        S' = exp(G_C) S + K^T diag(exp(G_C - G)) U

Source: arXiv 2406.06484, equations 10 and 11; arXiv 2412.06464, section 3.3. Sums and states are float32; the operands
of products have the dtype of `inverse`, in which A^-1 and the states that the backward pass reads are stored as well.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["T", "H", "N"])  # type: ignore[untyped-decorator]
def inverse_kernel(k, beta, log_g, inverse, T, H, N, K: tl.constexpr, C: tl.constexpr):  # type: ignore[no-untyped-def]
    """A^-1 of one chunk into inverse [B, H, N, C, C], from two halves and the block below them."""
    HALF: tl.constexpr = C // 2
    dtype = inverse.dtype.element_ty
    batch, head, n = _chunk_of_program(H, N)
    start = n * C
    k_0 = _load_rows(k, batch, head, start, T, H, HALF, K, K).to(dtype)
    k_1 = _load_rows(k, batch, head, start + HALF, T, H, HALF, K, K).to(dtype)
    beta_0 = _load_row_scalars(beta, batch, head, start, T, H, HALF)[:, None]
    beta_1 = _load_row_scalars(beta, batch, head, start + HALF, T, H, HALF)[:, None]
    i = tl.arange(0, HALF)[:, None]
    j = tl.arange(0, HALF)[None, :]
    lower_00 = tl.where(j < i, beta_0 * _dot(k_0, tl.trans(k_0)), 0.0)
    lower_11 = tl.where(j < i, beta_1 * _dot(k_1, tl.trans(k_1)), 0.0)
    lower_10 = beta_1 * _dot(k_1, tl.trans(k_0))
    if log_g is not None:
        log_0 = _load_row_scalars(log_g, batch, head, start, T, H, HALF)
        log_1 = _load_row_scalars(log_g, batch, head, start + HALF, T, H, HALF)
        _, to_end_0, _, ratio_0 = _decays(log_0, True, HALF)
        since_1, _, _, ratio_1 = _decays(log_1, True, HALF)
        lower_00 *= ratio_0
        lower_11 *= ratio_1
        lower_10 *= since_1[:, None] * to_end_0[None, :]
    inverse_00 = _inverse_of_unit_lower(lower_00, HALF)
    inverse_11 = _inverse_of_unit_lower(lower_11, HALF)
    below = _dot(lower_10, inverse_00)
    inverse_10 = -_dot(inverse_11, below)
    corner = inverse + ((batch * H + head) * N + n) * C * C + i * C + j
    tl.store(corner, inverse_00.to(dtype))
    tl.store(corner + HALF, tl.zeros([HALF, HALF], dtype))
    tl.store(corner + HALF * C, inverse_10.to(dtype))
    tl.store(corner + HALF * C + HALF, inverse_11.to(dtype))


@triton.jit(do_not_specialize=["T", "H", "N"])  # type: ignore[untyped-decorator]
def output_kernel(  # type: ignore[no-untyped-def]
    q, k, v, beta, log_g, inverse, output, states, scale, T, H, N,
    K: tl.constexpr, V: tl.constexpr, COLUMNS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Some columns of the output of one head; the state before every chunk into states [B, H, N, K, V] if given."""
    dtype = inverse.dtype.element_ty
    batch, head, column = _columns_of_program(H, V // COLUMNS)
    column *= COLUMNS
    chunk = (batch * H + head) * N
    GATED: tl.constexpr = log_g is not None
    state = tl.zeros([K, COLUMNS], tl.float32)
    # read one chunk ahead: of these loads the compiler would pipeline some, and not the narrow ones
    q_next = _load_rows(q, batch, head, 0, T, H, C, K, K)
    k_next = _load_rows(k, batch, head, 0, T, H, C, K, K)
    v_next = _load_rows(v + column, batch, head, 0, T, H, C, V, COLUMNS)
    inverse_next = _load_matrix(inverse, chunk, C, C)
    strength_next = _load_row_scalars(beta, batch, head, 0, T, H, C)
    steps_next = _load_row_scalars(log_g, batch, head, 0, T, H, C)
    for n in range(N):
        start = n * C
        q_c = q_next.to(dtype)
        k_c = k_next.to(dtype)
        v_c = v_next
        inverse_c = inverse_next
        strength = strength_next
        steps = steps_next
        q_next = _load_rows(q, batch, head, start + C, T, H, C, K, K)
        k_next = _load_rows(k, batch, head, start + C, T, H, C, K, K)
        v_next = _load_rows(v + column, batch, head, start + C, T, H, C, V, COLUMNS)
        inverse_next = _load_matrix(inverse, chunk + tl.minimum(n + 1, N - 1), C, C)
        strength_next = _load_row_scalars(beta, batch, head, start + C, T, H, C)
        steps_next = _load_row_scalars(log_g, batch, head, start + C, T, H, C)
        since_start, to_end, kept, ratio = _decays(steps, GATED, C)
        before = state.to(dtype)
        if states is not None:
            _store_matrix(states + column, before, chunk + n, K, V, COLUMNS)
        stored = since_start[:, None] * _dot(k_c, before)
        change = _dot(inverse_c, (strength[:, None] * (v_c - stored)).to(dtype))
        scores = _dot(q_c, tl.trans(k_c)) * ratio
        read = since_start[:, None] * _dot(q_c, before) + _dot(scores.to(dtype), change.to(dtype))
        _store_rows(output + column, scale * read, batch, head, start, T, H, C, V, COLUMNS)
        state = kept * state + _dot(tl.trans(k_c), (to_end[:, None] * change).to(dtype))


@triton.jit(do_not_specialize=["T", "H", "N"])  # type: ignore[untyped-decorator]
def state_gradient_kernel(  # type: ignore[no-untyped-def]
    q, k, beta, log_g, inverse, d_output, d_states, scale, T, H, N,
    K: tl.constexpr, V: tl.constexpr, COLUMNS: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Gradient of the state after every chunk into d_states [B, H, N, K, V], some columns from the last chunk on."""
    dtype = inverse.dtype.element_ty
    batch, head, column = _columns_of_program(H, V // COLUMNS)
    column *= COLUMNS
    chunk = (batch * H + head) * N
    GATED: tl.constexpr = log_g is not None
    d_state = tl.zeros([K, COLUMNS], tl.float32)
    last = (N - 1) * C
    q_next = _load_rows(q, batch, head, last, T, H, C, K, K)
    k_next = _load_rows(k, batch, head, last, T, H, C, K, K)
    d_output_next = _load_rows(d_output + column, batch, head, last, T, H, C, V, COLUMNS)
    inverse_next = _load_matrix(inverse, chunk + N - 1, C, C)
    strength_next = _load_row_scalars(beta, batch, head, last, T, H, C)
    steps_next = _load_row_scalars(log_g, batch, head, last, T, H, C)
    for done in range(N):
        n = N - 1 - done
        q_c = q_next.to(dtype)
        k_c = k_next.to(dtype)
        d_output_c = d_output_next.to(dtype)
        inverse_c = inverse_next
        strength = strength_next
        steps = steps_next
        earlier = tl.maximum(n - 1, 0)
        q_next = _load_rows(q, batch, head, earlier * C, T, H, C, K, K)
        k_next = _load_rows(k, batch, head, earlier * C, T, H, C, K, K)
        d_output_next = _load_rows(d_output + column, batch, head, earlier * C, T, H, C, V, COLUMNS)
        inverse_next = _load_matrix(inverse, chunk + earlier, C, C)
        strength_next = _load_row_scalars(beta, batch, head, earlier * C, T, H, C)
        steps_next = _load_row_scalars(log_g, batch, head, earlier * C, T, H, C)
        since_start, to_end, kept, ratio = _decays(steps, GATED, C)
        after = d_state.to(dtype)
        _store_matrix(d_states + column, after, chunk + n, K, V, COLUMNS)
        scores = (_dot(q_c, tl.trans(k_c)) * ratio).to(dtype)
        d_change = scale * _dot(tl.trans(scores), d_output_c) + to_end[:, None] * _dot(k_c, after)
        d_right = _dot(tl.trans(inverse_c), d_change.to(dtype))
        read = (since_start[:, None] * d_output_c).to(dtype)
        erased = ((strength * since_start)[:, None] * d_right).to(dtype)
        d_state = kept * d_state + scale * _dot(tl.trans(q_c), read) - _dot(tl.trans(k_c), erased)


@triton.jit(do_not_specialize=["T", "H", "N"])  # type: ignore[untyped-decorator]
def input_gradient_kernel(  # type: ignore[no-untyped-def]
    q, k, v, beta, log_g, inverse, states, d_states, d_output, d_q, d_k, d_v, d_beta, d_log_g, scale, T, H, N,
    K: tl.constexpr, V: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """Gradients of the inputs of one chunk, given its first state and the gradient of its last.

    With dR = A^-T dU the gradient of the right side of A U = R, that of A is -dR U^T below the diagonal.
    """
    dtype = inverse.dtype.element_ty
    batch, head, n = _chunk_of_program(H, N)
    start = n * C
    chunk = (batch * H + head) * N + n
    GATED: tl.constexpr = log_g is not None
    since_start, to_end, kept, ratio = _decays(_load_row_scalars(log_g, batch, head, start, T, H, C), GATED, C)
    i = tl.arange(0, C)[:, None]
    j = tl.arange(0, C)[None, :]
    strength = _load_row_scalars(beta, batch, head, start, T, H, C)[:, None]
    since_start = since_start[:, None]
    to_end = to_end[:, None]
    q_c = _load_rows(q, batch, head, start, T, H, C, K, K).to(dtype)
    k_c = _load_rows(k, batch, head, start, T, H, C, K, K).to(dtype)
    d_output_c = _load_rows(d_output, batch, head, start, T, H, C, V, V).to(dtype)
    inverse_c = _load_matrix(inverse, chunk, C, C)
    before = _load_matrix(states, chunk, K, V)
    d_after = _load_matrix(d_states, chunk, K, V)

    stored = since_start * _dot(k_c, before)
    missing = _load_rows(v, batch, head, start, T, H, C, V, V) - stored
    change = _dot(inverse_c, (strength * missing).to(dtype))
    scores = _dot(q_c, tl.trans(k_c)) * ratio
    overlaps = _dot(k_c, tl.trans(k_c)) * tl.where(j < i, ratio, 0.0)

    d_write = to_end * _dot(k_c, d_after)
    d_change = scale * _dot(tl.trans(scores.to(dtype)), d_output_c) + d_write
    d_right = _dot(tl.trans(inverse_c), d_change.to(dtype))
    d_v_c = strength * d_right
    _store_rows(d_v, d_v_c, batch, head, start, T, H, C, V, V)

    change_t = tl.trans(change.to(dtype))
    d_scores = scale * _dot(d_output_c, change_t)
    d_overlaps = -_dot(d_right.to(dtype), change_t)  # still without beta
    d_beta_c = tl.sum(d_right * missing, 1) + tl.sum(d_overlaps * overlaps, 1)
    _store_row_scalars(d_beta, d_beta_c, batch, head, start, T, H, C)

    d_scores_raw = (d_scores * ratio).to(dtype)
    d_overlaps_raw = (strength * d_overlaps * tl.where(j < i, ratio, 0.0)).to(dtype)
    d_read = scale * since_start * _dot(d_output_c, tl.trans(before))
    _store_rows(d_q, d_read + _dot(d_scores_raw, k_c), batch, head, start, T, H, C, K, K)
    d_k_c = _dot((to_end * change).to(dtype), tl.trans(d_after))
    d_k_c -= _dot((since_start * d_v_c).to(dtype), tl.trans(before))
    d_k_c += _dot(tl.trans(d_scores_raw), q_c)
    d_k_c += _dot(d_overlaps_raw, k_c) + _dot(tl.trans(d_overlaps_raw), k_c)
    _store_rows(d_k, d_k_c, batch, head, start, T, H, C, K, K)

    if GATED:
        pairs = d_scores * scores + strength * d_overlaps * overlaps
        written = tl.sum(d_write * change, 1)
        d_total = tl.sum(d_read * q_c, 1) - tl.sum(stored * d_v_c, 1) + tl.sum(pairs, 1) - tl.sum(pairs, 0) - written
        d_last = tl.sum(written, 0) + kept * tl.sum(tl.sum(before.to(tl.float32) * d_after, 1), 0)
        # log_g of a token is part of G from that token on
        d_steps = tl.sum(tl.where(i >= j, d_total[:, None], 0.0), 0) + d_last
        _store_row_scalars(d_log_g, d_steps, batch, head, start, T, H, C)


@triton.jit  # type: ignore[untyped-decorator]
def _inverse_of_unit_lower(lower, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    """(I + lower)^-1 of a strictly lower triangular [SIZE, SIZE], SIZE 16: blocks of 1, 2, 4, 8 are joined in pairs.

    [[P, 0], [L, Q]]^-1 = [[P^-1, 0], [-Q^-1 L P^-1, Q^-1]]: as stable as substitution. A product of I + lower^(2^m)
    would cancel: for nearly equal keys and beta 2 its terms reach 1e13.
    """
    i = tl.arange(0, SIZE)[:, None]
    j = tl.arange(0, SIZE)[None, :]
    inverse = tl.where(i == j, 1.0, tl.where(i // 2 == j // 2, -lower, 0.0))
    for level in tl.static_range(1, 4):
        between = tl.where((i >> (level + 1) == j >> (level + 1)) & (i >> level != j >> level), lower, 0.0)
        between = _dot(between, inverse)
        inverse -= _dot(inverse, between)
    return inverse


@triton.jit  # type: ignore[untyped-decorator]
def _decays(steps, GATED: tl.constexpr, C: tl.constexpr):  # type: ignore[no-untyped-def]
    """exp(G) [C], exp(G_C - G) [C], exp(G_C), and D [C, C], from the log decays of a chunk; no exponent above 0."""
    i = tl.arange(0, C)[:, None]
    j = tl.arange(0, C)[None, :]
    if GATED:
        total = tl.cumsum(steps, 0)
        last = tl.sum(steps, 0)
        since_start = tl.exp(total)
        to_end = tl.exp(tl.minimum(last - total, 0.0))
        kept = tl.exp(last)
        ratio = tl.exp(tl.where(j <= i, total[:, None] - total[None, :], float("-inf")))
    else:
        since_start = tl.full([C], 1.0, tl.float32)
        to_end = since_start
        kept = tl.full([], 1.0, tl.float32)
        ratio = tl.where(j <= i, 1.0, 0.0)
    return since_start, to_end, kept, ratio


@triton.jit
def _dot(a, b):  # type: ignore[no-untyped-def]
    """Sums in float32; float32 operands as three products of tf32, about as exact as float32.

    One product of tf32 would err in the inverse by more than the rounding to bfloat16 (0.6% for nearly equal keys and
    beta 2, 0.1% by rounding). Without matrix units ("ieee") a head of 64 takes a minute to compile and 10 KB a thread.
    """
    return tl.dot(a, b, input_precision="tf32x3")


@triton.jit  # type: ignore[untyped-decorator]
def _columns_of_program(H, PARTS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Batch, head and part of the columns of V: those of one head are neighbours and share its queries and keys."""
    program = tl.program_id(0).to(tl.int64)
    return program // PARTS // H, program // PARTS % H, program % PARTS


@triton.jit
def _chunk_of_program(H, N):  # type: ignore[no-untyped-def]
    """Batch, head and chunk; neighbouring programs read neighbouring heads, which share lines of memory."""
    program = tl.program_id(0).to(tl.int64)
    return program // H // N, program % H, program // H % N


@triton.jit  # type: ignore[untyped-decorator]
def _load_rows(  # type: ignore[no-untyped-def]
    x, batch, head, start, T, H, ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr
):
    """Tokens from `start` of one head of x [B, T, H, WIDTH]: [ROWS, COLUMNS], zero past the end."""
    token = start + tl.arange(0, ROWS)
    row = (batch * T + token) * H + head
    return tl.load(x + row[:, None] * WIDTH + tl.arange(0, COLUMNS)[None, :], mask=(token < T)[:, None], other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _store_rows(  # type: ignore[no-untyped-def]
    x, value, batch, head, start, T, H, ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr
):
    token = start + tl.arange(0, ROWS)
    row = (batch * T + token) * H + head
    place = x + row[:, None] * WIDTH + tl.arange(0, COLUMNS)[None, :]
    tl.store(place, value.to(x.dtype.element_ty), mask=(token < T)[:, None])


@triton.jit  # type: ignore[untyped-decorator]
def _load_row_scalars(x, batch, head, start, T, H, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """As `_load_rows` of x [B, T, H], in float32; zeros where x is None."""
    if x is None:
        value = tl.zeros([ROWS], tl.float32)
    else:
        token = start + tl.arange(0, ROWS)
        value = tl.load(x + (batch * T + token) * H + head, mask=token < T, other=0.0).to(tl.float32)
    return value


@triton.jit  # type: ignore[untyped-decorator]
def _store_row_scalars(x, value, batch, head, start, T, H, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    token = start + tl.arange(0, ROWS)
    tl.store(x + (batch * T + token) * H + head, value.to(x.dtype.element_ty), mask=token < T)


@triton.jit  # type: ignore[untyped-decorator]
def _load_matrix(x, index, ROWS: tl.constexpr, WIDTH: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    return tl.load(x + index * ROWS * WIDTH + place)


@triton.jit  # type: ignore[untyped-decorator]
def _store_matrix(  # type: ignore[no-untyped-def]
    x, value, index, ROWS: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr
):
    place = tl.arange(0, ROWS)[:, None] * WIDTH + tl.arange(0, COLUMNS)[None, :]
    tl.store(x + index * ROWS * WIDTH + place, value.to(x.dtype.element_ty))
