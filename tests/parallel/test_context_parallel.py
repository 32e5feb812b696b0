"""Each way of attention over a part of the sequence against attention on one rank."""

from __future__ import annotations

import random
from dataclasses import dataclass
from unittest import mock

import pytest
import torch

from megafm import ops
from megafm.model import KVCache, ModelConfig, build
from megafm.parallel import ring_attention, world
from megafm.parallel.activation_checkpointing import checkpoint_activations
from megafm.parallel.collectives import Rotating
from megafm.parallel.context_parallel import Context, ContextParallel
from megafm.parallel.mesh import ParallelConfig, build_mesh
from megafm.parallel.zigzag import Block, blocks
from tests.ranks import RankPool

METHODS = ("ring", "all_gather", "ulysses")
T, HEADS, HEAD_DIM = 64, 4, 8
WITHIN = {torch.float64: 1e-14, torch.float32: 2e-6, torch.bfloat16: 8e-3}
REFERENCE = {"attention": "reference", "attention_backward": "reference"}


@dataclass(frozen=True)
class Case:
    """
    Attributes:
        ends: of packed documents.
    """

    kv_heads: int = 4
    batch: int = 1
    window: int | None = None
    ends: tuple[int, ...] | None = None


# A chunk is 8 tokens long on 4 ranks, 16 on 2.
CASES = {
    "plain": Case(batch=2),
    "grouped": Case(kv_heads=2, batch=2),
    "one_kv_head": Case(kv_heads=1),
    "itself_alone": Case(window=1),
    "short_window": Case(window=5, batch=2),
    "window_of_a_chunk": Case(window=8),
    "long_window": Case(window=29, kv_heads=2),
    "documents": Case(ends=(0, 3, 21, 22, 40, 64), kv_heads=2),
    "documents_of_chunks": Case(ends=(0, 8, 16, 48, 64)),
    "documents_and_window": Case(ends=(0, 1, 50, 64), window=11),
    "many_documents": Case(ends=(*range(0, 64, 3), 64), window=2),
}


def inputs(case: Case, dtype: torch.dtype) -> list[torch.Tensor]:
    """q, k, v and the gradient of out, of the whole sequence."""
    generator = torch.Generator().manual_seed(0)
    heads = (HEADS, case.kv_heads, case.kv_heads, HEADS)
    shapes = [(case.batch, T, num, HEAD_DIM) for num in heads]
    return [torch.randn(shape, generator=generator, dtype=dtype) for shape in shapes]


def attend(context: Context, case: Case, dtype: torch.dtype) -> list[torch.Tensor]:
    """out and the gradients of q, k and v on this rank's part."""
    *qkv, d_out = [context.part(x, 1) for x in inputs(case, dtype)]
    leaves = [x.requires_grad_() for x in qkv]
    cu_seqlens = None if case.ends is None else torch.tensor(case.ends, dtype=torch.int32)
    out = context.attention(*leaves, case.window, cu_seqlens)
    return [out.detach(), *torch.autograd.grad(out, leaves, d_out)]


def attend_in_parts(dtype: torch.dtype) -> dict[tuple[str, str], list[torch.Tensor]]:
    """By method and case, the whole of what the ranks have found."""
    found = {}
    with world.process_group(torch.device("cpu"), 60.0):
        mesh = build_mesh(ParallelConfig(dp_replicate=1, cp=world.world_size()), "cpu")
        with ops.use(**(REFERENCE if dtype == torch.float64 else {})):
            for method in METHODS:
                context = ContextParallel(mesh["cp"], method)
                for name, case in CASES.items():
                    parts = attend(context, case, dtype)
                    found[method, name] = [context.whole(x, 1) for x in parts]
    return found


@pytest.mark.parametrize("dtype", WITHIN)
@pytest.mark.parametrize("world_size", [2, 4])
def test_attention_and_its_gradients_are_those_of_one_rank(
    world_size: int, dtype: torch.dtype, ranks: RankPool
) -> None:
    by_rank = ranks.run(attend_in_parts, world_size, dtype)
    with ops.use(**REFERENCE):
        expected = {name: attend(Context(), case, dtype) for name, case in CASES.items()}
    for found in by_rank:
        for (method, name), tensors in found.items():
            for what, x, y in zip(("out", "dq", "dk", "dv"), tensors, expected[name], strict=True):
                error = (x - y).norm() / y.norm().clamp(min=1.0)  # dq of a window of 1 is 0
                assert error < WITHIN[dtype], f"{method}, {name}, {what}: {error:.1e}"


