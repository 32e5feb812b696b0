from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.torch_version import TorchVersion

from megafm.model import ModelConfig, MoeConfig
from megafm.parallel.layout import check_micro_batches, resolve_layout
from megafm.parallel.mesh import ParallelConfig
from megafm.parallel.stages import SCHEDULES

MODEL = ModelConfig(num_heads=8, num_kv_heads=4, num_layers=6, vocab_size=512, ffn_dim=256)
SEQ_LEN = 64


def test_minus_one_takes_what_the_world_leaves() -> None:
    layout = resolve_layout(ParallelConfig(dp_replicate=-1, dp_shard=4), 16, MODEL, SEQ_LEN)
    assert (layout.dp_replicate, layout.dp_shard) == (4, 4)
    layout = resolve_layout(ParallelConfig(dp_replicate=1, dp_shard=-1), 6, MODEL, SEQ_LEN)
    assert (layout.dp_replicate, layout.dp_shard) == (1, 6)


@pytest.mark.parametrize(
    ("parallel", "world_size", "named"),
    [
        (ParallelConfig(tp=3), 3, ["parallel.tp=3", "model.num_heads=8", "set parallel.tp=2"]),
        (
            ParallelConfig(dp_shard=4),
            6,
            ["dp_shard=4", "has 6", "dp_shard=3 or parallel.dp_shard=6", "--nproc-per-node 4"],
        ),
        (
            ParallelConfig(dp_replicate=2, dp_shard=2),
            8,
            ["dp_replicate=2 x dp_shard=2", "has 8", "set parallel.dp_replicate=4, or parallel.dp"],
        ),
        (ParallelConfig(dp_replicate=1, tp=4), 6, ["tp=4", "has 6; start `torchrun --nproc-per"]),
        (ParallelConfig(tp=4), 6, ["tp=4: needs a multiple of 4", "set parallel.tp=2, or start"]),
        (ParallelConfig(dp_shard=2, zero=1, tp=2), 4, ["parallel.zero=1", "set parallel.zero=2"]),
        (ParallelConfig(cp=4), 6, ["cp=4: needs a multiple of 4", "set parallel.cp=2, or start"]),
        (ParallelConfig(cp=3), 3, ["parallel.cp=3", "seq_len=64", "cp=2 or train.seq_len=66"]),
        (ParallelConfig(cp=32, tp=4), 128, ["multiple of 128", "cp=16 or train.seq_len=128"]),
        (
            ParallelConfig(cp=4, tp=4, cp_attention="ulysses"),
            16,
            ["parallel.cp=4", "the 2 heads", "set parallel.cp=2 or parallel.cp_attention=ring"],
        ),
        (
            ParallelConfig(pp=8),
            8,
            [
                "parallel.pp=8: its 8 stages",
                "num_layers=6; set parallel.pp=6 or model.num_layers=8",
            ],
        ),
        (ParallelConfig(pp=4, pipeline_schedule="DualPipeV"), 4, ["8 stages", "parallel.pp=3 or"]),
        (ParallelConfig(pp=4), 6, ["pp=4: needs a multiple of 4", "set parallel.pp=3 or parallel"]),
        (
            ParallelConfig(pp=2, dp_replicate=1, dp_shard=2, zero=1),
            4,
            ["zero=1", "parallel.pp=2", "set parallel.zero=2"],
        ),
        (
            ParallelConfig(pp=2, dp_replicate=1, dp_shard=2, pipeline_schedule="ZBVZeroBubble"),
            4,
            ["zero=3: parallel.pipeline_schedule=ZBVZeroBubble", "zero=2 or", "Interleaved1F1B"],
        ),
        (ParallelConfig(zero=1), 2, ["zero=1", "dp_shard=1", "set parallel.dp_replicate=1"]),
        (ParallelConfig(tp=2, zero=1), 2, ["over parallel.dp_shard=1 ranks; set parallel.zero=3"]),
        (ParallelConfig(tp=2, zero=1), 4, ["over parallel.dp_shard=1 ranks; set parallel.zero=3"]),
        (ParallelConfig(dp_replicate=4), 1, ["dp_replicate=4", "has 1", "--nproc-per-node 4"]),
    ],
)
def test_a_layout_that_cannot_work_names_field_value_and_remedy(
    parallel: ParallelConfig, world_size: int, named: list[str]
) -> None:
    with pytest.raises(ValueError) as error:
        resolve_layout(parallel, world_size, MODEL, SEQ_LEN)
    for part in named:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("changed", "seq_len", "named"),
    [
        ({"ffn_dim": 260}, 64, ["model.ffn_dim=260", "set parallel.tp=4"]),
        ({"vocab_size": 509}, 64, ["model.vocab_size=509", "tp=1", "or model.vocab_size=512"]),
        ({}, 44, ["train.seq_len=44", "set parallel.tp=4 or train.seq_len=48"]),
        ({"num_heads": 24, "num_kv_heads": 3}, 64, ["nor is a multiple of model.num_kv_heads=3"]),
        ({"num_heads": 24, "num_kv_heads": 6}, 64, ["nor is a multiple of model.num_kv_heads=6"]),
        ({"num_kv_heads": 1, "head_dim": 36}, 64, ["num_kv_heads x model.head_dim=36", "tp=4"]),
    ],
)
def test_what_tp_does_not_divide_is_named(
    changed: dict[str, int], seq_len: int, named: list[str]
) -> None:
    model = dataclasses.replace(MODEL, **changed)
    with pytest.raises(ValueError, match="parallel.tp=8") as error:
        resolve_layout(ParallelConfig(tp=8), 8, model, seq_len)
    for part in named:
        assert part in str(error.value)


