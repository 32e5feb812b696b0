"""Stages are balanced; every schedule gives the gradients of one rank."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from megafm.parallel.mesh import ParallelConfig, build_mesh
from megafm.parallel.stages import SCHEDULES, balanced_split, cut_into_stages
from tests.parallel import test_parity as parity
from tests.parallel.layouts import SPLIT_BACKWARD, world_size
from tests.ranks import RankPool


@pytest.mark.parametrize(
    ("num_layers", "num_stages", "head_cost", "sizes"),
    [
        (5, 2, 0, [2, 3]),
        (5, 2, 1, [3, 2]),
        (7, 4, 0, [1, 2, 2, 2]),
        (7, 4, 3, [2, 2, 2, 1]),
        (4, 4, 9, [1, 1, 1, 1]),
        (32, 4, 2, [8, 8, 9, 7]),
    ],
)
def test_the_head_counts_as_layers_and_what_is_left_over_goes_late(
    num_layers: int, num_stages: int, head_cost: int, sizes: list[int]
) -> None:
    split = balanced_split([1] * num_layers, num_stages, head_cost)
    assert [len(layers) for layers in split] == sizes
    assert [n for layers in split for n in layers] == list(range(num_layers))


def test_layers_of_unequal_cost_are_split_by_cost() -> None:
    assert balanced_split([1, 1, 1, 3, 3], 3, 0) == [range(3), range(3, 4), range(4, 5)]


def test_each_schedule_has_its_stages_where_torch_expects_them() -> None:
    ranks = {
        name: [stage.rank for stage in cut_into_stages(name, 3, s.stages_per_rank, [1] * 7, 1)]
        for name, s in SCHEDULES.items()
    }
    there_and_back, round_and_round = [0, 1, 2, 2, 1, 0], [0, 1, 2, 0, 1, 2]
    assert ranks == {
        "1F1B": [0, 1, 2],
        "Interleaved1F1B": round_and_round,
        "InterleavedZeroBubble": round_and_round,
        "ZBVZeroBubble": there_and_back,
        "DualPipeV": there_and_back,
    }


# Five layers: no schedule has the same number in each stage. In float32 the ops have kernels with
# several outputs, which torch's split backward passes have got wrong.
CASES = {
    name: replace(parity.CASES[name], model=replace(parity.CASES[name].model, num_layers=5))
    for name in ("tied_fp32", "moe_fp64", "packed_fp64")
}
CASES["packed_fp64"] = replace(
    CASES["packed_fp64"], num_steps=20, recomputed=("selective", "none", "full")
)


PIPELINES = {
    schedule: ParallelConfig(pp=2, pipeline_schedule=schedule, dp_replicate=1)
    for schedule in SCHEDULES
}
LAYOUTS = {"one": ParallelConfig(dp_replicate=1), **PIPELINES, **SPLIT_BACKWARD}


@pytest.fixture(scope="module")
def outcomes(
    ranks: RankPool, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], list[parity.Outcome]]:
    """By layout and case, of every rank."""
    found = {}
    for names in (["one"], list(PIPELINES), list(SPLIT_BACKWARD)):
        folder = tmp_path_factory.mktemp("pipeline")
        by_rank = ranks.run(run_layouts, world_size(LAYOUTS[names[0]]), names, folder)
        found |= {key: [of_rank[key] for of_rank in by_rank] for key in by_rank[0]}
    return found


def run_layouts(names: list[str], folder: Path) -> dict[tuple[str, str], parity.Outcome]:
    """Every case in each of the layouts, which share this world."""
    found = {}
    with parity.world.process_group(torch.device("cpu"), timeout_s=60):
        for name in names:
            mesh = build_mesh(LAYOUTS[name], "cpu") if name != "one" else None
            for case in CASES:
                chosen = CASES[case]
                if name in SPLIT_BACKWARD:  # the curve of each schedule is that of PIPELINES
                    chosen = replace(chosen, num_steps=min(3, chosen.num_steps))
                found[name, case] = parity.run_case(chosen, LAYOUTS[name], mesh, folder)
    return found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [*PIPELINES, *SPLIT_BACKWARD])
def test_every_schedule_gives_the_gradients_and_losses_of_one_rank(
    name: str, case: str, outcomes: dict[tuple[str, str], list[parity.Outcome]]
) -> None:
    (one,), found = outcomes["one", case], outcomes[name, case]
    one = replace(one, losses=one.losses[: len(found[0].losses)])
    parity.check_gradients_and_losses(found, one, CASES[case])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_copies_of_a_tied_weight_have_the_same_gradient_bit_for_bit(
    schedule: str, outcomes: dict[tuple[str, str], list[parity.Outcome]]
) -> None:
    of_ranks = [outcome.gradients for outcome in outcomes[schedule, "moe_fp64"]]
    copies = [found["embedding.weight"] for found in of_ranks if "embedding.weight" in found]
    assert len(copies) == (1 if SCHEDULES[schedule].v_shaped else 2)
    assert all(torch.equal(copy, copies[0]) for copy in copies)
