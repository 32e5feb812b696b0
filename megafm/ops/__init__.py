"""Fused operations: a plain PyTorch reference of each, and the backends that stand in for it.

Activations are (batch, seq, heads, head_dim); every op is differentiable and traceable by
torch.compile(fullgraph=True).
"""

from megafm.ops.adamw import AdamW
from megafm.ops.attention import attention
from megafm.ops.attention_backward import attention_backward
from megafm.ops.cross_entropy import cross_entropy
from megafm.ops.grad_norm import grad_norm
from megafm.ops.grouped_linear import grouped_linear
from megafm.ops.linear import linear
from megafm.ops.linear_cross_entropy import linear_cross_entropy
from megafm.ops.registry import OpBackends, OpsConfig, backends, configure, load_environment, use
from megafm.ops.rms_norm import rms_norm
from megafm.ops.rope import RopeScaling, apply_rope, rope_cache
from megafm.ops.swiglu import swiglu

load_environment()

__all__ = [
    "AdamW",
    "OpBackends",
    "OpsConfig",
    "RopeScaling",
    "apply_rope",
    "attention",
    "attention_backward",
    "backends",
    "configure",
    "cross_entropy",
    "grad_norm",
    "grouped_linear",
    "linear",
    "linear_cross_entropy",
    "rms_norm",
    "rope_cache",
    "swiglu",
    "use",
]
