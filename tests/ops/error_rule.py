"""The error rule that every backend of every op is held to (docs/architecture.md).

Its largest error against a float64 computation is at most twice that of the same computation in
plain PyTorch at the working precision, plus the rounding of the output; gradients included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

Function = Callable[..., Any]


def assert_error_rule(
    function: Function,
    plain: Function,
    inputs: Sequence[torch.Tensor],
    dtype: torch.dtype,
    *,
    exact: Function | None = None,
    cancelled: Mapping[int, float] | None = None,
) -> None:
    """Hold `function` to the rule, with `plain` run at `dtype` and (or `exact`) at float64.

    Args:
        inputs: tensors; the floating ones are rounded to `dtype` first and get gradients.
        cancelled: by index of a value (outputs, then gradients), what float32 sums of its terms
            may lose: a value is allowed that where its terms cancel and `plain`, which computes it
            in another way, has 0 by chance.
    """
    rounded = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
    truth = outputs_and_gradients(exact or plain, rounded, torch.float64)
    ours = outputs_and_gradients(function, rounded, dtype)
    theirs = outputs_and_gradients(plain, rounded, dtype)
    assert len(ours) == len(truth)
    for index, (got, compared, right) in enumerate(zip(ours, theirs, truth, strict=True)):
        assert got.shape == right.shape
        if right.numel() == 0:
            continue
        assert got.isfinite().all(), f"value {index} is not finite"
        error, allowed = largest(got - right), 2 * largest(compared - right)
        allowed += torch.finfo(dtype).eps * largest(right) + torch.finfo(dtype).tiny
        allowed += 2 * (cancelled or {}).get(index, 0)
        assert error <= allowed, f"value {index}: error {error:.3g}, allowed {allowed:.3g}"


def outputs_and_gradients(
    function: Function, inputs: Sequence[torch.Tensor], dtype: torch.dtype
) -> list[torch.Tensor]:
    """Outputs of `function` at `dtype`, then the gradient of every input, all as float64."""
    leaves = [x.to(dtype).requires_grad_() if x.is_floating_point() else x for x in inputs]
    outputs = function(*leaves)
    outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    gradients = torch.autograd.grad(outputs, wanted, cotangents_of(outputs))
    return [x.detach().double() for x in (*outputs, *gradients)]


def cotangents_of(outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """The same for the same shapes, in the dtypes of the outputs."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(y.shape, generator=generator).to(y.dtype) for y in outputs]


def largest(x: torch.Tensor) -> float:
    return x.abs().max().item()
