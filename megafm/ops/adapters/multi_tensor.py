"""What apex and TransformerEngine share: kernels of one signature over lists of tensors.

TransformerEngine's are apex's, grown on: an applier calls
`kernel(chunk_size, noop_flag, lists, ...)` with lists of gradients, parameters, moments, masters.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from megafm.ops.adamw import Update

Tensors = list[torch.Tensor]

DECOUPLED = 1  # `mode`: weight decay as in AdamW, not added to the gradient
CORRECT_BIAS = 1

Call = Callable[..., Any]  # kernel and its arguments after chunk size and flag


def adamw_arguments(
    params: Tensors, grads: Tensors, exp_avgs: Tensors, exp_avg_sqs: Tensors, *rest: Any
) -> tuple[list[Tensors], Update]:
    """Of the reference's arguments, the lists in the kernels' order without empty tensors (which
    they do not expect), and the numbers."""
    masters, update = rest
    lists = [grads, params, exp_avgs, exp_avg_sqs, *([] if masters is None else [masters])]
    sizes = [param.numel() for param in params]
    return [[x for x, size in zip(xs, sizes, strict=True) if size] for xs in lists], update


def noop_flag(device: torch.device) -> torch.Tensor:
    """What a kernel may set at inf or NaN; nobody reads it, the results show that themselves."""
    return torch.zeros(1, dtype=torch.int32, device=device)


def refused_adamw(
    params: Tensors, grads: Tensors, exp_avgs: Tensors, exp_avg_sqs: Tensors, *rest: Any
) -> str | None:
    """Why neither library can take the step; None if both can."""
    device, dtypes = params[0].device, (params[0].dtype, grads[0].dtype)
    if device.type != "cuda":
        return f"it runs on CUDA tensors, not on {device.type}"
    if exp_avgs[0].dtype != torch.float32:
        return f"its moments are float32, not {exp_avgs[0].dtype}; set master_weights=True"
    if dtypes[0] != dtypes[1]:
        return f"it wants one dtype, the parameters are {dtypes[0]}, the gradients {dtypes[1]}"
    return None


def refused_grad_norm(tensors: Tensors) -> str | None:
    if tensors[0].device.type != "cuda":
        return f"it runs on CUDA tensors, not on {tensors[0].device.type}"
    if any(x.dtype == torch.float64 for x in tensors):
        return "it computes in float32"
    return None


def grad_norm(tensors: Tensors, kernel: Call, apply: Call) -> torch.Tensor:
    """The norm over all dtypes; `kernel` gives that of one, and a norm per tensor if told to."""
    by_dtype = defaultdict(list)
    for tensor in tensors:
        if tensor.numel():
            by_dtype[tensor.dtype].append(tensor.contiguous())
    device = tensors[0].device
    total = torch.zeros((), dtype=torch.float64, device=device)
    for alike in by_dtype.values():
        norm, _ = apply(kernel, noop_flag(device), [alike], False)
        total += norm.double().square().sum()
    return total.sqrt().float()
