from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from megafm import ops
from megafm.model import ModelConfig, build
from megafm.train.config import OptimConfig
from megafm.train.optimizer import build_optimizer, clip_grad_norm, optimizer_tensors, set_lr
from tests.ranks import RankPool

CONFIG = ModelConfig(
    vocab_size=64, dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, ffn_dim=32
)


def gradients(model: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_matrices_decay_and_vectors_do_not() -> None:
    model = build(CONFIG)
    optimizer = build_optimizer(dict(model.named_parameters()), OptimConfig(weight_decay=0.5))
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        assert decay[id(parameter)] == (0.0 if "norm" in name else 0.5), name


def test_a_step_is_adamw_of_the_paper_in_float64() -> None:
    model = build(CONFIG)
    config = OptimConfig(lr=1e-2, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1)
    optimizer = build_optimizer(dict(model.named_parameters()), config)
    expected = {n: p.detach().double().clone() for n, p in model.named_parameters()}
    first = {n: torch.zeros_like(p) for n, p in expected.items()}
    second = {n: torch.zeros_like(p) for n, p in expected.items()}
    for step in (1, 2, 3):
        gradients(model)
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            grad = parameter.grad.double()
            first[name] = 0.8 * first[name] + 0.2 * grad
            second[name] = 0.9 * second[name] + 0.1 * grad**2
            update = first[name] / (1 - 0.8**step)
            update /= (second[name] / (1 - 0.9**step)).sqrt() + 1e-6
            decay = 0.1 if parameter.ndim >= 2 else 0.0
            expected[name] -= 1e-2 * (update + decay * expected[name])
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.double(), expected[name], atol=1e-6), name


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 1e9])
def test_clipping_scales_to_the_norm_and_reports_it_before(max_norm: float) -> None:
    model = build(CONFIG)
    gradients(model)
    flat = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    norm = clip_grad_norm(model, max_norm)
    assert norm.item() == pytest.approx(flat.double().norm().item(), rel=1e-5)
    after = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    expected = 0.5 if max_norm == 0.5 else norm.item()
    assert after.norm().item() == pytest.approx(expected, rel=1e-4)


def test_state_has_a_name_for_every_parameter_before_any_step() -> None:
    model = build(CONFIG)
    optimizer = build_optimizer(dict(model.named_parameters()), OptimConfig())
    tensors = optimizer_tensors(dict(model.named_parameters()), optimizer)
    names = [name for name, _ in model.named_parameters()]
    assert set(tensors) == {
        f"optimizer.{key}.{name}" for name in names for key in ("step", "exp_avg", "exp_avg_sq")
    }
    assert all(not value.any() for value in tensors.values())
    gradients(model)
    set_lr(optimizer, 1e-3)
    optimizer.step()
    after = optimizer_tensors(dict(model.named_parameters()), optimizer)
    assert all(after[name] is tensors[name] for name in tensors)
    assert after[f"optimizer.step.{names[0]}"] == 1


def test_a_16_bit_model_keeps_its_masters_through_the_checkpoints_names() -> None:
    model = build(CONFIG).to(torch.bfloat16)
    optimizer = build_optimizer(dict(model.named_parameters()), OptimConfig(lr=1e-2))
    before, _ = stepped(model, optimizer, seeds=range(2))
    resumed = build(CONFIG, seed=9).to(torch.bfloat16)
    other = build_optimizer(dict(resumed.named_parameters()), OptimConfig(lr=1e-2))
    for name, value in optimizer_tensors(dict(resumed.named_parameters()), other).items():
        value.copy_(before[name])
    resumed.load_state_dict(model.state_dict())
    ours, weights = stepped(model, optimizer, seeds=range(2, 4))
    theirs, resumed_weights = stepped(resumed, other, seeds=range(2, 4))
    assert any(name.startswith("optimizer.master.") for name in ours)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(torch.equal(weights[name], resumed_weights[name]) for name in weights)


def stepped(
    model: torch.nn.Module, optimizer: ops.AdamW, seeds: range
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Copies of the optimizer's tensors and of the parameters after a step for each seed."""
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = gradient.to(parameter.dtype)
        optimizer.step()
    tensors = optimizer_tensors(dict(model.named_parameters()), optimizer)
    return copy.deepcopy(tensors), copy.deepcopy(dict(model.named_parameters()))


class Uneven(torch.nn.Module):
    """Parameters of 3 and 1 rows for 2 ranks, and one that is not sharded."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.sharded = torch.nn.Linear(5, 3, dtype=dtype)
        self.small = torch.nn.Linear(4, 1, dtype=dtype)
        self.whole = torch.nn.Parameter(torch.randn(4, 2).to(dtype))


def train_uneven(
    dtype: torch.dtype, mesh_shape: tuple[int, ...]
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Gradient norms of clipped steps and the parameters after them, whole, from every rank."""
    model = Uneven(dtype)
    if mesh_shape:
        dist.init_process_group("gloo")
        names = ("dp_replicate", "dp_shard")[-len(mesh_shape) :]
        mesh = init_device_mesh("cpu", mesh_shape, mesh_dim_names=names)
        fully_shard(model.sharded, mesh=mesh)
        fully_shard(model.small, mesh=mesh)
    optimizer = ops.AdamW(model.parameters(), lr=1e-2)
    norms = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator).to(dtype)
            if isinstance(parameter, DTensor):
                gradient = distribute_tensor(gradient, parameter.device_mesh, parameter.placements)
            parameter.grad = gradient
        norms.append(clip_grad_norm(model, 1.0).item())
        optimizer.step()
    return norms, {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach()
        for name, p in model.named_parameters()
    }


@pytest.mark.parametrize(
    ("mesh_shape", "dtype"),
    [((2,), torch.float32), ((2,), torch.bfloat16), ((2, 1), torch.float32)],
)
def test_shards_step_and_clip_like_the_whole(
    ranks: RankPool, mesh_shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Sharded and whole parameters in one model; a rank may hold no row of one."""
    norms, whole = train_uneven(dtype, ())
    for rank_norms, parameters in ranks.run(train_uneven, 2, dtype, mesh_shape):
        assert rank_norms == pytest.approx(norms, rel=1e-6)
        for name, parameter in parameters.items():
            assert parameter.dtype == dtype
            torch.testing.assert_close(parameter, whole[name], rtol=1e-6, atol=1e-6)
