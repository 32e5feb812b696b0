"""Muon: what Newton-Schulz does to singular values, its step, and that a layout changes nothing."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from megafm.model import ModelConfig, build
from megafm.parallel import world
from megafm.parallel.mesh import ParallelConfig, build_mesh
from megafm.parallel.zero1 import ShardedStep
from megafm.train.config import OptimConfig
from megafm.train.loop import train
from megafm.train.muon import COEFFICIENTS, ROUNDS, Muon, orthogonalized
from megafm.train.optimizer import build_optimizer, optimizer_tensors
from tests.corpus import train_job
from tests.parallel.test_data_parallel import some_parameters, take_steps
from tests.ranks import RankPool
from tests.train.test_loop import LAYOUTS, curve, with_train
from tests.train.test_reshard import assert_same, state_and_copy

CONFIG = ModelConfig(
    vocab_size=64, dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, ffn_dim=32,
    tie_embeddings=False,
)  # fmt: skip
MUON = OptimConfig(name="muon", lr=3e-3)


def random(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("shape", [(32, 32), (24, 80), (80, 24), (1, 16), (16, 1)])
def test_singular_vectors_stay_and_singular_values_follow_the_quintic(
    shape: tuple[int, int],
) -> None:
    matrix = random(*shape)
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    a, b, c = COEFFICIENTS
    s = s / s.norm()
    for _ in range(ROUNDS):
        s = a * s + b * s**3 + c * s**5
    torch.testing.assert_close(orthogonalized(matrix), u * s @ vt, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_is_near_the_orthogonal_factor(dtype: torch.dtype) -> None:
    u, _, vt = torch.linalg.svd(random(48, 96), full_matrices=False)
    matrix = u * torch.logspace(-1.5, 1, 48, dtype=torch.float64) @ vt  # condition number 316
    found = orthogonalized(matrix.to(dtype))
    assert found.dtype == dtype
    values = torch.linalg.svdvals(found.double())
    assert values.min() > 0.65 and values.max() < 1.22
    exact = u @ vt
    assert (found.double() - exact).norm() / exact.norm() < 0.3


@pytest.mark.parametrize("shape", [(3, 6, 10), (3, 10, 6)])
def test_experts_are_orthogonalized_one_by_one_and_step_as_matrices_do(shape) -> None:
    batch = random(*shape) * torch.tensor([1.0, 100.0, 0.01], dtype=torch.float64)[:, None, None]
    one_by_one = torch.stack([orthogonalized(matrix) for matrix in batch])
    torch.testing.assert_close(orthogonalized(batch), one_by_one, rtol=1e-12, atol=1e-12)
    x = torch.nn.Parameter(torch.zeros_like(batch))
    x.grad = batch
    Muon([{"params": [x], "momentum": 0.9}], lr=0.1).step()
    torch.testing.assert_close(x.detach(), -0.1 * 0.2 * math.sqrt(10) * one_by_one)


def test_a_zero_gradient_moves_nothing() -> None:
    assert torch.equal(orthogonalized(torch.zeros(4, 6)), torch.zeros(4, 6))


def test_steps_are_those_of_the_formula() -> None:
    x = torch.nn.Parameter(random(6, 10))
    optimizer = Muon([{"params": [x], "momentum": 0.9}], lr=0.1, weight_decay=0.5)
    expected, momentum = x.detach().clone(), torch.zeros(6, 10, dtype=torch.float64)
    for step in range(3):
        grad = random(6, 10) * (step + 1)
        x.grad = grad.clone()
        optimizer.step()
        momentum = 0.9 * momentum + grad
        update = orthogonalized(grad + 0.9 * momentum)
        expected -= 0.1 * 0.5 * expected + 0.1 * 0.2 * math.sqrt(10) * update
        assert torch.equal(x.grad, grad)
    torch.testing.assert_close(x.detach(), expected, rtol=1e-13, atol=1e-13)


def test_matrices_inside_the_layers_have_momentum_and_the_rest_moments() -> None:
    parameters = dict(build(CONFIG).named_parameters())
    tensors = optimizer_tensors(parameters, build_optimizer(parameters, MUON))
    for name, parameter in parameters.items():
        by_muon = parameter.ndim == 2 and name.startswith("blocks.")
        assert (f"optimizer.momentum.{name}" in tensors) == by_muon, name
        assert (f"optimizer.exp_avg_sq.{name}" in tensors) == (not by_muon), name


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="optim.momentum=1"):
        OptimConfig(momentum=1.0)
    with pytest.raises(ValueError, match="momentum=-1"):
        Muon([{"params": [torch.zeros(2, 2)], "momentum": -1.0}])
    with pytest.raises(ValueError, match="no matrix; put it in a group with momentum=0"):
        Muon([{"params": [torch.zeros(2)], "momentum": 0.9}])


WORLD = 3


def sharded_steps() -> dict[str, torch.Tensor]:
    """Whole parameters after three steps of ZeRO-1's shards, uneven ones, in float64."""
    with world.process_group(torch.device("cpu"), 60.0):
        parallel = ParallelConfig(dp_replicate=1, dp_shard=WORLD, zero=1)
        parameters = some_parameters()
        sharded = ShardedStep(parameters, build_mesh(parallel, "cpu")["dp_shard"])
        optimizer = muon_over(sharded.shards)
        sharded.attach(optimizer)
        take_steps(parameters, optimizer)
        return {name: p.detach() for name, p in parameters.items()}


def muon_over(parameters: dict[str, torch.nn.Parameter]) -> Muon:
    matrices = [p for p in parameters.values() if p.ndim == 2]
    vectors = [p for p in parameters.values() if p.ndim == 1]
    return Muon([{"params": matrices, "momentum": 0.9}, {"params": vectors}], lr=0.1)


def test_shards_of_any_size_step_as_the_whole_matrix_does(ranks: RankPool) -> None:
    expected = some_parameters()
    take_steps(expected, muon_over(expected))
    for found in ranks.run(sharded_steps, WORLD):
        for name, parameter in expected.items():
            error = (found[name] - parameter).norm() / parameter.norm()
            assert error < 1e-13, f"{name}: {error:.1e}"


@pytest.mark.parametrize("layout", ["ddp2", "zero1", "fsdp2", "hsdp2x2"])
def test_a_layout_trains_like_one_rank_and_its_state_is_read_by_one(
    layout: str, corpus: Path, tmp_path: Path, ranks: RankPool
) -> None:
    world_size, parallel = LAYOUTS[layout]
    one = with_train(train_job(corpus, tmp_path / "one", optim=MUON), steps=4)
    many = dataclasses.replace(one, run=dataclasses.replace(one.run, dir=str(tmp_path / "many")))
    train(one)
    ranks.run(train, world_size, dataclasses.replace(many, parallel=parallel))
    for expected, found in zip(curve(tmp_path / "one"), curve(tmp_path / "many"), strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    state = state_and_copy(many, tmp_path / "copy")
    assert any(name.startswith("optimizer.momentum.") for name in state)
    resharded = dataclasses.replace(many, parallel=parallel)
    for found in ranks.run(state_and_copy, world_size, resharded, tmp_path / "again"):
        assert_same(found, state)
