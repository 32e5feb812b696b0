from __future__ import annotations

import pytest

from megafm.parallel.mesh import ParallelConfig, resolve_layout

MODEL = {"num_heads": 8, "num_kv_heads": 4, "num_layers": 6}


def test_minus_one_takes_what_the_world_leaves() -> None:
    layout = resolve_layout(ParallelConfig(dp_replicate=-1, dp_shard=4), 16, **MODEL)
    assert (layout.dp_replicate, layout.dp_shard) == (4, 4)
    layout = resolve_layout(ParallelConfig(dp_replicate=1, dp_shard=-1), 6, **MODEL)
    assert (layout.dp_replicate, layout.dp_shard) == (1, 6)


@pytest.mark.parametrize(
    ("parallel", "world_size", "named"),
    [
        (ParallelConfig(tp=3), 3, ["parallel.tp=3", "model.num_heads=8", "set parallel.tp=2"]),
        (ParallelConfig(pp=7), 7, ["parallel.pp=7", "model.num_layers=6"]),
        (ParallelConfig(dp_shard=4), 6, ["dp_shard=4", "has 6", "--nproc-per-node 4"]),
        (ParallelConfig(dp_replicate=2, dp_shard=2), 8, ["dp_replicate=2 x dp_shard=2", "has 8"]),
        (ParallelConfig(zero=1), 2, ["zero=1", "dp_shard=1", "set parallel.dp_replicate=1"]),
        (ParallelConfig(dp_replicate=4), 1, ["dp_replicate=4", "has 1", "--nproc-per-node 4"]),
    ],
)
def test_a_layout_that_cannot_work_names_field_value_and_remedy(
    parallel: ParallelConfig, world_size: int, named: list[str]
) -> None:
    with pytest.raises(ValueError) as error:
        resolve_layout(parallel, world_size, **MODEL)
    for part in named:
        assert part in str(error.value)


@pytest.mark.parametrize("axis", ["pp", "cp", "tp", "ep"])
def test_an_axis_that_is_not_built_yet_is_refused_not_ignored(axis: str) -> None:
    with pytest.raises(ValueError, match=f"parallel.{axis}=2: this axis is not in this version"):
        resolve_layout(ParallelConfig(**{axis: 2}), 2, **MODEL)


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="parallel.cp=0"):
        ParallelConfig(cp=0)
    with pytest.raises(ValueError, match="parallel.timeout_s=0"):
        ParallelConfig(timeout_s=0)
    with pytest.raises(ValueError, match="only one of them"):
        ParallelConfig(dp_replicate=-1, dp_shard=-1)
