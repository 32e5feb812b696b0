"""NVIDIA apex: RMSNorm, AdamW, gradient norm. Not yet run on a GPU.

Of apex as it is since `transformer`, `amp` and `parallel` were removed, built with its CUDA
extensions; the package `apex` of PyPI is another project.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from megafm.ops import adapters, registry
from megafm.ops.adapters import multi_tensor
from megafm.ops.adapters.multi_tensor import CORRECT_BIAS, DECOUPLED, Tensors

FIX = (
    "APEX_CPP_EXT=1 APEX_CUDA_EXT=1 pip install -v --no-build-isolation "
    "git+https://github.com/NVIDIA/apex"
)


def _rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """With a 16-bit weight apex rounds x / rms before it scales it: a float32 weight spares that,
    and the output is rounded here."""
    from apex.normalization import fused_layer_norm

    total = x if residual is None else x + residual
    with torch.autocast(x.device.type, enabled=False):  # apex would round to autocast's dtype
        y = fused_layer_norm.mixed_dtype_fused_rms_norm_affine(
            total, weight.float(), weight.shape, eps
        ).to(x.dtype)
    return y if residual is None else (y, total)


def _adamw(*arguments: Any) -> None:
    """apex forms 1 - beta in float32: the second moment is off by up to 3e-5 of it."""
    import amp_C
    from apex.multi_tensor_apply import multi_tensor_applier

    lists, update = multi_tensor.adamw_arguments(*arguments)
    if not lists[0]:
        return
    device = lists[0][0].device
    flag, has_masters = multi_tensor.noop_flag(device), len(lists) == 5
    betas_and_eps = update.beta1, update.beta2, update.eps
    mode = DECOUPLED, CORRECT_BIAS, update.weight_decay
    if not has_masters:
        kernel = amp_C.multi_tensor_adam
        multi_tensor_applier(kernel, flag, lists, update.lr, *betas_and_eps, update.step, *mode)
    else:  # the kernel that knows masters reads its numbers on the device
        kernel = amp_C.multi_tensor_adam_capturable_master
        lr = torch.full((1,), update.lr, dtype=torch.float32, device=device)
        step = torch.full((1,), update.step, dtype=torch.int32, device=device)
        one = torch.ones(1, dtype=torch.float32, device=device)  # the inverse of a loss scale
        multi_tensor_applier(kernel, flag, lists, lr, *betas_and_eps, step, *mode, one)


def _grad_norm(tensors: Tensors) -> torch.Tensor:
    import amp_C
    from apex.multi_tensor_apply import multi_tensor_applier

    return multi_tensor.grad_norm(tensors, amp_C.multi_tensor_l2norm, multi_tensor_applier)


_has_kernels = functools.partial(adapters.missing, "apex with its CUDA extensions", "apex", "amp_C")
_has_norms = functools.partial(
    adapters.missing, "apex with its CUDA extensions", "apex", "fused_layer_norm_cuda"
)

RMS_NORM = registry.Backend(_rms_norm, _has_norms, adapters.refused_rms_norm, FIX)
ADAMW = registry.Backend(_adamw, _has_kernels, multi_tensor.refused_adamw, FIX)
GRAD_NORM = registry.Backend(_grad_norm, _has_kernels, multi_tensor.refused_grad_norm, FIX)
