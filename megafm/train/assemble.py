"""The model, its loss and its optimizer, put together for a layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from megafm import ops
from megafm.checkpoint.store import model_tensors
from megafm.model import ModelConfig, build
from megafm.model.moe import Experts
from megafm.parallel.activation_checkpointing import checkpoint_activations
from megafm.parallel.data_parallel import data_parallel, shard, shards_parameters
from megafm.parallel.expert_parallel import expert_mesh
from megafm.parallel.mesh import ParallelConfig, sharding_ranks
from megafm.parallel.zero1 import ShardedStep
from megafm.train.balance import balance_after_steps
from megafm.train.config import OptimConfig
from megafm.train.loss import Loss
from megafm.train.optimizer import build_optimizer, optimizer_tensors


@dataclass
class Assembly:
    """
    Attributes:
        model: the bare model; `loss` is the same one wrapped for the layout.
        stepped: what the optimizer steps, by parameter name: the parameters, or shards of them.
    """

    model: nn.Module
    loss: nn.Module
    stepped: dict[str, nn.Parameter]
    optimizer: ops.AdamW

    def tensors(self) -> dict[str, torch.Tensor]:
        """All state that training changes, by checkpoint name."""
        return {**model_tensors(self.model), **optimizer_tensors(self.stepped, self.optimizer)}


def assemble(
    config: ModelConfig,
    optim: OptimConfig,
    parallel: ParallelConfig,
    mesh: DeviceMesh | None,
    *,
    device: torch.device,
    precision: torch.dtype,
    recomputed: Sequence[str],
    seed: int | None,
) -> Assembly:
    """Build the model from `seed` (None: weights of any value, for a dry run), in torch's default
    dtype, and spread it over `mesh`.

    Args:
        precision: of the matmuls; what FSDP2 gathers parameters as.
        recomputed: the mode of activation checkpointing of every layer, repeated over them.
    """
    sharded = shards_parameters(parallel)  # then no rank ever holds the whole model
    experts = expert_mesh(parallel, device.type)
    with torch.device("meta" if sharded else device):
        model = build(config, mesh, cp_attention=parallel.cp_attention, experts=experts, seed=seed)
    checkpoint_activations(model.blocks, recomputed)
    if experts is not None:
        modules = [module for module in model.modules() if isinstance(module, Experts)]
        axes = ("dp_replicate", "dp_expert") if parallel.dp_replicate > 1 else ("dp_expert",)
        shard(modules, experts[axes], parallel, precision)
    loss = data_parallel(Loss(model), model.blocks, mesh, parallel, precision)
    if sharded:
        loss.to_empty(device=device)
        if seed is not None:
            model.init_weights(seed)
    stepped = dict(model.named_parameters())
    if mesh is None or parallel.zero != 1:
        optimizer = build_optimizer(stepped, optim)
    else:
        sharded_step = ShardedStep(stepped, sharding_ranks(mesh))
        stepped = sharded_step.shards
        optimizer = build_optimizer(stepped, optim)
        sharded_step.attach(optimizer)
    balance_after_steps(optimizer, model, mesh)
    return Assembly(model, loss, stepped, optimizer)
