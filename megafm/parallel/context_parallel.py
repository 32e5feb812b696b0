"""Context parallelism: each rank of `cp` holds a part of every sequence.

Norms, linear layers and the loss work token by token, on the part; attention alone needs the keys
of others, in one of three ways:

    ring        keys and values go round the ranks while they are used     ring_attention.py
    all_gather  every rank gets all keys and values (Llama 3, arXiv:2407.21783)
    ulysses     all-to-all from parts of the tokens to parts of the heads, and back
                (arXiv:2309.14509)

Shapes: B batch, T tokens of a sequence, n ranks, H query heads, K key/value heads, C head_dim.
"""

from __future__ import annotations

from typing import cast

import torch
from torch.distributed.device_mesh import DeviceMesh

from megafm import ops
from megafm.ops.autocast import autocast_dtype
from megafm.parallel.collectives import all_gather, all_gather_whole, all_to_all, sum_parts
from megafm.parallel.ring_attention import ring_attention
from megafm.parallel.zigzag import by_rank, chunks_of, in_order


class Context:
    """The sequences of one rank that holds them whole."""

    def part(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """Of a tensor with all T tokens along `dim`, those that this rank holds."""
        return x

    def whole(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        """The reverse, on every rank, for a use that is the same on all ranks."""
        return x

    def total(self, loss: torch.Tensor) -> torch.Tensor:
        """The sum of what the ranks made of their parts."""
        return loss

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        window: int | None,
        cu_seqlens: torch.Tensor | None,
    ) -> torch.Tensor:
        """Causal attention over whole sequences: q (B, T/n, H, C), k and v (B, T/n, K, C) ->
        (B, T/n, H, C).

        Args:
            window, cu_seqlens: as for `ops.attention`; documents are those of whole sequences.
        """
        out = ops.attention(q, k, v, window=window, cu_seqlens=cu_seqlens)
        return cast(torch.Tensor, out)


class ContextParallel(Context):
    """The parts of one rank of `cp`: of 2n equal chunks of a sequence, r and 2n - 1 - r.

    Args:
        method: of attention: ring, all_gather or ulysses.
    """

    def __init__(self, cp: DeviceMesh, method: str) -> None:
        self.group = cp.get_group()
        self.rank, self.size = cp.get_local_rank(), cp.size()
        self.method = method
        self._cu_seqlens: torch.Tensor | None = None
        self._version = 0
        self._ends: list[int] = []

    def part(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        num_chunks = 2 * self.size
        if x.shape[dim] % num_chunks:
            raise ValueError(
                f"parallel.cp={self.size}: 2 x cp does not divide the {x.shape[dim]} tokens of a "
                f"sequence; set train.seq_len={-(-x.shape[dim] // num_chunks) * num_chunks}"
            )
        chunks = x.chunk(num_chunks, dim)
        return torch.cat([chunks[i] for i in chunks_of(self.rank, self.size)], dim)

    def whole(self, x: torch.Tensor, dim: int) -> torch.Tensor:
        return in_order(all_gather_whole(x, dim, self.group), dim, self.size)

    def total(self, loss: torch.Tensor) -> torch.Tensor:
        return sum_parts(loss, self.group)

    def attention(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        window: int | None,
        cu_seqlens: torch.Tensor | None,
    ) -> torch.Tensor:
        if q.shape[1] != k.shape[1]:
            raise ValueError(
                f"parallel.cp={self.size}: does not read from a KVCache; set parallel.cp=1"
            )
        dtype = autocast_dtype(q) or q.dtype  # what is sent is rounded for the matmuls anyway
        q, k, v = (x.to(dtype) for x in (q, k, v))
        if self.method == "ulysses":
            return self._ulysses(q, k, v, window, cu_seqlens)
        if self.method == "all_gather":
            return self._all_gather(q, k, v, window, cu_seqlens)
        num_tokens = q.shape[1] * self.size
        ends = [0, num_tokens] if cu_seqlens is None else self._on_host(cu_seqlens)
        return ring_attention(q, k, v, window=window, ends=ends, group=self.group)

    def _all_gather(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        window: int | None,
        cu_seqlens: torch.Tensor | None,
    ) -> torch.Tensor:
        kv = all_gather(torch.stack((k, v)), 2, self.group)
        k, v = in_order(kv, 2, self.size)  # (B, T, K, C)
        length = q.shape[1] // 2
        outs = []
        for chunk, queries in zip(chunks_of(self.rank, self.size), q.chunk(2, 1), strict=True):
            start, end = chunk * length, (chunk + 1) * length
            ends_q = ends_k = None
            if cu_seqlens is not None:
                ends_q, ends_k = cu_seqlens.clamp(start, end) - start, cu_seqlens.clamp(max=end)
            out = ops.attention(
                queries, k[:, :end], v[:, :end], window=window, cu_seqlens=ends_q,
                cu_seqlens_k=ends_k,
            )  # fmt: skip
            outs.append(cast(torch.Tensor, out))
        return torch.cat(outs, 1)

    def _ulysses(
        self,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        window: int | None,
        cu_seqlens: torch.Tensor | None,
    ) -> torch.Tensor:
        n = self.size
        if k.shape[2] < n:  # each to all ranks that have query heads of its group
            k, v = (x.repeat_interleave(n // x.shape[2], dim=2) for x in (k, v))
        heads = [x.unflatten(2, (n, -1)) for x in (q, k, v)]  # (B, T/n, n, heads/n, C)
        widths = [x.shape[3] for x in heads]
        mine = all_to_all(torch.cat(heads, 3).movedim(2, 0), self.group)
        mine = in_order(mine.movedim(0, 1).flatten(1, 2), 1, n)  # (B, T, heads/n, C)
        q, k, v = mine.split(widths, dim=2)
        out = cast(torch.Tensor, ops.attention(q, k, v, window=window, cu_seqlens=cu_seqlens))
        parts = by_rank(out, 1, n).unflatten(1, (n, -1))  # (B, n, T/n, H/n, C)
        return all_to_all(parts.movedim(1, 0), self.group).movedim(0, 2).flatten(2, 3)

    def _on_host(self, cu_seqlens: torch.Tensor) -> list[int]:
        """Its values, which are fetched once for all layers that get the same tensor."""
        if self._cu_seqlens is not cu_seqlens or self._version != cu_seqlens._version:
            self._cu_seqlens, self._version = cu_seqlens, cu_seqlens._version
            self._ends = cu_seqlens.tolist()
        return self._ends
