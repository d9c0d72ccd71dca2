"""Which rule holds for which operator of aten; in-place forms take the rule of the plain one."""

from __future__ import annotations

from arch_search.admission.certificate import elementwise, joining, moving
from arch_search.admission.certificate.rules import Rule

RULES: dict[str, Rule] = {}


def _register(rule: Rule, *names: str) -> None:
    RULES.update(dict.fromkeys(names, rule))


_register(elementwise.product, "mul", "div", "multiply", "divide")
_register(elementwise.total, "add", "sub")
_register(elementwise.vanishing, "exp", "exp2", "sigmoid")
_register(elementwise.finite_test, "isnan", "isinf", "isfinite", "isposinf", "isneginf")
_register(elementwise.choice, "where", "masked_fill")
_register(elementwise.conjunction, "logical_and", "bitwise_and", "__and__")
_register(moving.moved, "cat", "stack", "flip", "roll", "constant_pad_nd", "repeat", "tril", "triu", "slice_scatter")
_register(moving.moved, "select_scatter", "diagonal_scatter", "diag_embed", "reflection_pad1d", "replication_pad1d")
_register(moving.moved, "im2col", "unfold_copy", "rot90", "channel_shuffle", "pixel_shuffle")
_register(moving.copied, "copy", "_to_copy", "clone", "contiguous", "lift_fresh_copy")
_register(moving.picked, "gather", "index_select", "embedding", "index", "_unsafe_index", "take_along_dim")
_register(moving.placed, "index_put", "_unsafe_index_put", "scatter", "index_copy", "index_fill", "_index_put_impl")
_register(moving.placed, "scatter_add", "index_add", "scatter_reduce")
_register(
    joining.reduced, "sum", "nansum", "mean", "amax", "amin", "max", "min", "prod", "any", "all", "argmax", "argmin"
)
_register(joining.reduced, "var", "std", "var_mean", "linalg_vector_norm", "norm", "logsumexp", "median", "aminmax")
_register(joining.normalised, "native_layer_norm", "_fused_rms_norm")
_register(joining.group_normalised, "native_group_norm")
_register(joining.batch_normalised, "native_batch_norm", "_native_batch_norm_legit_no_training")
_register(joining.softmax, "_softmax", "_log_softmax", "_safe_softmax")
_register(joining.running, "cumsum", "cumprod", "cummax", "cummin", "logcumsumexp", "_cummax_helper")
_register(joining.sorted_along, "sort", "topk", "argsort", "kthvalue")
_register(joining.matrix_product, "mm", "bmm", "mv", "addmm", "baddbmm", "dot", "addmv")
_register(joining.convolution, "convolution", "_convolution", "mkldnn_convolution", "convolution_overrideable")
_register(joining.triangular_solve, "linalg_solve_triangular")
_register(elementwise.constant, "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full")
_register(elementwise.constant, "fill", "zero")
_register(elementwise.random_numbers, "normal", "uniform", "bernoulli", "exponential", "random", "randint_like")
_register(elementwise.random_numbers, "rand_like", "randn_like", "empty_like", "new_empty", "new_empty_strided")
_register(elementwise.dropout, "native_dropout")
_register(elementwise.log_sigmoid, "log_sigmoid_forward")