def test_blocks_cover_what_is_seen_once() -> None:
    """Whatever the ranks, windows and documents; every query of a block sees one of its keys."""
    rng = random.Random(0)
    for _ in range(100):
        size, length = rng.randint(2, 5), rng.randint(1, 6)
        total = 2 * size * length
        window = rng.choice([None, rng.randint(1, total)])
        ends = [0, *sorted(rng.sample(range(1, total), rng.randint(0, min(4, total - 1)))), total]
        document = torch.searchsorted(torch.tensor(ends), torch.arange(total), right=True)
        distance = torch.arange(total)[:, None] - torch.arange(total)
        seen = (distance >= 0) & (document[:, None] == document)
        seen &= distance < (window or total)
        covered = torch.zeros(total, total, dtype=torch.int64)
        for rank in range(size):
            for source in range(size):
                for block in blocks(rank, source, size, length, window, ends):
                    rows = positions(rank, size, length)[block.queries]
                    keys = positions(source, size, length)[block.keys]
                    mask = mask_of(block, len(rows), len(keys))
                    assert mask.any(1).all()
                    covered[rows[:, None], keys] += mask
        assert torch.equal(covered, seen.long())


def test_in_every_step_all_ranks_have_the_same_work() -> None:
    size, length = 4, 3
    for step in range(size):
        work = set()
        for rank in range(size):
            found = blocks(rank, (rank - step) % size, size, length, None, [0, 2 * size * length])
            masks = [mask_of(b, *(s.stop - s.start for s in (b.queries, b.keys))) for b in found]
            work.add(sum(int(mask.sum()) for mask in masks))
        assert work == {2 * length**2 + (length if step == 0 else 0)}


def positions(rank: int, size: int, length: int) -> torch.Tensor:
    """Of the tokens that a rank holds."""
    chunks = torch.arange(2 * size * length).view(2 * size, length)
    return torch.cat([chunks[rank], chunks[2 * size - 1 - rank]])


def mask_of(block: Block, num_rows: int, num_keys: int) -> torch.Tensor:
    """(num_rows, num_keys) bool: which keys have a share in the result of attention."""
    q, k = torch.zeros(1, num_rows, 1, 2), torch.zeros(1, num_keys, 1, 2)
    v = torch.eye(num_keys).view(1, num_keys, 1, num_keys)
    out, _ = ring_attention.attention(block, q, k, v)
    return out.view(num_rows, num_keys) > 0


def rotations(mode: str) -> int:
    """How often something goes round the ring in one training step."""
    with world.process_group(torch.device("cpu"), 60.0):
        model = build(MODEL, build_mesh(ParallelConfig(dp_replicate=1, cp=2), "cpu"))
        checkpoint_activations(model.blocks, (mode,))
        with mock.patch.object(ring_attention, "Rotating", wraps=Rotating) as rotating:
            model.loss(TOKENS, TOKENS).backward()
        return rotating.call_count


def test_selective_checkpointing_keeps_what_came_round_the_ring(ranks: RankPool) -> None:
    # each layer, on 2 ranks: keys and values in forward, again in backward, and twice gradients
    counts = {mode: ranks.run(rotations, 2, mode) for mode in ("none", "selective", "full")}
    assert counts == {"none": [2 * 4] * 2, "selective": [2 * 4] * 2, "full": [2 * 5] * 2}


MODEL = ModelConfig(
    vocab_size=64, dim=32, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=8, ffn_dim=48,
    max_seq_len=T,
)  # fmt: skip
TOKENS = torch.randint(64, (2, T), generator=torch.Generator().manual_seed(0))


def logits_and_refusals() -> tuple[torch.Tensor, list[str]]:
    with world.process_group(torch.device("cpu"), 60.0):
        model = build(MODEL, build_mesh(ParallelConfig(dp_replicate=1, cp=2, tp=2), "cpu"))
        refusals = []
        for tokens, cache in ((TOKENS[:, :5], None), (TOKENS[:, 8:16], filled_cache())):
            with pytest.raises(ValueError) as error:
                model(tokens, cache=cache)
            refusals.append(str(error.value))
        return model(TOKENS).detach(), refusals


def filled_cache() -> KVCache:
    """Of 8 tokens, as a rank of tp has it."""
    cache = KVCache(T)
    for layer in range(MODEL.num_layers):
        cache.append(layer, torch.zeros(2, 8, 1, 8), torch.zeros(2, 8, 1, 8))
    cache.advance(8)
    return cache


def test_every_rank_has_all_logits_in_order_and_refuses_what_it_cannot_do(ranks: RankPool) -> None:
    expected = build(MODEL)(TOKENS)
    for logits, (odd, cached) in ranks.run(logits_and_refusals, 4):
        assert (logits - expected).norm() < 1e-5 * expected.norm()
        assert "does not divide the 5 tokens" in odd and "set train.seq_len=8" in odd
        assert "KVCache" in cached and "set parallel.cp=1" in cached
