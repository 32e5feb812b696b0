"""Cross entropy of each token, over a whole vocabulary or one that is sharded over ranks.

    loss = lse - logits[target] + z_loss * lse**2,   lse = log(sum(exp(logits)))

The z term (PaLM, section 5) keeps lse near 0. Kernels make two passes over the logits: `stats`
reads them once for each row's softmax, `gradient` once more for

    d logits = softmax * (1 + 2 * z_loss * lse) - onehot(target).

What is between the passes is one number per token: ignored targets, the z term, and what ranks
that share the vocabulary add up. Logits enter it less their row's maximum: a loss near 0 is exact.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional

from megafm.ops import _library, registry, triton
from megafm.ops.adapters import transformer_engine
from megafm.ops.cpp.softmax import SoftmaxKernels
from megafm.ops.cpp.storage import CPU, CUDA, Target

NO_COLUMN = torch.iinfo(torch.int64).min


def cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    *,
    ignore_index: int = -100,
    z_loss: float = 0.0,
    group: dist.ProcessGroup | None = None,
) -> torch.Tensor:
    """The loss of each token, in nats.

    Args:
        logits: (..., vocab); with `group` (..., vocab / ranks), rank r's slice of the vocabulary,
            all slices equally wide.
        targets: (...) int64, ids of the whole vocabulary; `ignore_index` gives loss 0.
        z_loss: weight of lse**2, e.g. 1e-4.
        group: ranks that hold the vocabulary's slices in order; all get the same losses.

    Returns:
        (...) float32 (float64 for float64 logits).

    Raises:
        IndexError or RuntimeError: a target that is no id of the vocabulary (on a CPU).
    """
    registry.check_devices("cross_entropy", logits=logits, targets=targets)
    if targets.shape != logits.shape[:-1]:
        shapes = f"{tuple(targets.shape)} do not fit logits {tuple(logits.shape)}"
        raise ValueError(f"cross_entropy: targets {shapes}")
    check_targets("cross_entropy", targets)
    terms = (ignore_index, z_loss, group)
    return registry.dispatch("cross_entropy", logits.device, logits, targets, *terms)


def check_targets(op: str, targets: torch.Tensor) -> None:
    if targets.dtype != torch.int64:
        raise ValueError(f"{op}: targets are {targets.dtype}; give int64, as targets.long()")


def reference(
    logits: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int,
    z_loss: float,
    group: dist.ProcessGroup | None,
) -> torch.Tensor:
    if group is not None:
        return fused(TorchKernels, logits, targets, ignore_index, z_loss, group)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    ignored = targets == ignore_index
    top = wide.detach().amax(-1, keepdim=True)
    shifted = wide - top  # lse near 0: its rounding does not grow with the logits
    lse = torch.logsumexp(shifted, dim=-1)
    picked = shifted.gather(-1, targets.masked_fill(ignored, 0).unsqueeze(-1)).squeeze(-1)
    losses = lse - picked
    if z_loss:
        losses = losses + z_loss * (lse + top.squeeze(-1)).square()
    return losses.masked_fill(ignored, 0)


class Kernels(Protocol):
    """The passes over logits (..., vocab) that a backend supplies (a module of them, or a class).

    Of the statistics of each row, all (...): `columns` int64, NO_COLUMN where the row's target is
    ignored or not in these logits; the others float32 (float64 for float64 logits).
    """

    def stats(
        self, logits: torch.Tensor, columns: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """top = max(logits), log_total = log(sum(exp(logits - top))), picked = logit - top.

        A row of -inf alone has log_total = -inf, its picked is the logit, and NO_COLUMN picks 0.
        """

    def gradient(
        self,
        logits: torch.Tensor,
        columns: torch.Tensor,
        top: torch.Tensor,
        log_total: torch.Tensor,
        d_lse: torch.Tensor,
        d_picked: torch.Tensor,
    ) -> torch.Tensor:
        """exp(logits - top - log_total) * d_lse, and d_picked more at the column.

        Zeros where d_lse and d_picked are 0. In the dtype of `logits`.
        """

    def gradient_in_place(
        self,
        logits: torch.Tensor,
        columns: torch.Tensor,
        top: torch.Tensor,
        log_total: torch.Tensor,
        d_lse: torch.Tensor,
        d_picked: torch.Tensor,
        *,
        softcap: float | None,
    ) -> None:
        """`gradient` in the place of contiguous logits, times the slope of softcap * tanh.

        The slope is 1 - (logits / softcap)**2, where the logits are what was capped.
        """


def fused(
    kernels: Kernels,
    logits: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int,
    z_loss: float,
    group: dist.ProcessGroup | None,
) -> torch.Tensor:
    """`cross_entropy` by two passes of `kernels`."""
    return _Fused.apply(kernels, logits, targets, ignore_index, z_loss, group)


class _Fused(torch.autograd.Function):
    """Keeps the logits and five numbers per token; the backward needs no word from other ranks."""

    @staticmethod
    def forward(
        ctx: Any,
        kernels: Kernels,
        logits: torch.Tensor,
        targets: torch.Tensor,
        ignore_index: int,
        z_loss: float,
        group: dist.ProcessGroup | None,
    ) -> torch.Tensor:
        columns, ignored = own_columns(targets, ignore_index, logits.shape[-1], group)
        top, log_total, picked = token_stats(kernels, logits, columns, group)
        losses, d_lse, d_picked = token_losses(top, log_total, picked, ignored, z_loss)
        ctx.kernels = kernels
        ctx.save_for_backward(logits, columns, top, log_total, d_lse, d_picked)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        registry.refuse_second_derivative("cross_entropy")
        *rows, d_lse, d_picked = ctx.saved_tensors
        d_logits = ctx.kernels.gradient(*rows, grads[0] * d_lse, grads[0] * d_picked)
        return None, d_logits, None, None, None, None


def own_columns(
    targets: torch.Tensor, ignore_index: int, width: int, group: dist.ProcessGroup | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Each target's column in this rank's slice, and which targets are ignored.

    NO_COLUMN for what is ignored or another rank's. A target outside the whole vocabulary gets a
    column outside every slice: the kernels' check finds it.
    """
    ignored = targets == ignore_index
    if group is None:
        return targets.masked_fill(ignored, NO_COLUMN), ignored
    columns = targets - dist.get_rank(group) * width
    in_vocabulary = (targets >= 0) & (targets < width * dist.get_world_size(group))
    others = in_vocabulary & ((columns < 0) | (columns >= width))
    return columns.masked_fill(ignored | others, NO_COLUMN), ignored


