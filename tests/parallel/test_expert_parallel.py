"""Rows travel to the rank of their expert and back, and their gradients with them."""

from __future__ import annotations

import pytest
import torch

from megafm.parallel import world
from megafm.parallel.expert_parallel import at_experts, expert_mesh
from megafm.parallel.mesh import ParallelConfig, build_mesh
from tests.ranks import RankPool

# By rank, the rows of each of 4 experts: of all, of one rank's experts alone, of one, of none.
COUNTS = {
    "uneven": ([3, 0, 1, 2], [0, 5, 1, 0]),
    "one_rank_has_no_work": ([0, 0, 2, 3], [0, 0, 4, 1]),
    "one_expert": ([0, 7, 0, 0], [0, 0, 0, 0]),
    "nothing": ([0, 0, 0, 0], [0, 0, 0, 0]),
}
WEIGHT = torch.arange(1, 5, dtype=torch.float64)  # of an expert, which multiplies with it


def rows_of(counts: list[int], rank: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(sum(counts), 3, generator=generator, dtype=torch.float64)


def travel() -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """By case: results, gradients of the rows and of this rank's experts, of sum(result ** 2)."""
    found = {}
    with world.process_group(torch.device("cpu"), 60.0):
        parallel = ParallelConfig(dp_replicate=1, dp_shard=2, ep=2)
        mesh = expert_mesh(parallel, build_mesh(parallel, "cpu"))
        assert mesh is not None
        for name, by_rank in COUNTS.items():
            counts = by_rank[world.rank()]
            rows = rows_of(counts, world.rank()).requires_grad_()
            mine = WEIGHT.chunk(2)[world.rank()].clone().requires_grad_()

            def compute(
                rows: torch.Tensor, counts: torch.Tensor, mine: torch.Tensor = mine
            ) -> torch.Tensor:
                return rows * mine.repeat_interleave(counts)[:, None]

            out = at_experts(compute, rows, torch.tensor(counts), mesh["ep"])
            gradients = torch.autograd.grad(out.square().sum(), (rows, mine))
            found[name] = out.detach(), *gradients
    return found


@pytest.fixture(scope="module")
def by_rank(ranks: RankPool) -> list[dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]:
    return ranks.run(travel, 2)


@pytest.mark.parametrize("name", COUNTS)
def test_every_row_meets_its_expert_and_returns_to_its_place(name: str, by_rank) -> None:
    d_weight = torch.zeros(4, dtype=torch.float64)
    for rank, counts in enumerate(COUNTS[name]):
        rows, expert = (
            rows_of(counts, rank),
            torch.arange(4).repeat_interleave(torch.tensor(counts)),
        )
        weight = WEIGHT[expert][:, None]
        out, d_rows, _ = by_rank[rank][name]
        torch.testing.assert_close(out, rows * weight)
        torch.testing.assert_close(d_rows, 2 * rows * weight**2)
        d_weight.index_add_(0, expert, (2 * rows**2 * weight).sum(1))
    found = torch.cat([outcome[name][2] for outcome in by_rank])
    torch.testing.assert_close(found, d_weight)
