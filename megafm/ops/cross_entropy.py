"""Cross entropy of each token, over a whole vocabulary or one that is sharded over ranks.

    loss = lse - logits[target] + z_loss * lse**2,   lse = log(sum(exp(logits)))

The z term (PaLM, section 5) keeps lse near 0. A fused backward reads the logits once more:
d logits = softmax * (1 + 2 * z_loss * lse) - onehot(target).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional

from megafm.ops import registry


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
    """
    if targets.shape != logits.shape[:-1]:
        shapes = f"{tuple(targets.shape)} do not fit logits {tuple(logits.shape)}"
        raise ValueError(f"cross_entropy: targets {shapes}")
    if group is not None:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return _VocabParallel.apply(wide, targets, ignore_index, z_loss, group)
    return registry.dispatch("cross_entropy", logits.device, logits, targets, ignore_index, z_loss)


def reference(
    logits: torch.Tensor, targets: torch.Tensor, ignore_index: int, z_loss: float
) -> torch.Tensor:
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


class _VocabParallel(torch.autograd.Function):
    """Three all-reduces of one number per token forward, none backward."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: torch.Tensor,
        targets: torch.Tensor,
        ignore_index: int,
        z_loss: float,
        group: dist.ProcessGroup,
    ) -> torch.Tensor:
        ignored = targets == ignore_index
        owned, column = own_columns(targets, ignored, logits.shape[-1], group)
        top = functional.all_reduce(logits.amax(-1), "max", group)
        shifted = logits - top.unsqueeze(-1)
        total = functional.all_reduce(shifted.exp().sum(-1), "sum", group)
        picked = shifted.gather(-1, column.unsqueeze(-1)).squeeze(-1).masked_fill(~owned, 0)
        picked = functional.all_reduce(picked, "sum", group)
        lse = total.log()
        slope = (1 + 2 * z_loss * (lse + top)).masked_fill(ignored, 0)  # d loss / d lse
        ctx.save_for_backward(shifted, lse, slope, owned, column)
        return (lse - picked + z_loss * (lse + top).square()).masked_fill(ignored, 0)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        shifted, lse, slope, owned, column = ctx.saved_tensors
        d_lse = (grads[0] * slope).unsqueeze(-1)
        d_logits = torch.exp(shifted - lse.unsqueeze(-1)) * d_lse
        d_picked = -grads[0].masked_fill(~owned, 0)
        d_logits.scatter_add_(-1, column.unsqueeze(-1), d_picked.unsqueeze(-1))
        return d_logits, None, None, None, None


def own_columns(
    targets: torch.Tensor, ignored: torch.Tensor, width: int, group: dist.ProcessGroup
) -> tuple[torch.Tensor, torch.Tensor]:
    """Which targets lie in this rank's slice of the vocabulary, and in which column (else 0)."""
    column = targets - dist.get_rank(group) * width
    owned = (column >= 0) & (column < width) & ~ignored
    return owned, column.masked_fill(~owned, 0)


registry.register("cross_entropy", "reference", registry.Backend(reference))
