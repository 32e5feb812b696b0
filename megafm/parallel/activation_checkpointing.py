"""Activation checkpointing (arXiv:1604.06174): less memory for activations, more computation.

A layer of mode `full` keeps its input and runs forward again in the backward pass. `selective`
(arXiv:2205.05198) also keeps what is dear to compute, the outputs of matmuls and of attention, and
computes norms, rotations and activation functions again. An attention kernel that torch's
dispatcher does not see (Triton) is computed again too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    SelectiveCheckpointContext,
    checkpoint,
    create_selective_checkpoint_contexts,
)

MODES = ("none", "selective", "full")

# Products of matrices (bmm is not: the scores of attention) and fused attention.
KEPT = {
    "aten::mm",
    "aten::addmm",
    "aten::_scaled_mm",
    "aten::_grouped_mm",
    "mkldnn::_linear_pointwise",
    "aten::_scaled_dot_product_flash_attention",
    "aten::_scaled_dot_product_flash_attention_for_cpu",
    "aten::_scaled_dot_product_efficient_attention",
    "aten::_scaled_dot_product_cudnn_attention",
    "megafm::attention",
    "megafm::ring_attention",
    "_c10d_functional::all_to_all_single",
}


def checkpoint_activations(layers: nn.ModuleDict, modes: Sequence[str]) -> None:
    """Let each layer recompute its activations in the backward pass as its mode says.

    Call it before the layers are wrapped for data parallelism. Gradients keep every bit.

    Args:
        layers: by number in the whole model.
        modes: of MODES, repeated over the layers: ("full",) is every layer, ("full", "none") every
            second one.
    """
    for number, layer in layers.items():
        mode = modes[int(number) % len(modes)]
        options: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
        if mode == "selective":
            options["context_fn"] = functools.partial(create_selective_checkpoint_contexts, _policy)
        if mode != "none":
            # not a wrapping module: parameters keep their names
            layer.forward = functools.partial(checkpoint, layer.forward, **options)


def _policy(
    context: SelectiveCheckpointContext, op: Any, *args: Any, **kwargs: Any
) -> CheckpointPolicy:
    kept = op._schema.name in KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
