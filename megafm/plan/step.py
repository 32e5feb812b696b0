"""One training step under observation: the memory and the traffic of this rank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.distributed.device_mesh import DeviceMesh

from megafm.parallel.mesh import ParallelConfig, data_share
from megafm.plan.dispatch import Opened
from megafm.plan.memory import CATEGORIES, MemoryTrace
from megafm.plan.routing import route_evenly
from megafm.plan.traffic import Moved, Traffic
from megafm.train.config import TrainJob
from megafm.train.loop import train_step
from megafm.train.run import Training, assembled
from megafm.train.stop import StopSignal


@dataclass(frozen=True)
class Observed:
    """Of one step, the second or any later one: the optimizer has its state.

    Attributes:
        alive: (events, categories) bytes of all tensors alive, after each allocation or release.
        phases: (name, event at which it began).
        moved: by axis and kind of collective.
    """

    alive: np.ndarray
    phases: list[tuple[str, int]]
    moved: dict[tuple[str, str], Moved]

    @property
    def most(self) -> dict[str, int]:
        """The most bytes of each category at any time of the step."""
        return dict(zip(CATEGORIES, self.alive.max(axis=0).tolist(), strict=True))

    @property
    def peak_event(self) -> int:
        return int(self.alive.sum(axis=1).argmax())

    @property
    def at_peak(self) -> dict[str, int]:
        return dict(zip(CATEGORIES, self.alive[self.peak_event].tolist(), strict=True))

    @property
    def peak(self) -> int:
        return sum(self.at_peak.values())


class Rehearsal(Training):
    """Training on tokens that mean nothing, all of them valid, evenly routed to experts."""

    def next_batch(self) -> list[tuple[torch.Tensor, ...]]:
        _, count = data_share(self.mesh)
        shape = self.job.train.global_batch_size // count, self.job.train.seq_len
        self.samples += self.job.train.global_batch_size
        tokens = torch.zeros(shape, dtype=torch.int64, device=self.device)
        size = self.job.train.micro_batch_size
        return list(zip(tokens.split(size), tokens.clone().split(size), strict=True))


def observe_step(
    job: TrainJob,
    parallel: ParallelConfig,
    mesh: DeviceMesh | None,
    *,
    device: torch.device,
    precision: torch.dtype,
    seed: int | None,
) -> Observed:
    """Set training up as `megafm train` does and take one step, on whatever tensors are made here
    (real or fake).

    Args:
        parallel: resolved, as `mesh` has it.
        seed: of the weights; None leaves them as allocated.
    """
    with MemoryTrace(device) as trace:
        training = Rehearsal(**assembled(job, device, precision, parallel, mesh, seed=seed))
        route_evenly(training.model)
        training.optimizer.init_state()
        first = len(trace.events)
        _follow(training, trace)
        with Traffic(mesh) as traffic, Opened():
            train_step(training, StopSignal())
        trace.label("parameters", training.model.parameters())
        for state in training.optimizer.state.values():
            trace.label("optimizer", state.values())
    phases = [(name, event - first) for name, event in trace.marks]
    return Observed(trace.alive()[first:], phases, dict(traffic.moved))


def _follow(training: Training, trace: MemoryTrace) -> None:
    """Let the trace know which part of the step runs, and what the gradients are."""

    def forward(*_: Any) -> None:
        trace.mark("forward", "activations")

    def backward(*_: Any) -> None:
        trace.mark("backward", "other")

    def optimizer(*_: Any) -> None:
        trace.mark("optimizer", "other")
        gradients = (parameter.grad for parameter in training.model.parameters())
        trace.label("gradients", (grad for grad in gradients if grad is not None))

    training.loss.register_forward_pre_hook(forward)
    training.loss.register_forward_hook(backward)
    training.optimizer.register_step_pre_hook(optimizer)
