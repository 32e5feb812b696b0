"""Activation checkpointing (arXiv:1604.06174): less memory for activations, more computation.

A layer of mode `full` keeps its input and runs forward again in the backward pass. `selective`
(arXiv:2205.05198) also keeps what is dear to compute, the outputs of matmuls and of attention, and
computes norms, rotations and activation functions again. An attention kernel that torch's
dispatcher does not see (Triton) is computed again too.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.checkpoint import checkpoint

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
            options["context_fn"] = _keep_and_give_back
        if mode != "none":
            # not a wrapping module: parameters keep their names
            layer.forward = functools.partial(checkpoint, layer.forward, **options)


def _keep_and_give_back() -> tuple[TorchDispatchMode, TorchDispatchMode]:
    """What the forward pass of a layer runs under, and what it does when it is run again.

    torch's own pair (create_selective_checkpoint_contexts) wants each op to come again. Experts are
    an FSDP2 module inside the layer, which gathers parameters where they are not there yet.
    """
    kept: deque[_Kept] = deque()
    return _Keep(kept), _GiveBack(kept)


_Kept = tuple[Any, Any, list[int]]  # an op, what it gave, and the versions of that


class _Keep(TorchDispatchMode):
    """Keeps what the ops of KEPT give, in order."""

    def __init__(self, kept: deque[_Kept]) -> None:
        super().__init__()
        self.kept = kept

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func._schema.name in KEPT:
            # The tensors themselves will know the graph, which knows this list.
            alone = tree_map_only(torch.Tensor, torch.Tensor.detach, out)
            self.kept.append((func, alone, _versions(alone)))
        return out


class _GiveBack(TorchDispatchMode):
    """Gives what was kept, instead of computing it."""

    def __init__(self, kept: deque[_Kept]) -> None:
        super().__init__()
        self.kept = kept

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func._schema.name not in KEPT:
            return func(*args, **(kwargs or {}))
        op, out, versions = self.kept.popleft()
        assert op is func, f"{func} where the forward pass had {op}"
        assert versions == _versions(out), f"what {op} gave was written to"
        return out


def _versions(out: Any) -> list[int]:
    """How often each tensor was written to."""
    return [leaf._version for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
