"""Ring attention (arXiv:2310.01889): keys and values go round the ranks while each attends to those
that it holds, and the partial results are merged by their log-sum-exp.

Shapes: B batch, T tokens of this rank, H query heads, K key/value heads, C head_dim. Memory beyond
the tensors given: twice (2, B, T, K, C), and out in float32. Sent per rank: in forward n - 1 times
k and v; in backward the same and n times their gradients, in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist

from megafm import ops
from megafm.parallel.collectives import Rotating, named_group
from megafm.parallel.zigzag import Block, blocks


def ring_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    window: int | None,
    ends: Sequence[int],
    group: dist.ProcessGroup,
) -> torch.Tensor:
    """Causal attention of this rank's queries to the keys of all ranks.

    Args:
        q: (B, T, H, C); k, v: (B, T, K, C): the two chunks of this rank, one after the other.
        window: as for `ops.attention`.
        ends: from 0, the ends of the documents in the sequence of all ranks; B = 1 if several.

    Returns:
        (B, T, H, C) in the dtype of q.
    """
    return cast(torch.Tensor, _ring(q, k, v, window, list(ends), group.group_name)[0])


def forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    window: int | None,
    ends: list[int],
    group_name: str,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What the op megafm::ring_attention does: out, and lse (B, H, T)."""
    group = named_group(group_name)
    wide = torch.promote_types(q.dtype, torch.float32)
    out = torch.zeros_like(q, dtype=wide)
    lse = out.new_full((q.shape[0], q.shape[2], q.shape[1]), -math.inf)  # (B, H, T)
    kv = torch.stack((k, v))
    for step in range(group.size()):
        last = step == group.size() - 1
        rotating = None if last else Rotating(kv, group)
        for block in _blocks_of_step(step, q, window, ends, group):
            part, part_lse = attention(block, q[:, block.queries], *kv[:, :, block.keys])
            _merge(out[:, block.queries], lse[:, :, block.queries], part, part_lse)
        if rotating is not None:
            kv = rotating.wait()
    return out.to(q.dtype), lse


def _backward(
    ctx: Any, d_out: torch.Tensor, d_lse: torch.Tensor
) -> tuple[torch.Tensor | None, ...]:
    """Gradients of k and v follow them round the ring, and in one more step come home."""
    q, k, v, out, lse = ctx.saved_tensors
    group = named_group(ctx.group_name)
    wide = lse.dtype
    d_q = torch.zeros_like(q, dtype=wide)
    kv = torch.stack((k, v))
    behind = None
    for step in range(group.size()):
        last = step == group.size() - 1
        rotating = None if last else Rotating(kv, group)
        d_kv = torch.zeros_like(kv, dtype=wide)
        for block in _blocks_of_step(step, q, ctx.window, ctx.ends, group):
            rows = block.queries
            part = d_out[:, rows], q[:, rows], *kv[:, :, block.keys], out[:, rows], lse[:, :, rows]
            gradients = attention_backward(block, *part)
            d_q[:, rows] += gradients[0]
            d_kv[0, :, block.keys] += gradients[1]
            d_kv[1, :, block.keys] += gradients[2]
        if behind is not None:
            d_kv += behind.wait()
        behind = Rotating(d_kv, group)
        if rotating is not None:
            kv = rotating.wait()
    assert behind is not None
    d_k, d_v = behind.wait().to(k.dtype)
    return d_q.to(q.dtype), d_k, d_v, None, None, None


def _blocks_of_step(
    step: int,
    q: torch.Tensor,
    window: int | None,
    ends: Sequence[int],
    group: dist.ProcessGroup,
) -> Iterator[Block]:
    rank, size = group.rank(), group.size()
    return blocks(rank, (rank - step) % size, size, q.shape[1] // 2, window, ends)


def attention(
    block: Block, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """out and lse of the queries of a block, of its keys and values alone."""
    if block.reverse:
        q, k, v = q.flip(1), k.flip(1), v.flip(1)
    options = _options(block, q.device)
    out, lse = cast(tuple[torch.Tensor, ...], ops.attention(q, k, v, return_lse=True, **options))
    return (out.flip(1), lse.flip(2)) if block.reverse else (out, lse)


def attention_backward(
    block: Block,
    d_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
) -> tuple[torch.Tensor, ...]:
    """Gradients of the queries, keys and values of a block; out and lse are of all keys."""
    if block.reverse:
        d_out, q, k, v, out = (x.flip(1) for x in (d_out, q, k, v, out))
        lse = lse.flip(2)
    options = _options(block, q.device)
    gradients = ops.attention_backward(d_out, q, k, v, out, lse.contiguous(), **options)
    return tuple(x.flip(1) for x in gradients) if block.reverse else gradients


def _options(block: Block, device: torch.device) -> dict[str, Any]:
    documents = block.documents
    cu_seqlens = (
        None if documents is None else torch.tensor(documents, dtype=torch.int32, device=device)
    )
    return {"causal": block.causal, "window": block.window, "cu_seqlens": cu_seqlens}


def _merge(
    out: torch.Tensor, lse: torch.Tensor, part: torch.Tensor, part_lse: torch.Tensor
) -> None:
    """Softmax over the keys seen so far and those of another block, in place.

    Every query of a block sees one of its keys: part_lse is finite; lse is -inf before the first.
    """
    share = torch.sigmoid(part_lse - lse)  # (B, H, queries): of the denominator
    out.lerp_(part.to(out.dtype), share.transpose(1, 2).unsqueeze(-1))
    torch.logaddexp(lse, part_lse, out=lse)


def _shapes(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *settings: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    lse_dtype = torch.promote_types(q.dtype, torch.float32)
    return torch.empty_like(q), q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=lse_dtype)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    q, k, v, ctx.window, ctx.ends, ctx.group_name = inputs
    ctx.save_for_backward(q, k, v, *output)


# An op of the dispatcher, so that activation checkpointing can keep its result as a whole.
_ring = torch.library.custom_op(
    "megafm::ring_attention",
    forward,
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, int? window, int[] ends, str group_name)"
    " -> (Tensor, Tensor)",
)
_ring.register_fake(_shapes)
_ring.register_autograd(_backward, setup_context=_save)
