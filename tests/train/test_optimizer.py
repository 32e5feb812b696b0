from __future__ import annotations

import pytest
import torch

from megafm.model import ModelConfig, build
from megafm.train.config import OptimConfig
from megafm.train.optimizer import build_optimizer, clip_grad_norm, optimizer_tensors, set_lr

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