def token_stats(
    kernels: Kernels, logits: torch.Tensor, columns: torch.Tensor, group: dist.ProcessGroup | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`Kernels.stats` over the whole vocabulary: with a group, two all-reduces."""
    top, log_total, picked = kernels.stats(logits, columns)
    if group is None:
        return top, log_total, picked
    whole_top = functional.all_reduce(top, "max", group)
    below = top - whole_top
    picked = (picked + below).masked_fill(columns == NO_COLUMN, 0)
    summed = torch.stack(((log_total + below).exp(), picked))
    total, picked = functional.all_reduce(summed, "sum", group).unbind()
    return whole_top, total.log(), picked


def token_losses(
    top: torch.Tensor,
    log_total: torch.Tensor,
    picked: torch.Tensor,
    ignored: torch.Tensor,
    z_loss: float,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each token's loss, and its derivatives by lse and by the target's logit."""
    lse = log_total + top
    losses = log_total - picked
    if z_loss:  # 0 * inf would be NaN
        losses = losses + z_loss * lse.square()
    d_lse = torch.ones_like(lse) if not z_loss else 1 + 2 * z_loss * lse
    d_picked = -torch.ones_like(lse)
    losses, d_lse, d_picked = (x.masked_fill(ignored, 0) for x in (losses, d_lse, d_picked))
    return losses, d_lse, d_picked


class TorchKernels:
    """The passes in plain PyTorch, for any device and dtype."""

    @staticmethod
    def stats(
        logits: torch.Tensor, columns: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        top = wide.amax(-1)
        shifted = wide - top.masked_fill(top == -torch.inf, 0).unsqueeze(-1)
        none = columns == NO_COLUMN
        picked = shifted.gather(-1, columns.masked_fill(none, 0).unsqueeze(-1)).squeeze(-1)
        return top, torch.logsumexp(shifted, -1), picked.masked_fill(none, 0)

    @staticmethod
    def gradient(logits: torch.Tensor, *rows: torch.Tensor) -> torch.Tensor:
        d_logits = logits.clone(memory_format=torch.contiguous_format)
        TorchKernels.gradient_in_place(d_logits, *rows, softcap=None)
        return d_logits

    @staticmethod
    def gradient_in_place(
        logits: torch.Tensor,
        columns: torch.Tensor,
        top: torch.Tensor,
        log_total: torch.Tensor,
        d_lse: torch.Tensor,
        d_picked: torch.Tensor,
        *,
        softcap: float | None,
    ) -> None:
        grad = logits.to(top.dtype)  # itself, unless it is narrower
        slope = None if softcap is None else 1 - (grad / softcap).square()
        grad.sub_(top.unsqueeze(-1)).sub_(log_total.unsqueeze(-1)).exp_().mul_(d_lse.unsqueeze(-1))
        none = columns == NO_COLUMN
        at_column = d_picked.masked_fill(none, 0).unsqueeze(-1)
        grad.scatter_add_(-1, columns.masked_fill(none, 0).unsqueeze(-1), at_column)
        if slope is not None:
            grad.mul_(slope)
        unreached = (d_lse == 0) & (d_picked == 0)
        logits.copy_(grad.masked_fill_(unreached.unsqueeze(-1), 0))


def _cpp(target: Target, logits: torch.Tensor, *terms: Any) -> torch.Tensor:
    return fused(SoftmaxKernels(target), logits, *terms)


registry.register("cross_entropy", "reference", registry.Backend(reference))
registry.register("cross_entropy", "cpu", _library.backend(_cpp, Target.unreadable, CPU))
registry.register("cross_entropy", "cuda", _library.backend(_cpp, Target.unreadable, CUDA))
registry.register("cross_entropy", "triton", triton.backend("cross_entropy"))
registry.register("cross_entropy", "transformer_engine", transformer_engine.CROSS_ENTROPY)
