"""The dry run of a rank against the same rank at work: its memory and what it communicates."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from megafm.model import ModelConfig, MoeConfig, num_parameters
from megafm.parallel import world
from megafm.parallel.mesh import ParallelConfig, build_mesh
from megafm.plan.dry_run import dry_run
from megafm.plan.step import Observed, observe_step
from megafm.train.config import OptimConfig, TrainConfig, TrainJob
from tests.parallel.layouts import LAYOUTS, world_size
from tests.ranks import RankPool

MODEL = ModelConfig(
    vocab_size=64,
    dim=32,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=8,
    ffn_dim=48,
    max_seq_len=64,
)
PLAIN = TrainConfig(seq_len=64, global_batch_size=8, micro_batch_size=2, precision="fp32")
RECOMPUTED = dataclasses.replace(PLAIN, activation_checkpointing=("full", "none", "selective"))
# A microbatch of 2 x 64 tokens makes 256 choices: the first four experts get 43 each, two get 42.
EXPERTS = MoeConfig(num_experts=6, ffn_dim=16, num_shared_experts=1, num_dense_layers=1)
MOE = dataclasses.replace(MODEL, moe=EXPERTS)
CPU = torch.device("cpu")

# By layout: what a step works on, so that each shows another part of training too.
JOBS = {
    "one": TrainJob(model=MODEL, train=RECOMPUTED),
    "ddp2": TrainJob(model=MODEL, train=PLAIN, optim=OptimConfig(name="muon")),
    "zero1_2": TrainJob(model=MODEL, train=dataclasses.replace(PLAIN, precision="bf16")),
    "fsdp2": TrainJob(model=dataclasses.replace(MODEL, tie_embeddings=False), train=PLAIN),
    "tp2": TrainJob(model=dataclasses.replace(MODEL, qk_norm=True), train=PLAIN),
    "pp2": TrainJob(model=MODEL, train=PLAIN),
    "pp2_fsdp2_ep2": TrainJob(model=MOE, train=RECOMPUTED),
    "cp2": TrainJob(model=MODEL, train=RECOMPUTED),
    "hsdp2_cp2": TrainJob(model=MODEL, train=PLAIN),
    "zero2_tp2": TrainJob(model=MODEL, train=RECOMPUTED),
    "fsdp2_ep2": TrainJob(model=MOE, train=RECOMPUTED),
    "fsdp4_ep2": TrainJob(model=MOE, train=dataclasses.replace(PLAIN, precision="bf16")),
}


@pytest.fixture(scope="module")
def real(ranks: RankPool) -> dict[str, list[Observed]]:
    """By layout, of every rank of a gloo world."""
    found: dict[str, list[Observed]] = {}
    for size in sorted({world_size(LAYOUTS[name]) for name in JOBS}):
        layouts = [name for name in JOBS if world_size(LAYOUTS[name]) == size]
        by_rank = ranks.run(observe_all, size, layouts)
        found |= {name: [observed[name] for observed in by_rank] for name in layouts}
    return found


def observe_all(layouts: list[str]) -> dict[str, Observed]:
    """The steps of this rank in each of `layouts`, which share this world."""
    found = {}
    with world.process_group(CPU, timeout_s=60):
        for name in layouts:
            mesh = build_mesh(LAYOUTS[name], "cpu") if world.world_size() > 1 else None
            found[name] = observe_step(JOBS[name], LAYOUTS[name], mesh, seed=0, **on_cpu(name))
    return found


def on_cpu(name: str) -> dict:
    bf16 = JOBS[name].train.precision == "bf16"
    return {"device": CPU, "precision": torch.bfloat16 if bf16 else torch.float32}


def rehearse(name: str, rank: int) -> Observed:
    parallel = LAYOUTS[name]
    return dry_run(JOBS[name], parallel, rank, world_size(parallel), **on_cpu(name))


@pytest.mark.parametrize("name", JOBS)
def test_a_rank_needs_and_moves_what_its_dry_run_says(
    name: str, real: dict[str, list[Observed]]
) -> None:
    last = len(real[name]) - 1
    for rank in {0, last}:  # those between have, along each axis, the place of one of them
        planned, observed = rehearse(name, rank), real[name][rank]
        for category in ("parameters", "optimizer", "gradients"):
            assert planned.most[category] == observed.most[category] > 0, category
        assert planned.peak == pytest.approx(observed.peak, rel=0.1)
        assert planned.most["activations"] == pytest.approx(observed.most["activations"], rel=0.1)
        assert planned.moved == observed.moved


def test_the_rows_that_travel_to_experts_and_back() -> None:
    for rank in range(2):
        sent = 256  # rows; the first of two ranks has experts 0 to 2, to which both send 3 x 43
        received = 2 * (3 * 43 if rank == 0 else 43 + 2 * 42)
        counts, row = 8 * EXPERTS.num_experts, 2 * MODEL.dim  # bytes, of int64 and of bf16
        layer = counts + 2 * (sent + received) * row  # there and back, and so do gradients
        moved = rehearse("fsdp4_ep2", rank).moved["dp_shard", "all_to_all"]
        assert (moved.calls, moved.payload) == (2 * 5, 2 * layer)


def test_the_bytes_of_a_model_on_one_rank(real: dict[str, list[Observed]]) -> None:
    (observed,) = real["one"]
    num_tensors = 2 + 9 * MODEL.num_layers  # AdamW counts the steps of each, in float32
    assert observed.most["parameters"] == observed.most["gradients"] == 4 * num_parameters(MODEL)
    assert observed.most["optimizer"] == 8 * num_parameters(MODEL) + 4 * num_tensors


def test_a_rank_of_a_large_world_is_set_up_quickly() -> None:
    parallel = ParallelConfig(dp_replicate=8, dp_shard=16, tp=4)
    job = TrainJob(model=MODEL, train=dataclasses.replace(PLAIN, global_batch_size=256))
    first, last = (
        dry_run(job, parallel, rank, 512, device=CPU, precision=torch.float32) for rank in (0, 511)
    )
    assert first.moved == last.moved
    assert {axis for axis, _ in first.moved} == {
        "tp",
        "dp_shard",
        "dp_replicate",
        "dp_replicate x dp_shard x tp",
    }
    for state in ("parameters", "optimizer"):
        assert first.most[state] >= last.most[state] > 0


def test_experts_that_are_fewer_than_their_ranks_are_shared_evenly() -> None:
    parallel = ParallelConfig(dp_replicate=1, dp_shard=16, ep=2)  # 3 experts for 8 ranks
    job = TrainJob(model=MOE, train=dataclasses.replace(PLAIN, global_batch_size=32))
    first, last = (
        dry_run(job, parallel, rank, 16, device=CPU, precision=torch.float32) for rank in (0, 15)
    )
    row = 8 * MODEL.dim  # of a router, which the first ranks alone have
    assert first.most["optimizer"] - last.most["optimizer"] == 2 * row
