"""Output layer and cross entropy in one, without ever holding the (tokens, vocab) logits.

    loss = cross_entropy(softcap * tanh(hidden @ weight.T / softcap), targets)

A chunk of tokens at a time: its logits, then their gradient in their place, by the two passes of
cross_entropy's kernels. The sum of losses is linear in its own gradient, so both gradients are
formed in the forward and only scaled in the backward. FLOPs: 6 * tokens * vocab * dim, as
without fusion; memory: one chunk of logits and the two gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional

from megafm.ops import _library, registry, triton
from megafm.ops.autocast import autocast_dtype
from megafm.ops.cpp.softmax import SoftmaxKernels
from megafm.ops.cpp.storage import CPU, CUDA, Target
from megafm.ops.cross_entropy import (
    Kernels,
    TorchKernels,
    check_targets,
    cross_entropy,
    own_columns,
    token_losses,
    token_stats,
)
from megafm.ops.linear import linear, weight_gradient
from megafm.ops.processor import has_bf16_units

# Size of a chunk's logits: the products want many rows, memory wants few.
CHUNK_BYTES = {"cpu": 64 << 20, "cuda": 256 << 20}


@dataclass(frozen=True)
class LossTerms:
    """What the loss is made of, beside hidden, weight and targets."""

    ignore_index: int
    softcap: float | None
    z_loss: float
    group: dist.ProcessGroup | None


def linear_cross_entropy(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    ignore_index: int = -100,
    softcap: float | None = None,
    z_loss: float = 0.0,
    reduction: Literal["sum", "none"] = "sum",
    group: dist.ProcessGroup | None = None,
) -> torch.Tensor:
    """Cross entropy of `hidden @ weight.T` against `targets`, in nats.

    Matrix products run in the dtype of `hidden` (autocast's inside autocast), softmax in fp32,
    the weight's gradient is accumulated in fp32; all in fp64 for fp64 hidden.

    Args:
        hidden: (tokens, dim).
        weight: (vocab, dim); with `group` (vocab / ranks, dim), rank r's slice of the vocabulary.
        targets: (tokens,) int64; `ignore_index` adds nothing to loss and gradients.
        softcap: logits become softcap * tanh(logits / softcap) (Gemma 2).
        z_loss: weight of lse**2, e.g. 1e-4.
        reduction: "sum" for training, or "none", which keeps no gradients and recomputes backward.
        group: ranks that hold the vocabulary's slices in order and the same hidden and targets;
            all get the same loss and the whole gradient of hidden.

    Returns:
        float32 (float64 for float64 hidden): a scalar, or (tokens,) for "none".
    """
    registry.check_devices("linear_cross_entropy", hidden=hidden, weight=weight, targets=targets)
    if hidden.dim() != 2 or targets.shape != hidden.shape[:1]:
        shapes = f"hidden {tuple(hidden.shape)}, targets {tuple(targets.shape)}"
        raise ValueError(f"linear_cross_entropy: {shapes}: set (tokens, dim) and (tokens,)")
    check_targets("linear_cross_entropy", targets)
    if reduction not in ("sum", "none"):
        raise ValueError(f"linear_cross_entropy: reduction={reduction}: set 'sum' or 'none'")
    if softcap is not None and softcap <= 0:
        raise ValueError(f"linear_cross_entropy: softcap={softcap}: set it above 0, or None")
    terms = LossTerms(ignore_index, softcap, z_loss, group)
    hidden = hidden.to(autocast_dtype(hidden) or hidden.dtype)
    name = "linear_cross_entropy"
    return registry.dispatch(name, hidden.device, hidden, weight, targets, terms, reduction)


def reference(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    terms: LossTerms,
    reduction: str,
) -> torch.Tensor:
    wide = torch.promote_types(hidden.dtype, torch.float32)
    if terms.group is not None:
        hidden = _SumGradient.apply(hidden, terms.group)
    logits = (hidden @ weight.to(hidden.dtype).T).to(wide)
    if terms.softcap is not None:
        logits = terms.softcap * torch.tanh(logits / terms.softcap)
    losses = cross_entropy(
        logits,
        targets,
        ignore_index=terms.ignore_index,
        z_loss=terms.z_loss,
        group=terms.group,
    )
    return losses.sum() if reduction == "sum" else losses


class _SumGradient(torch.autograd.Function):
    """What every rank uses alike: its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return functional.all_reduce(grads[0].contiguous(), "sum", ctx.group), None


def chunked(
    kernels: Kernels,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    terms: LossTerms,
    reduction: str,
) -> torch.Tensor:
    """`linear_cross_entropy` with the passes over a chunk's logits by `kernels`."""
    if not torch.is_grad_enabled():  # a Function sees requires_grad, not the grad mode
        hidden, weight = hidden.detach(), weight.detach()
    function = _Sum if reduction == "sum" else _PerToken
    with torch.autocast(hidden.device.type, enabled=False):
        return function.apply(kernels, hidden, weight, targets, terms)


class _Sum(torch.autograd.Function):
    """Gradients in the forward: the logits are formed once."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        terms: LossTerms,
    ) -> torch.Tensor:
        ones = torch.ones_like(targets, dtype=_wide(hidden))
        needed = ctx.needs_input_grad[1:3]
        losses, d_hidden, d_weight = _run(kernels, hidden, weight, targets, terms, ones, needed)
        ctx.save_for_backward(d_hidden, d_weight)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        registry.refuse_second_derivative("linear_cross_entropy")
        d_hidden, d_weight = (
            None if saved is None else _scaled(saved, grads[0]) for saved in ctx.saved_tensors
        )
        return None, d_hidden, d_weight, None, None


def _scaled(x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """In the factor's precision: one rounded to bf16 would bend every element alike.

    torch rounds a scalar that lies on a GPU, not one on a CPU.
    """
    if factor.device.type == "cpu":
        return x * factor
    return (x.to(factor.dtype) * factor).to(x.dtype)


class _PerToken(torch.autograd.Function):
    """Gradients in the backward, where each token's weight is known."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        terms: LossTerms,
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.kernels, ctx.terms = kernels, terms
        return _run(kernels, hidden, weight, targets, terms, None, (False, False))[0]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        registry.refuse_second_derivative("linear_cross_entropy")
        kernels, terms, needed = ctx.kernels, ctx.terms, ctx.needs_input_grad[1:3]
        hidden, weight, targets = ctx.saved_tensors
        _, d_hidden, d_weight = _run(kernels, hidden, weight, targets, terms, grads[0], needed)
        return None, d_hidden, d_weight, None, None


def _run(
    kernels: Kernels,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    terms: LossTerms,
    d_losses: torch.Tensor | None,
    needed: tuple[bool, bool],
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Losses (tokens,), and the gradients of hidden and weight where needed for `d_losses`."""
    hidden, weight_dtype = hidden.detach(), weight.dtype
    dtype = _matmul_dtype(hidden)
    weight = weight.detach().to(dtype)
    losses = hidden.new_empty(hidden.shape[0], dtype=_wide(hidden))
    d_hidden = torch.empty_like(hidden) if needed[0] else None
    d_weight = None
    size = _chunk_size(weight)
    for start in range(0, hidden.shape[0], size):
        chunk = slice(start, start + size)
        x = hidden[chunk].to(dtype).contiguous()  # one layout: the same bits from any strides
        logits = linear(x, weight)  # (chunk, vocab), then their gradient
        scale = d_losses[chunk] if d_losses is not None and any(needed) else None
        losses[chunk] = _losses_and_gradient(kernels, logits, targets[chunk], terms, scale)
        if d_hidden is not None and scale is not None:
            d_hidden[chunk] = linear(logits, weight.T)
        if needed[1] and scale is not None:
            part = weight_gradient(logits, x)  # laid out as is fast: only the sum is turned
            d_weight = part if d_weight is None else d_weight.to(_wide(hidden)).add_(part)
    if terms.group is not None and d_hidden is not None:
        d_hidden = functional.all_reduce(d_hidden, "sum", terms.group)
    if d_weight is None and needed[1]:  # no token
        d_weight = torch.zeros_like(weight)
    if d_weight is not None:
        d_weight = d_weight.to(weight_dtype).contiguous()
    return losses, d_hidden, d_weight


def _losses_and_gradient(
    kernels: Kernels,
    logits: torch.Tensor,
    targets: torch.Tensor,
    terms: LossTerms,
    scale: torch.Tensor | None,
) -> torch.Tensor:
    """Losses of a chunk; with `scale`, d loss / d loss of each token, leaves d logits in place."""
    capped = logits
    if terms.softcap is not None:
        capped = logits.to(_wide(logits)).div_(terms.softcap).tanh_().mul_(terms.softcap)
    columns, ignored = own_columns(targets, terms.ignore_index, logits.shape[1], terms.group)
    top, log_total, picked = token_stats(kernels, capped, columns, terms.group)
    losses, d_lse, d_picked = token_losses(top, log_total, picked, ignored, terms.z_loss)
    if scale is not None:
        rows = (columns, top, log_total, scale * d_lse, scale * d_picked)
        kernels.gradient_in_place(capped, *rows, softcap=terms.softcap)
        if capped is not logits:
            logits.copy_(capped)
    return losses


def _wide(x: torch.Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _matmul_dtype(hidden: torch.Tensor) -> torch.dtype:
    """fp32 for bf16 where the CPU has no bf16 units: its bf16 products run at a quarter of fp32."""
    slow = hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16 and not has_bf16_units()
    return torch.float32 if slow else hidden.dtype


def _chunk_size(weight: torch.Tensor) -> int:
    row_bytes = max(1, weight.shape[0]) * weight.itemsize  # of logits
    fitting = CHUNK_BYTES.get(weight.device.type, CHUNK_BYTES["cuda"]) // row_bytes
    return max(64, fitting // 64 * 64)


def _torch(hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
    return chunked(TorchKernels, hidden, *rest)


def _cpp(target: Target, hidden: torch.Tensor, *rest: Any) -> torch.Tensor:
    return chunked(SoftmaxKernels(target), hidden, *rest)


registry.register("linear_cross_entropy", "reference", registry.Backend(reference))
registry.register("linear_cross_entropy", "torch", registry.Backend(_torch))
registry.register("linear_cross_entropy", "cpu", _library.backend(_cpp, Target.unreadable, CPU))
registry.register("linear_cross_entropy", "cuda", _library.backend(_cpp, Target.unreadable, CUDA))
registry.register("linear_cross_entropy", "triton", triton.backend("linear_cross_entropy"))
