from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from megafm.parallel import world
from megafm.parallel.collectives import all_gather, reduce_scatter
from megafm.parallel.mesh import ParallelConfig, build_mesh
from megafm.parallel.ring_attention import ring_attention
from megafm.plan.dispatch import Opened
from megafm.plan.dry_run import fake_tensors
from megafm.plan.traffic import Moved, Traffic, axes_of


def test_each_collective_is_counted_on_its_axis() -> None:
    with world.fake_process_group(rank=5, world_size=8):
        mesh = build_mesh(ParallelConfig(dp_replicate=2, tp=4), "cpu")
        with fake_tensors(), Traffic(mesh) as traffic:
            x = torch.zeros(8, 4)  # 128 bytes
            all_gather(x, 0, mesh["tp"].get_group())
            reduce_scatter(x, 1, mesh["tp"].get_group())
            dist.all_reduce(x, group=mesh["dp_replicate"].get_group())
            dist.all_reduce(x)
            dist.all_reduce(x, group=mesh["cp"].get_group())  # of one rank: nothing moves
    assert traffic.moved == {
        ("tp", "all_gather"): Moved(calls=1, payload=128, sent=3 * 128),
        ("tp", "reduce_scatter"): Moved(calls=1, payload=128, sent=96),
        ("dp_replicate", "all_reduce"): Moved(calls=1, payload=128, sent=128),
        ("dp_replicate x tp", "all_reduce"): Moved(calls=1, payload=128, sent=224),
    }


def test_what_goes_round_a_ring_inside_an_op_of_ours_is_counted() -> None:
    with world.fake_process_group(rank=0, world_size=4):
        mesh = build_mesh(ParallelConfig(dp_replicate=1, cp=4), "cpu")
        with fake_tensors(), Traffic(mesh) as traffic, Opened():
            q = torch.zeros(1, 8, 2, 4)  # (batch, tokens, heads, head_dim), 256 bytes
            ring_attention(q, q, q, window=None, ends=[0, 32], group=mesh["cp"].get_group())
    keys_and_values = 3 * 2 * 256
    expected = Moved(calls=3, payload=keys_and_values, sent=keys_and_values)
    assert traffic.moved == {("cp", "all_to_all"): expected}


def test_a_collective_that_is_not_known_is_not_passed_over() -> None:
    with world.fake_process_group(rank=0, world_size=2):
        mesh = build_mesh(ParallelConfig(dp_replicate=2), "cpu")
        with fake_tensors(), Traffic(mesh), pytest.raises(NotImplementedError, match="reduce_"):
            dist.reduce(torch.zeros(2), dst=0)


@pytest.mark.parametrize(
    ("ranks", "axes"), [([0, 1], "tp"), ([1, 3], "dp_replicate"), ([0, 3], "dp_replicate x tp")]
)
def test_axes_of_a_group(ranks: list[int], axes: str) -> None:
    with world.fake_process_group(rank=0, world_size=4):
        mesh = build_mesh(ParallelConfig(dp_replicate=2, tp=2), "cpu")
        assert axes_of(ranks, mesh) == axes
