"""Gradients are summed in float32; ZeRO-1 steps as one rank does and holds a share of the state."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from megafm import ops
from megafm.parallel import world
from megafm.parallel.data_parallel import data_parallel
from megafm.parallel.mesh import ParallelConfig, build_mesh
from megafm.parallel.zero1 import ShardedStep
from tests.ranks import RankPool

WORLD = 4
LAYOUTS = {
    "ddp": ParallelConfig(dp_replicate=4),
    "zero1": ParallelConfig(dp_replicate=1, dp_shard=4, zero=1),
    "fsdp": ParallelConfig(dp_replicate=1, dp_shard=4),
    "hsdp": ParallelConfig(dp_replicate=2, dp_shard=2),
}


class Scale(nn.Module):
    """The gradient of its weight is its input."""

    def __init__(self, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size, dtype=dtype))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.weight * x).sum()


def inputs(rank: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rank)
    return torch.randn(1000, generator=generator, dtype=torch.float64).to(dtype)


def reduced_gradient(layout: str, dtype: torch.dtype) -> torch.Tensor:
    with world.process_group(torch.device("cpu"), 60.0):
        module = Scale(1000, dtype)
        mesh = build_mesh(LAYOUTS[layout], "cpu")
        wrapped = data_parallel(module, [], mesh, LAYOUTS[layout], dtype)
        wrapped(inputs(world.rank(), dtype)).backward()
        gradient = module.weight.grad
        assert gradient is not None
        return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient.clone()


class Sometimes(nn.Module):
    """The loss of a rank depends on one of two weights, of the first on all."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList(Scale(3, torch.float32) for _ in range(3))

    def forward(self, x: torch.Tensor, part: int) -> torch.Tensor:
        return self.parts[0](x) + self.parts[part](x)


def gradients_of_sometimes() -> list[list[float]]:
    with world.process_group(torch.device("cpu"), 20.0):
        module = Sometimes()
        mesh = build_mesh(ParallelConfig(dp_replicate=2), "cpu")
        wrapped = data_parallel(module, [], mesh, ParallelConfig(dp_replicate=2), torch.float32)
        hook = module.parts[0].weight.register_hook(raises)  # after the other weight's gradient
        with pytest.raises(RuntimeError, match="on purpose"):
            wrapped(torch.ones(3), 1 + world.rank()).backward()
        hook.remove()
        module.zero_grad()
        wrapped(torch.ones(3), 1 + world.rank()).backward()
        return [parameter.grad.tolist() for parameter in module.parameters()]


def raises(gradient: torch.Tensor) -> None:
    raise RuntimeError("on purpose")


def test_a_weight_that_one_rank_does_not_use_and_a_pass_that_raised(ranks: RankPool) -> None:
    for found in ranks.run(gradients_of_sometimes, 2):
        assert found == [[2.0] * 3, [1.0] * 3, [1.0] * 3]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bf16_gradients_are_summed_in_float32_and_rounded_once(
    layout: str, ranks: RankPool
) -> None:
    each = [inputs(rank, torch.bfloat16) for rank in range(WORLD)]
    in_bf16 = each[0] + each[1] + each[2] + each[3]
    exact = torch.stack(each).double().sum(0)
    assert not torch.equal(in_bf16, exact.bfloat16()), "the inputs tell the two apart"
    for found in ranks.run(reduced_gradient, WORLD, layout, torch.bfloat16):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found, exact.bfloat16(), rtol=0, atol=0)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_float64_gradients_are_summed_in_float64(layout: str, ranks: RankPool) -> None:
    exact = torch.stack([inputs(rank, torch.float64) for rank in range(WORLD)]).sum(0)
    for found in ranks.run(reduced_gradient, WORLD, layout, torch.float64):
        assert (found - exact).norm() < 1e-14 * exact.norm()


class Two(nn.Module):
    """The gradient of what is registered last comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Parameter(torch.ones(1000)), nn.Parameter(torch.ones(300))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (self.first * x).sum() + (self.last * x[:300]).sum()


def gradients_of_steps(layout: str) -> list[torch.Tensor]:
    """Of three steps on the same input, that of the first parameter."""
    found = []
    with world.process_group(torch.device("cpu"), 60.0):
        module = Two()
        mesh = build_mesh(LAYOUTS[layout], "cpu")
        wrapped = data_parallel(module, [], mesh, LAYOUTS[layout], torch.float32)
        for _ in range(3):
            wrapped(inputs(world.rank(), torch.float32)).backward()
            gradient = module.first.grad
            assert gradient is not None
            found.append(gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient)
            module.zero_grad()
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_later_step_sums_in_the_order_of_the_first(layout: str, ranks: RankPool) -> None:
    """Else a run that was resumed, whose first step it is, has other bits than one that went on."""
    for first, *later in ranks.run(gradients_of_steps, WORLD, layout):
        assert all(torch.equal(first, gradient) for gradient in later)


SHAPES = {"even": (8, 3), "uneven": (7, 5), "few_rows": (2, 4), "vector": (9,)}


def some_parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64))
        for name, shape in SHAPES.items()
    }


def take_steps(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    for step in range(3):
        for seed, parameter in enumerate(parameters.values()):
            generator = torch.Generator().manual_seed(10 * step + seed)
            parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        optimizer.step()


def zero1_steps() -> tuple[dict[str, torch.Tensor], int, bool]:
    """The parameters after some steps, the elements of state that this rank holds, and whether a
    gradient is still kept by the shards."""
    with world.process_group(torch.device("cpu"), 60.0):
        parameters = some_parameters()
        mesh = build_mesh(LAYOUTS["zero1"], "cpu")
        sharded = ShardedStep(parameters, mesh["dp_shard"])
        optimizer = ops.AdamW(sharded.shards.values(), lr=0.1)
        sharded.attach(optimizer)
        take_steps(parameters, optimizer)
        held = sum(
            state["exp_avg"].to_local().numel() for state in optimizer.state.values() if state
        )
        kept = any(shard.grad is not None for shard in sharded.shards.values())
        return {name: p.detach() for name, p in parameters.items()}, held, kept


def test_zero1_steps_as_one_rank_does_and_each_rank_holds_its_rows(ranks: RankPool) -> None:
    expected = some_parameters()
    take_steps(expected, ops.AdamW(expected.values(), lr=0.1))
    answers = ranks.run(zero1_steps, WORLD)
    for found, _, kept in answers:
        assert not kept
        for name, parameter in expected.items():
            error = (found[name] - parameter).norm() / parameter.norm()
            assert error < 1e-14, name
            assert torch.equal(found[name], answers[0][0][name]), "every rank has the same bits"
    # rows of rank 0: 2 of 8, 2 of 7, 1 of 2, 3 of 9; the last rank has 2, 1, 0 and 0
    assert [held for _, held, _ in answers] == [6 + 10 + 4 + 3, 6 + 10 + 4 + 3, 6 + 10 + 3, 6 + 5]
