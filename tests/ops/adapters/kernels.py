"""What apex's and TransformerEngine's multi-tensor kernels compute, with their signatures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from megafm import ops
from megafm.ops.adamw import Update, reference

CHUNK_SIZE = 2048 * 32
Lists = list[list[torch.Tensor]]


def multi_tensor_applier(
    op: Callable[..., Any], noop_flag_buffer: torch.Tensor, tensor_lists: Lists, *args: Any
) -> Any:
    assert noop_flag_buffer.dtype == torch.int32 and noop_flag_buffer.item() == 0
    assert all(len(tensors) == len(tensor_lists[0]) for tensors in tensor_lists)
    assert all(x.numel() and x.is_contiguous() for tensors in tensor_lists for x in tensors)
    return op(CHUNK_SIZE, noop_flag_buffer, tensor_lists, *args)


def multi_tensor_adam(
    chunk_size: int,
    noop_flag: torch.Tensor,
    tensor_lists: Lists,
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    step: int,
    mode: int,
    bias_correction: int,
    weight_decay: float,
) -> None:
    """pybind takes an int where C++ has an int and a float where it has a float."""
    assert isinstance(step, int) and mode == 1 and bias_correction == 1
    grads, params, exp_avgs, exp_avg_sqs, *masters = tensor_lists
    assert {x.dtype for x in exp_avgs + exp_avg_sqs} == {torch.float32}
    update = Update(step, lr, beta1, beta2, epsilon, weight_decay)
    reference(params, grads, exp_avgs, exp_avg_sqs, masters[0] if masters else None, update)


def multi_tensor_adam_capturable_master(
    chunk_size: int,
    noop_flag: torch.Tensor,
    tensor_lists: Lists,
    lr: torch.Tensor,
    beta1: float,
    beta2: float,
    epsilon: float,
    step: torch.Tensor,
    mode: int,
    bias_correction: int,
    weight_decay: float,
    inv_scale: torch.Tensor,
) -> None:
    """The numbers that change with a step are read on the device."""
    assert lr.dtype == inv_scale.dtype == torch.float32 and step.dtype == torch.int32
    assert len(tensor_lists) == 5 and inv_scale.item() == 1
    numbers = (lr.item(), beta1, beta2, epsilon, int(step), mode, bias_correction, weight_decay)
    multi_tensor_adam(chunk_size, noop_flag, tensor_lists, *numbers)


def multi_tensor_l2norm(
    chunk_size: int,
    noop_flag: torch.Tensor,
    tensor_lists: Lists,
    per_tensor_python: bool | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(the norm of all, shape (1,); the norm of each, or nothing)."""
    assert len({x.dtype for x in tensor_lists[0]}) == 1 and not per_tensor_python
    total = sum(x.double().square().sum() for x in tensor_lists[0])
    return torch.as_tensor(total).sqrt().float().reshape(1), torch.empty(0)


def assert_adamw(run: Callable[..., None], dtype: torch.dtype, master: bool) -> None:
    """The adapter's step is the reference's, empty tensors passed over."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 5), (0, 4), (7,)]

    def lists() -> list[Any]:
        generator.manual_seed(1)
        params, grads = (
            [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]
            for _ in range(2)
        )
        moments = [[torch.rand(shape, generator=generator) for shape in shapes] for _ in range(2)]
        return [params, grads, *moments, [x.float() for x in params] if master else None]

    ours, expected = lists(), lists()
    update = Update(3, 1e-2, 0.9, 0.95, 1e-8, 0.1)
    run(*ours, update)
    reference(*expected, update)
    for got, right in zip(ours, expected, strict=True):
        if got is not None:
            torch.testing.assert_close(got, right)
    nothing = [torch.zeros(0)]
    run(nothing, nothing, nothing, nothing, None, update)


def assert_grad_norm(run: Callable[..., torch.Tensor]) -> None:
    tensors = [torch.randn(7, 3).t(), torch.zeros(0), torch.randn(5).bfloat16(), torch.randn(())]
    torch.testing.assert_close(run(tensors), ops.grad_norm(tensors))
    assert run([torch.zeros(0)]).item() == 0
