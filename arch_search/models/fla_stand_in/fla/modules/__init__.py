"""Norms, the short convolution, rotary positions."""

from fla.modules.convolution import ShortConvolution
from fla.modules.fused_norm_gate import FusedRMSNormGated, FusedRMSNormSwishGate
from fla.modules.l2norm import L2Norm
from fla.modules.layernorm import GroupNorm, LayerNorm, RMSNorm
from fla.modules.rotary import RotaryEmbedding

__all__ = [
    "FusedRMSNormGated",
    "FusedRMSNormSwishGate",
    "GroupNorm",
    "L2Norm",
    "LayerNorm",
    "RMSNorm",
    "RotaryEmbedding",
    "ShortConvolution",
]
