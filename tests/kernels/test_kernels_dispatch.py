"""The dispatcher says which path ran, and why not the fast one."""

from __future__ import annotations

import warnings
from unittest.mock import Mock

import pytest
import torch

from kernels.dispatch import Choice, FallbackWarning, is_fast, recorded_choices, triton_refusal


def test_choices_are_recorded_once_each_in_order_and_only_inside_the_block() -> None:
    like = torch.zeros(1)
    with recorded_choices() as inner:
        for refusal in ("", "head size 48, supported are 32 and 64", ""):
            is_fast("delta_rule", fast="triton", plain="chunk", refusal=refusal, like=like)
    is_fast("delta_rule", fast="triton", plain="chunk", refusal="", like=like)
    assert inner == [
        Choice(operator="delta_rule", path="triton", reason=""),
        Choice(operator="delta_rule", path="chunk", reason="head size 48, supported are 32 and 64"),
    ]


def test_a_fallback_is_a_warning_on_a_gpu_and_silent_on_a_cpu() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not is_fast("fir_mix", fast="triton", plain="chunk", refusal="float64", like=torch.zeros(1))
    with pytest.warns(FallbackWarning, match="fir_mix: float64; chunk is used instead"):
        is_fast("fir_mix", fast="triton", plain="chunk", refusal="float64", like=Mock(is_cuda=True))


def test_tensors_on_a_cpu_are_refused_with_what_is_supported() -> None:
    assert triton_refusal(torch.zeros(1)) == "tensor on cpu, the Triton kernel supports cuda"
