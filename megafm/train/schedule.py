"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from megafm.train.config import ScheduleConfig


def lr_scale(step: int, total_steps: int, schedule: ScheduleConfig) -> float:
    """The factor on the peak learning rate for optimizer step `step` (the first one is 0).

    Warmup rises linearly to 1 at the last warmup step; cosine decay follows Loshchilov and
    Hutter 2017 (SGDR, eq. 5) without restarts and ends at `min_lr_ratio` after the last step.
    """
    if step < schedule.warmup_steps:
        return (step + 1) / schedule.warmup_steps
    decay_steps = schedule.decay_steps or total_steps - schedule.warmup_steps
    progress = (step - (total_steps - decay_steps)) / max(1, decay_steps)
    if schedule.decay == "constant" or progress <= 0:
        return 1.0
    left = 1 - progress if schedule.decay == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return schedule.min_lr_ratio + (1 - schedule.min_lr_ratio) * left
