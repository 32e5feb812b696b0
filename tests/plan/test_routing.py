from __future__ import annotations

import torch

from megafm.parallel import world
from megafm.parallel.expert_parallel import at_experts, expert_mesh
from megafm.parallel.mesh import ParallelConfig, build_mesh
from megafm.plan.dry_run import fake_tensors
from megafm.plan.routing import evenly


def test_choices_go_round_the_experts() -> None:
    experts, counts = evenly(torch.zeros(5, 6), k=2)
    assert experts.tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3]]
    assert counts.tolist() == [2, 2, 2, 2, 1, 1]


def test_a_rank_gets_the_rows_of_its_experts_from_ranks_that_route_as_it_does() -> None:
    rows_here = []

    def compute(rows: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        rows_here.append((len(rows), counts.tolist()))
        return rows

    with world.fake_process_group(rank=1, world_size=2):
        parallel = ParallelConfig(dp_replicate=1, dp_shard=2, ep=2)
        mesh = expert_mesh(parallel, build_mesh(parallel, "cpu"))
        assert mesh is not None
        with fake_tensors():
            _, counts = evenly(torch.zeros(5, 6), k=2)
            returned = at_experts(compute, torch.zeros(10, 3), counts, mesh["ep"])
    assert rows_here == [(8, [4, 2, 2])]
    assert returned.shape == (10, 3)