@pytest.mark.parametrize("num_kv_heads", [1, 2, 4, 8])
def test_tp_with_fewer_more_and_as_many_key_value_heads(num_kv_heads: int) -> None:
    model = dataclasses.replace(MODEL, num_kv_heads=num_kv_heads)
    for tp in (2, 4, 8):
        layout = resolve_layout(ParallelConfig(tp=tp), 8, model, SEQ_LEN)
        assert (layout.dp_replicate, layout.tp) == (8 // tp, tp)


@pytest.mark.parametrize(
    ("num_kv_heads", "works"),
    [(1, [2, 3, 4, 6, 8]), (2, [2, 4, 6, 8]), (3, [3, 6]), (8, [2, 4, 8])],
)
def test_ulysses_where_cp_divides_the_heads_and_fits_those_of_keys(
    num_kv_heads: int, works: list[int]
) -> None:
    model = dataclasses.replace(MODEL, num_heads=24, num_kv_heads=num_kv_heads)
    for cp in range(2, 9):
        parallel = ParallelConfig(cp=cp, cp_attention="ulysses")
        if cp in works:
            assert resolve_layout(parallel, cp, model, 2 * cp).cp == cp
        else:
            with pytest.raises(ValueError, match=f"parallel.cp={cp}: parallel.cp_attention=uly"):
                resolve_layout(parallel, cp, model, 2 * cp)


def test_a_way_of_attention_without_effect_warns() -> None:
    with pytest.warns(UserWarning, match="cp_attention=ulysses: no effect with parallel.cp=1"):
        resolve_layout(ParallelConfig(cp_attention="ulysses"), 1, MODEL, SEQ_LEN)


@pytest.mark.parametrize(
    ("parallel", "num_experts", "named"),
    [
        (ParallelConfig(dp_shard=2, ep=2), None, ["ep=2: model.moe=null has no", "parallel.ep=1"]),
        (ParallelConfig(dp_shard=4, ep=4), 6, ["model.moe.num_experts=6", "set parallel.ep=2"]),
        (ParallelConfig(dp_shard=4, ep=3), 6, ["ep=3", "x tp=4", "set parallel.ep=2"]),
        (ParallelConfig(ep=2), 8, ["x tp=1", "parallel.ep=1 or parallel.dp_replicate=1 para"]),
        (ParallelConfig(tp=2, ep=4), 8, ["x tp=2", "ep=2 or parallel.dp_replicate=1 parallel"]),
        (ParallelConfig(pp=2, ep=2), 8, ["x tp=1", "ep=1 or parallel.dp_replicate=1 parallel"]),
        (ParallelConfig(dp_shard=4, zero=1, ep=2), 8, ["zero=1", "ep=2", "set parallel.zero=2"]),
    ],
)  # fmt: skip
def test_an_ep_that_does_not_fit_names_what_works(
    parallel: ParallelConfig, num_experts: int | None, named: list[str]
) -> None:
    moe = None if num_experts is None else MoeConfig(num_experts=num_experts)
    with pytest.raises(ValueError) as error:
        resolve_layout(parallel, 4, dataclasses.replace(MODEL, moe=moe), SEQ_LEN)
    for part in named:
        assert part in str(error.value)


def test_experts_spread_over_the_ranks_of_dp_shard_and_tp() -> None:
    model = dataclasses.replace(MODEL, ffn_dim=1, moe=MoeConfig(num_dense_layers=0))
    layout = resolve_layout(
        ParallelConfig(dp_replicate=2, dp_shard=-1, tp=2, ep=4), 8, model, SEQ_LEN
    )
    assert (layout.dp_shard, layout.ep) == (2, 4)
    model = dataclasses.replace(model, moe=MoeConfig(num_shared_experts=1, ffn_dim=3))
    with pytest.raises(ValueError, match="parallel.tp=2: does not divide .*num_shared_experts x"):
        resolve_layout(ParallelConfig(tp=2), 8, model, SEQ_LEN)


@pytest.mark.parametrize(
    ("schedule", "num_samples", "size", "named"),
    [
        ("1F1B", 8, 8, ["makes 1 microbatches", "at least 4", "micro_batch_size=2 or"]),
        ("1F1B", 3, 1, ["makes 3 microbatches", "at least 4; set train.global_batch_size=8"]),
        ("Interleaved1F1B", 6, 1, ["a multiple of 4; set train.global_batch_size=16"]),
        (
            "ZBVZeroBubble",
            16,
            4,
            ["at least 8", "micro_batch_size=2 or train.global_batch_size=64"],
        ),
    ],
)
def test_microbatches_that_a_schedule_cannot_order_are_refused(
    schedule: str, num_samples: int, size: int, named: list[str]
) -> None:
    parallel = ParallelConfig(pp=4, dp_replicate=2, pipeline_schedule=schedule)
    with pytest.raises(ValueError, match=f"train.micro_batch_size={size}") as error:
        check_micro_batches(parallel, num_samples, size)
    for part in named:
        assert part in str(error.value)
    check_micro_batches(parallel, 32, 2)


def test_stages_per_rank_that_a_schedule_does_not_have_are_refused() -> None:
    for schedule, asked in (("1F1B", 2), ("DualPipeV", 3), ("Interleaved1F1B", 1), ("1F1B", 0)):
        with pytest.raises(ValueError, match=f"stages_per_rank={asked}: .*=?{schedule} has"):
            ParallelConfig(pp=2, pipeline_schedule=schedule, pipeline_stages_per_rank=asked)
    with pytest.raises(ValueError, match=r"pipeline_schedule=gpipe: set one of 1F1B, Inter"):
        ParallelConfig(pp=2, pipeline_schedule="gpipe")


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_that_split_the_backward_pass_need_a_torch_that_does_it_right(
    schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parallel = ParallelConfig(pp=2, pipeline_schedule=schedule)
    assert resolve_layout(parallel, 2, MODEL, SEQ_LEN).pp == 2
    monkeypatch.setattr(torch, "__version__", TorchVersion("2.11.0"))
    if SCHEDULES[schedule].splits_backward:
        with pytest.raises(ValueError, match=f"={schedule}: torch 2.11.0 .*set .*=Interleaved1F1B"):
            resolve_layout(parallel, 2, MODEL, SEQ_LEN)
    else:
        assert resolve_layout(parallel, 2, MODEL, SEQ_LEN).pp == 2


def test_a_schedule_without_a_pipeline_warns() -> None:
    parallel = ParallelConfig(pipeline_schedule="DualPipeV")
    with pytest.warns(UserWarning, match="pipeline_schedule=DualPipeV: no effect"):
        resolve_layout(parallel, 2, MODEL, SEQ_LEN)


@pytest.mark.parametrize(("zero", "world_size"), [(1, 1), (2, 1), (2, 2)])
def test_a_zero_without_ranks_to_shard_over_warns(zero: int, world_size: int) -> None:
    message = f"zero={zero}: no effect with parallel.dp_shard=1 and parallel.cp=1"
    with pytest.warns(UserWarning, match=message):
        resolve_layout(ParallelConfig(zero=zero), world_size, MODEL, SEQ_LEN)


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="parallel.cp=0"):
        ParallelConfig(cp=0)
    with pytest.raises(ValueError, match="parallel.timeout_s=0"):
        ParallelConfig(timeout_s=0)
    with pytest.raises(ValueError, match="only one of them"):
        ParallelConfig(dp_replicate=-1, dp_shard=-1)
