"""Pipeline parallelism: the stages of `pp` pass activations on, and gradients back, microbatch by
microbatch, in the order of a schedule of torch.distributed.pipelining.

All ranks of a line of `pp` read the same microbatches, so that only activations travel: a schedule
carries a microbatch's number, and each stage looks up what it needs of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.schedules import get_schedule_class
from torch.distributed.tensor import DTensor

from megafm.parallel.data_parallel import reduce_gradients_later
from megafm.parallel.mesh import ParallelConfig, gathers_for_backward
from megafm.parallel.stages import Stage

MicroBatch = tuple[torch.Tensor | None, ...]  # tokens, targets, ...: what `loss` takes

# At an error torch logs the whole timetable of all ranks, which buries what happened.
logging.getLogger("torch.distributed.pipelining.schedules").setLevel(logging.CRITICAL)


class Pipeline:
    """The forward and backward passes of one rank of `pp`.

    Args:
        loss: `loss(*micro_batch, stage=, x=)` is what a stage makes of what the one before made.
        stages: of the whole model, in order.
        activations: tokens (B, T) -> a meta tensor like what this rank's stages pass on.
        shared_weight: gives the parameter that the ranks of the first and of the last stage both
            have; None on others, or if none is shared.
        recomputes: whether activation checkpointing is on. It can go backward once, so a schedule
            that splits the backward pass then gets the gradients of weights with those of inputs.
    """

    def __init__(
        self,
        loss: nn.Module,
        stages: Sequence[Stage],
        parallel: ParallelConfig,
        pp: DeviceMesh,
        device: torch.device,
        activations: Callable[[torch.Tensor], torch.Tensor],
        shared_weight: Callable[[], nn.Parameter | None],
        recomputes: bool,
    ) -> None:
        self.loss = loss
        self.stages = stages
        self.own = [stage for stage in stages if stage.rank == pp.get_local_rank()]
        self.micro_batches: Sequence[MicroBatch] = ()  # of the step that is being computed
        self._parallel = parallel
        self._group = pp.get_group()
        self._device = device
        self._activations = activations
        self._shared_weight = shared_weight
        self._recomputes = recomputes
        self._num_valid = torch.ones(())
        self._schedules: dict[tuple[int, torch.Size], Any] = {}
        self._reducer = self._torch_stage(loss, self.own[0], (), ())

    def backward(
        self, micro_batches: Sequence[MicroBatch], num_valid: torch.Tensor
    ) -> torch.Tensor:
        """Gradients of the loss of a step, whose sum over `num_valid` tokens it returns."""
        self.micro_batches, self._num_valid = micro_batches, num_valid
        reduce_gradients_later(self.loss, gathers_for_backward(self._parallel))
        numbers = torch.arange(len(micro_batches))
        losses: list[torch.Tensor] = []
        try:
            self._schedule().step(number=numbers, target=numbers, losses=losses)
        except RuntimeError as error:  # of torch, around what a stage raised
            raise error.__cause__ or error from None
        self._reducer.perform_reduce_grad(1)
        self._sum_shared_gradient()
        return self.total(torch.stack(losses).sum() if losses else torch.zeros(()))

    @torch.no_grad()
    def forward(self, *micro_batch: torch.Tensor | None) -> torch.Tensor:
        """The loss of a microbatch where the last stage is, zero elsewhere: see `total`."""
        tokens = micro_batch[0]
        assert tokens is not None
        x = None
        for stage in self.own:
            if not stage.is_first and self.stages[stage.index - 1].rank != stage.rank:
                x = torch.empty_like(self._activations(tokens), device=self._device)
                dist.recv(x, group=self._group, group_src=self.stages[stage.index - 1].rank)
            x = self.loss(*micro_batch, stage=stage, x=x)
            if not stage.is_last and self.stages[stage.index + 1].rank != stage.rank:
                dist.send(x, group=self._group, group_dst=self.stages[stage.index + 1].rank)
        assert x is not None
        return x if stage.is_last else torch.zeros(())

    @torch.no_grad()
    def total(self, loss: torch.Tensor) -> torch.Tensor:
        """Sums of losses of microbatches, which the rank of the last stage has, on every rank."""
        loss = loss.to(self._device, copy=True)
        dist.all_reduce(loss, group=self._group)
        return loss

    def _schedule(self) -> Any:
        """For microbatches of this number and shape; torch keeps buffers for them."""
        tokens = self.micro_batches[0][0]
        assert tokens is not None
        key = (len(self.micro_batches), tokens.shape)
        if key not in self._schedules:
            x, loss = self._activations(tokens), torch.empty(1, device="meta")
            stages = [
                self._torch_stage(
                    _StageModule(self, stage),
                    stage,
                    () if stage.is_first else (x,),
                    (loss,) if stage.is_last else (x,),
                )
                for stage in self.own
            ]
            make = get_schedule_class(self._parallel.pipeline_schedule)
            self._schedules[key] = make(
                stages[0] if self._parallel.stages_per_rank == 1 else stages,
                len(self.micro_batches),
                loss_fn=lambda loss, number: loss / self._num_valid,
                scale_grads=False,
            )
        return self._schedules[key]

    def _torch_stage(
        self,
        module: nn.Module,
        stage: Stage,
        inputs: tuple[torch.Tensor, ...],
        outputs: tuple[torch.Tensor, ...],
    ) -> PipelineStage:
        return PipelineStage(
            module,
            stage.index,
            stage.num_stages,
            self._device,
            input_args=inputs,
            output_args=outputs,
            group=self._group,
            dw_builder=(lambda: _nothing_left) if self._recomputes else None,
        )

    def _sum_shared_gradient(self) -> None:
        """Both ranks add the same two numbers, so their copies stay the same bit for bit."""
        weight = self._shared_weight()
        if weight is None:
            return
        assert weight.grad is not None
        mine = weight.grad.to_local() if isinstance(weight.grad, DTensor) else weight.grad
        theirs = torch.empty_like(mine)
        peer = self.stages[-1 if self.own[0].is_first else 0].rank
        transfers = [
            dist.P2POp(dist.isend, mine, group=self._group, group_peer=peer),
            dist.P2POp(dist.irecv, theirs, group=self._group, group_peer=peer),
        ]
        for transfer in dist.batch_isend_irecv(transfers):
            transfer.wait()
        mine += theirs


def _nothing_left() -> None:
    """The gradients of weights, where they came with those of inputs."""


class _StageModule(nn.Module):
    """A stage as torch's schedules call it, with the number of a microbatch."""

    def __init__(self, pipeline: Pipeline, stage: Stage) -> None:
        super().__init__()
        self.loss = pipeline.loss  # torch asks for its parameters
        self._pipeline = pipeline
        self._stage = stage

    def forward(self, x: torch.Tensor | None = None, *, number: torch.Tensor) -> torch.Tensor:
        micro_batch = self._pipeline.micro_batches[int(number)]
        out = cast(torch.Tensor, self.loss(*micro_batch, stage=self._stage, x=x))
        return out.unsqueeze(0) if self._stage.is_last else out
