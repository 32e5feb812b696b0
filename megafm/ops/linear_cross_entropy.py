"""Output layer and cross entropy in one, without ever holding the (tokens, vocab) logits.

    loss = cross_entropy(softcap * tanh(hidden @ weight.T / softcap), targets)

A chunk of tokens at a time goes through one buffer: logits, then probabilities, then their
gradient, all in place. The sum of losses is linear in its own gradient, so both gradients are
formed in the forward and only scaled in the backward. FLOPs: 6 * tokens * vocab * dim, as
without fusion; memory: one chunk of logits and the two gradients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional

from megafm.ops import registry
from megafm.ops.autocast import autocast_dtype
from megafm.ops.cross_entropy import cross_entropy, own_columns

# Size of a chunk's logits in fp32: on a CPU a share of the last-level cache.
CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 256 << 20}


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
    if hidden.dim() != 2 or targets.shape != hidden.shape[:1]:
        shapes = f"hidden {tuple(hidden.shape)}, targets {tuple(targets.shape)}"
        raise ValueError(f"linear_cross_entropy: {shapes}: set (tokens, dim) and (tokens,)")
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


def _chunked(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    terms: LossTerms,
    reduction: str,
) -> torch.Tensor:
    if not torch.is_grad_enabled():  # a Function sees requires_grad, not the grad mode
        hidden, weight = hidden.detach(), weight.detach()
    with torch.autocast(hidden.device.type, enabled=False):
        if reduction == "sum":
            return _Sum.apply(hidden, weight, targets, terms)
        return _PerToken.apply(hidden, weight, targets, terms)


class _Sum(torch.autograd.Function):
    """Gradients in the forward: the logits are formed once."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        terms: LossTerms,
    ) -> torch.Tensor:
        ones = torch.ones_like(targets, dtype=_wide(hidden))
        needed = ctx.needs_input_grad[:2]
        losses, d_hidden, d_weight = _run(hidden, weight, targets, terms, ones, needed)
        ctx.save_for_backward(d_hidden, d_weight)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        registry.refuse_second_derivative("linear_cross_entropy")
        # In the loss's precision: a factor rounded to bf16 would bend every element alike.
        d_hidden, d_weight = (
            None if saved is None else (saved.to(grads[0].dtype) * grads[0]).to(saved.dtype)
            for saved in ctx.saved_tensors
        )
        return d_hidden, d_weight, None, None


class _PerToken(torch.autograd.Function):
    """Gradients in the backward, where each token's weight is known."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        targets: torch.Tensor,
        terms: LossTerms,
    ) -> torch.Tensor:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.terms = terms
        return _run(hidden, weight, targets, terms, None, (False, False))[0]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        registry.refuse_second_derivative("linear_cross_entropy")
        hidden, weight, targets = ctx.saved_tensors
        needed = ctx.needs_input_grad[:2]
        _, d_hidden, d_weight = _run(hidden, weight, targets, ctx.terms, grads[0], needed)
        return d_hidden, d_weight, None, None


def _run(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    terms: LossTerms,
    d_losses: torch.Tensor | None,
    needed: tuple[bool, bool],
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Losses (tokens,), and the gradients of hidden and weight where needed for `d_losses`."""
    hidden, weight_dtype = hidden.detach(), weight.dtype
    weight = weight.detach().to(hidden.dtype)
    (tokens, _), vocab, wide = hidden.shape, weight.shape[0], _wide(hidden)
    losses = hidden.new_empty(tokens, dtype=wide)
    d_hidden = torch.empty_like(hidden) if needed[0] else None
    d_weight = torch.zeros_like(weight, dtype=wide) if needed[1] else None
    size = _chunk_size(hidden, vocab)
    buffer = hidden.new_empty(min(size, tokens), vocab, dtype=wide)
    product = buffer if hidden.dtype == wide else torch.empty_like(buffer, dtype=hidden.dtype)
    for start in range(0, tokens, size):
        chunk = slice(start, min(start + size, tokens))
        rows = slice(0, chunk.stop - start)
        torch.mm(hidden[chunk], weight.T, out=product[rows])
        logits = buffer[rows].copy_(product[rows]) if product is not buffer else buffer[rows]
        scale = d_losses[chunk] if d_losses is not None and any(needed) else None
        losses[chunk] = _losses_and_gradient(logits, targets[chunk], terms, scale)
        if scale is None:
            continue
        d_logits = product[rows].copy_(logits) if product is not buffer else logits
        if d_hidden is not None:
            torch.mm(d_logits, weight, out=d_hidden[chunk])
        if d_weight is not None and product is buffer:
            d_weight.addmm_(d_logits.T, hidden[chunk])
        elif d_weight is not None:
            d_weight += d_logits.T @ hidden[chunk]
    if terms.group is not None and d_hidden is not None:
        d_hidden = functional.all_reduce(d_hidden, "sum", terms.group)
    return losses, d_hidden, None if d_weight is None else d_weight.to(weight_dtype)


def _losses_and_gradient(
    logits: torch.Tensor, targets: torch.Tensor, terms: LossTerms, scale: torch.Tensor | None
) -> torch.Tensor:
    """Losses of a chunk; with `scale`, d loss / d loss of each token, leaves d logits in place."""
    slope = None
    if terms.softcap is not None:
        logits.div_(terms.softcap).tanh_()
        slope = 1 - logits.square() if scale is not None else None
        logits.mul_(terms.softcap)
    ignored = targets == terms.ignore_index
    if terms.group is None:
        owned, column = ~ignored, targets.masked_fill(ignored, 0)
    else:
        owned, column = own_columns(targets, ignored, logits.shape[1], terms.group)
    column = column.unsqueeze(1)
    picked = logits.gather(1, column).squeeze(1)
    if terms.group is not None:
        picked = functional.all_reduce(picked.masked_fill(~owned, 0), "sum", terms.group)
    top, lse = _softmax_in_place(logits, terms.group)
    if scale is not None:
        scale = scale.masked_fill(ignored, 0)
        logits.mul_((scale * (1 + 2 * terms.z_loss * (top + lse))).unsqueeze(1))
        logits.scatter_add_(1, column, -scale.masked_fill(~owned, 0).unsqueeze(1))
        if slope is not None:
            logits.mul_(slope)
    losses = (top - picked) + lse + terms.z_loss * (top + lse).square()
    return losses.masked_fill(ignored, 0)


def _softmax_in_place(
    logits: torch.Tensor, group: dist.ProcessGroup | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn logits into probabilities; returns each row's maximum and its lse above that."""
    if group is None:
        top, at = logits.max(1, keepdim=True)
        torch.softmax(logits, 1, out=logits)
        # The largest probability is at least 1 / vocab: its log is safe, and saves a pass.
        return top.squeeze(1), -logits.gather(1, at).log().squeeze(1)
    top = functional.all_reduce(logits.amax(1), "max", group)
    logits.sub_(top.unsqueeze(1)).exp_()
    total = functional.all_reduce(logits.sum(1), "sum", group)
    logits.div_(total.unsqueeze(1))
    return top, total.log()


def _wide(hidden: torch.Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)


def _chunk_size(hidden: torch.Tensor, vocab: int) -> int:
    fitting = CHUNK_BYTES.get(hidden.device.type, CHUNK_BYTES["cuda"]) // (4 * vocab)
    return max(64, fitting // 64 * 64)


registry.register("linear_cross_entropy", "reference", registry.Backend(reference))
registry.register("linear_cross_entropy", "torch", registry.Backend(_chunked))
