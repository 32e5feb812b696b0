"""Steps of AdamW by the formulas of the paper, in float64, and what a backend is held to."""

from __future__ import annotations

import torch

from megafm.ops.adamw import Update, adamw_step, reference

SIZES = [(3, 5), (0,), (), (239, 7), (17, 1023)]  # one ends inside a chunk of the Triton kernel
BETA1, BETA2, EPS, WEIGHT_DECAY, LR = 0.9, 0.95, 1e-8, 0.1, 1e-2

Lists = list[list[torch.Tensor]]


def paper(value: torch.Tensor, gradients: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Value and moments in float64 after a step on each gradient."""
    x, m, v = value.double(), torch.zeros(()).double(), torch.zeros(()).double()
    for step, gradient in enumerate(gradients, 1):
        g = gradient.double()
        m = BETA1 * m + (1 - BETA1) * g
        v = BETA2 * v + (1 - BETA2) * g**2
        direction = m / (1 - BETA1**step) / ((v / (1 - BETA2**step)).sqrt() + EPS)
        x = x - LR * WEIGHT_DECAY * x - LR * direction
    return x, m, v


def assert_steps_hold_the_error_rule(
    dtype: torch.dtype, master: bool, device: torch.device, num_steps: int
) -> None:
    """The backend in force against the reference run in the same dtypes, both against the paper."""
    generator = torch.Generator().manual_seed(0)
    start = [torch.randn(size, generator=generator).to(dtype) for size in SIZES]
    gradients = [
        [torch.randn(size, generator=generator).to(dtype) for size in SIZES]
        for _ in range(num_steps)
    ]
    ours, plain = lists(start, master, device), lists(start, master, torch.device("cpu"))
    for step, grads in enumerate(gradients, 1):
        update = Update(step, LR, BETA1, BETA2, EPS, WEIGHT_DECAY)
        moved = [grad.to(device) for grad in grads]
        adamw_step(ours[0], moved, ours[1], ours[2], ours[3] if master else None, update)
        assert all(torch.equal(a.cpu(), b) for a, b in zip(moved, grads, strict=True))
        reference(plain[0], grads, plain[1], plain[2], plain[3] if master else None, update)
    for i in range(len(SIZES)):
        truth = paper(start[i], [grads[i] for grads in gradients])
        if master:
            assert torch.equal(ours[0][i], ours[3][i].to(dtype)), "not the master's rounding"
        rows = (3, 1, 2) if master else (0, 1, 2)
        for row, right in zip(rows, truth, strict=True):
            assert_error(ours[row][i].cpu(), plain[row][i], right)


def lists(start: list[torch.Tensor], master: bool, device: torch.device) -> Lists:
    """Parameters, moments of zeros and, with `master`, masters."""
    params = [x.to(device, copy=True) for x in start]
    wide = torch.float32 if master else start[0].dtype
    moments = [[torch.zeros_like(x, dtype=wide) for x in params] for _ in range(2)]
    return [params, *moments, [x.to(wide) for x in params] if master else []]


def assert_error(got: torch.Tensor, plain: torch.Tensor, right: torch.Tensor) -> None:
    if right.numel() == 0:
        return
    error, allowed = (got - right).abs().max(), 2 * (plain - right).abs().max()
    allowed += torch.finfo(got.dtype).eps * right.abs().max()
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"
