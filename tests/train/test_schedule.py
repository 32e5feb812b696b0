from __future__ import annotations

import math

import pytest

from megafm.train.config import ScheduleConfig
from megafm.train.schedule import lr_scale


def test_warmup_is_linear_and_reaches_the_peak_at_its_last_step() -> None:
    schedule = ScheduleConfig(warmup_steps=4)
    assert [lr_scale(step, 100, schedule) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("step", [10, 37, 55, 99])
def test_cosine_matches_torch(step: int) -> None:
    import torch

    schedule = ScheduleConfig(decay="cosine", warmup_steps=10, min_lr_ratio=0.1)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=0.1)
    for _ in range(step - 10):
        optimizer.step()
        reference.step()
    assert math.isclose(lr_scale(step, 100, schedule), reference.get_last_lr()[0], rel_tol=1e-9)


def test_decay_steps_leave_a_plateau_at_the_peak() -> None:
    schedule = ScheduleConfig(decay="linear", warmup_steps=10, decay_steps=20, min_lr_ratio=0.0)
    scales = [lr_scale(step, 100, schedule) for step in range(101)]
    assert scales[9:81] == [1.0] * 72
    assert scales[90] == 0.5
    assert scales[100] == 0.0


def test_constant_stays_at_the_peak() -> None:
    schedule = ScheduleConfig(decay="constant", warmup_steps=0)
    assert {lr_scale(step, 50, schedule) for step in range(50)} == {1.0}
