from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch

from megafm import ops
from tests.ops.adamw_cases import (
    BETA1,
    BETA2,
    EPS,
    LR,
    WEIGHT_DECAY,
    assert_steps_hold_the_error_rule,
    paper,
)

BF16 = torch.bfloat16


def parameters(*shapes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    made = [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
    return [torch.nn.Parameter(x) for x in made]


def set_gradients(params: list[torch.Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in params:
        parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)


def train(optimizer: torch.optim.Optimizer, params: list[torch.Tensor], seeds: range) -> None:
    for seed in seeds:
        set_gradients(params, seed)
        optimizer.step()


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize(
    ("dtype", "master"),
    [
        (torch.float32, False),
        (BF16, False),
        (BF16, True),
        (torch.float16, True),
    ],
)
def test_many_steps_hold_the_error_rule(backend: str, dtype: torch.dtype, master: bool) -> None:
    with ops.use(adamw=backend):
        assert_steps_hold_the_error_rule(dtype, master, torch.device("cpu"), num_steps=50)


@pytest.mark.parametrize("backend", ["reference", "torch"])
def test_in_float64_it_is_the_paper(backend: str) -> None:
    start, params = parameters((9, 4), dtype=torch.float64), parameters((9, 4), dtype=torch.float64)
    options = {"lr": LR, "betas": (BETA1, BETA2), "eps": EPS, "weight_decay": WEIGHT_DECAY}
    gradients = []
    with ops.use(adamw=backend):
        optimizer = ops.AdamW(params, **options)
        for seed in range(20):
            train(optimizer, params, range(seed, seed + 1))
            gradients.append(params[0].grad)
    expected, _, _ = paper(start[0].detach(), gradients)
    torch.testing.assert_close(params[0].detach(), expected, rtol=1e-13, atol=1e-14)


def test_on_the_cpu_it_is_torchs_fused_kernel_bit_for_bit() -> None:
    ours, theirs = parameters((7, 5), (3,), (40_000,)), parameters((7, 5), (3,), (40_000,))
    options: dict[str, Any] = {"lr": 1e-2, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}
    train(ops.AdamW(ours, **options), ours, range(5))
    train(torch.optim.AdamW(theirs, **options, fused=True), theirs, range(5))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("form", ["tensors", "names", "groups", "named groups"])
def test_takes_parameters_in_every_form(form: str) -> None:
    layer = torch.nn.Linear(3, 2)
    named = list(layer.named_parameters())
    params = {
        "tensors": layer.parameters(),
        "names": iter(named),
        "groups": [{"params": layer.parameters(), "lr": 0.5}],
        "named groups": [{"params": named}],
    }[form]
    assert len(ops.AdamW(params).param_groups[0]["params"]) == 2


def test_groups_have_their_own_numbers() -> None:
    alone, grouped = parameters((4, 3), (5,)), parameters((4, 3), (5,))
    slow, fast = {"lr": 1e-3, "weight_decay": 0.5}, {"lr": 1e-1, "weight_decay": 0.0}
    both = ops.AdamW([{"params": grouped[:1], **slow}, {"params": grouped[1:], **fast}])
    train(both, grouped, range(3))
    one, other = ops.AdamW(alone[:1], **slow), ops.AdamW(alone[1:], **fast)
    for seed in range(3):
        set_gradients(alone, seed)
        one.step()
        other.step()
    assert all(torch.equal(a, b) for a, b in zip(grouped, alone, strict=True))


def test_a_parameter_without_a_gradient_stays_and_counts_no_step() -> None:
    params, alone = parameters((4,), (4,)), parameters((4,), (4,))
    optimizer = ops.AdamW(params, lr=0.1)
    train(optimizer, params[:1], range(2))
    assert torch.equal(params[1], alone[1]) and not optimizer.state[params[1]]
    params[0].grad = None
    train(optimizer, params[1:], range(2))
    assert [int(optimizer.state[p]["step"]) for p in params] == [2, 2]
    train(ops.AdamW(alone[1:], lr=0.1), alone[1:], range(2))
    assert torch.equal(params[1], alone[1])


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_how_a_tensor_lies_in_memory_changes_no_bit(dtype: torch.dtype) -> None:
    """torch's fused kernel on a CPU pairs elements by address: wrong for a transposed parameter."""
    straight = parameters((6, 4), (6, 4), (8,), dtype=dtype)
    transposed = straight[0].detach().t().contiguous().t()
    sliced = torch.zeros(6, 9, dtype=dtype)[:, ::2][:, :4].copy_(straight[1].detach())
    strided = [torch.nn.Parameter(x) for x in (transposed, sliced, straight[2].detach().clone())]
    a, b = ops.AdamW(straight, lr=0.1), ops.AdamW(strided, lr=0.1)
    for seed in range(3):
        set_gradients(straight, seed)
        for one, other in zip(straight, strided, strict=True):
            assert one.grad is not None
            other.grad = one.grad.clone()
        shared = torch.tensor([0.5 * seed], dtype=dtype).expand(8)
        straight[2].grad, strided[2].grad = shared.clone(), shared
        a.step()
        b.step()
    assert all(torch.equal(x, y) for x, y in zip(straight, strided, strict=True))
    assert not strided[0].is_contiguous() and not strided[1].is_contiguous()


def test_dtypes_mix_in_one_group() -> None:
    params = [*parameters((4, 3), (0, 3)), *parameters((5,), (1,), dtype=BF16)]
    before = [p.detach().clone() for p in params]
    optimizer = ops.AdamW(params, lr=0.1)
    train(optimizer, params, range(2))
    assert all(p.numel() == 0 or not torch.equal(p, b) for p, b in zip(params, before, strict=True))
    assert [("master" in optimizer.state[p]) for p in params] == [False, False, True, True]
    assert {optimizer.state[p]["exp_avg"].dtype for p in params} == {torch.float32}


def test_a_bf16_parameter_needs_its_master_to_converge() -> None:
    """From 1 to 0.5 in steps of 1e-3, where bf16 knows 0.996 and 1.0 and nothing between."""

    def distance(master_weights: bool) -> float:
        x = torch.nn.Parameter(torch.ones(64, dtype=BF16))
        optimizer = ops.AdamW([x], lr=1e-3, weight_decay=0, master_weights=master_weights)
        for _ in range(1000):
            x.grad = 2 * (x.detach() - 0.5)
            optimizer.step()
        return (x.detach().float() - 0.5).abs().max().item()

    assert distance(master_weights=False) == 0.5  # it has not moved at all
    assert distance(master_weights=True) < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_saving_and_resuming_changes_no_bit(dtype: torch.dtype) -> None:
    params, resumed = parameters((33,), (2, 3), dtype=dtype), parameters((33,), (2, 3), dtype=dtype)
    optimizer = ops.AdamW(params, lr=0.1)
    train(optimizer, params, range(3))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    for own, saved in zip(resumed, params, strict=True):
        own.data.copy_(saved)
    other = ops.AdamW(resumed, lr=0.7)
    other.load_state_dict(torch.load(file, weights_only=True))
    train(optimizer, params, range(3, 6))
    train(other, resumed, range(3, 6))
    for a, b in zip(params, resumed, strict=True):
        assert torch.equal(a, b)
        for name, value in optimizer.state[a].items():
            assert value.dtype == torch.float32 and torch.equal(value, other.state[b][name]), name


def test_loading_does_not_tie_two_optimizers_together() -> None:
    params = parameters((3,))
    optimizer = ops.AdamW(params)
    train(optimizer, params, range(1))
    saved = copy.deepcopy(optimizer.state_dict())
    other = ops.AdamW(parameters((3,)))
    other.load_state_dict(saved)
    train(optimizer, params, range(1, 3))
    assert int(saved["state"][0]["step"]) == 1


def test_moments_that_torch_laid_out_like_a_transposed_parameter_are_stepped_on() -> None:
    def transposed() -> torch.nn.Parameter:
        return torch.nn.Parameter(torch.ones(6, 4).t())

    mine, peer = [transposed()], [transposed()]
    optimizer, torchs = ops.AdamW(mine, lr=0.1), torch.optim.AdamW(peer, lr=0.1)
    train(torchs, peer, range(2))
    mine[0].data.copy_(peer[0])
    assert not torchs.state[peer[0]]["exp_avg"].is_contiguous()
    optimizer.load_state_dict(torchs.state_dict())
    train(torchs, peer, range(2, 5))
    train(optimizer, mine, range(2, 5))
    torch.testing.assert_close(mine, peer)
    for name, value in torchs.state[peer[0]].items():
        torch.testing.assert_close(optimizer.state[mine[0]][name], value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, BF16])
def test_what_is_not_finite_stays_in_its_element(bad: float, dtype: torch.dtype) -> None:
    params = parameters((40,), dtype=dtype)
    set_gradients(params, 0)
    assert params[0].grad is not None
    params[0].grad[7] = bad
    ops.AdamW(params).step()
    assert params[0].isnan().nonzero().tolist() == [[7]]


def test_closure_and_scheduler_work_as_with_torch() -> None:
    x = torch.nn.Parameter(torch.ones(3))
    optimizer = ops.AdamW([x], lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = x.square().sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.05
    torch.testing.assert_close(x.detach(), torch.full((3,), 1 - 0.1 * 0.01 - 0.1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr=-1.0: set a number that is not negative"),
        ({"eps": float("nan")}, "eps=nan"),
        ({"weight_decay": float("inf")}, "weight_decay=inf"),
        ({"betas": (0.9, 1.0)}, r"betas=\(0.9, 1.0\): set each in \[0, 1\)"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"AdamW: {message}"):
        ops.AdamW(parameters((2,)), **options)
    with pytest.raises(ValueError, match=f"AdamW: {message}"):
        ops.AdamW([{"params": parameters((2,)), **options}])


def test_complex_parameters_and_sparse_gradients_are_refused() -> None:
    with pytest.raises(ValueError, match="a parameter is torch.complex64; give floating"):
        ops.AdamW([torch.zeros(2, dtype=torch.complex64, requires_grad=True)])
    table = torch.nn.Embedding(4, 2, sparse=True)
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="a gradient is sparse"):
        ops.AdamW(table.parameters()).step()


def test_a_bare_tensor_is_refused_by_torch() -> None:
    with pytest.raises(TypeError, match="should be an iterable"):
        ops.AdamW(torch.nn.Parameter(torch.zeros(2)))
