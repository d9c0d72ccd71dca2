"""Norms and the short convolution."""

from fla.modules.convolution import ShortConvolution
from fla.modules.fused_norm_gate import FusedRMSNormGated, FusedRMSNormSwishGate
from fla.modules.l2norm import L2Norm
from fla.modules.layernorm import LayerNorm, RMSNorm

__all__ = [
    "FusedRMSNormGated",
    "FusedRMSNormSwishGate",
    "L2Norm",
    "LayerNorm",
    "RMSNorm",
    "ShortConvolution",
]
