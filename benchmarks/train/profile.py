"""Where a step's time goes, by kind of work, from torch's profiler."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent

STEPS = 3

# Part of the name of an event or of one around it, the outermost first -> kind of work.
KINDS = (
    ("output layer and loss", ("_Sum", "_PerToken", "cross_entropy", "softmax", "nll_loss")),
    ("attention", ("attention", "Attention")),
    ("norm", ("rms_norm",)),
    ("rope", ("rope", "Rope")),
    ("swiglu", ("swiglu", "silu")),
    ("optimizer", ("Optimizer.step", "adamw")),
    ("matmul", ("mm", "linear", "_OneDnn", "mkldnn")),
    ("embedding", ("embedding",)),
    ("gradient clipping", ("_norm", "_foreach", "linalg")),
    ("residual and other sums", ("aten::add", "aten::sum", "aten::mul", "aten::div")),
    ("copies", ("copy_", "aten::cat", "contiguous", "aten::zero_", "aten::fill_")),
)
REST = "Python and the rest"


def measure(step: Callable[[], object]) -> dict[str, Any]:
    """Seconds of a step by kind, those of a step without the profiler, and the longest events."""
    start = time.perf_counter()
    for _ in range(STEPS):
        step()
    plain = (time.perf_counter() - start) / STEPS
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        profiled = (time.perf_counter() - start) / STEPS
    kinds: dict[str, float] = defaultdict(float)
    for event in profiler.events():
        kinds[kind_of(event)] += event.self_cpu_time_total / 1e6 / STEPS
    kinds[REST] += max(0.0, profiled - sum(kinds.values()))
    longest = sorted(profiler.key_averages(), key=lambda row: -row.self_cpu_time_total)[:20]
    return {
        "step_s": plain,
        "profiled_step_s": profiled,
        "kinds_s": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "longest": [
            {
                "name": row.key,
                "calls": row.count / STEPS,
                "self_s": row.self_cpu_time_total / 1e6 / STEPS,
            }
            for row in longest
        ],
    }


def kind_of(event: FunctionEvent) -> str:
    for name in reversed(list(_names(event))):
        for kind, parts in KINDS:
            if any(part in name for part in parts):
                return kind
    return REST


def _names(event: FunctionEvent | None) -> Iterator[str]:
    while event is not None:
        yield event.name
        event = event.cpu_parent
