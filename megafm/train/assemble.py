"""The model, its loss and its optimizer, put together for a layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule

from megafm import ops
from megafm.checkpoint.store import model_tensors
from megafm.model import Decoder, ModelConfig, build
from megafm.model.count import flops_by_layer, head_flops
from megafm.model.moe import Experts
from megafm.parallel.activation_checkpointing import checkpoint_activations
from megafm.parallel.data_parallel import data_parallel, shard, shards_parameters
from megafm.parallel.expert_parallel import expert_mesh
from megafm.parallel.mesh import ParallelConfig, axis, sharding_ranks
from megafm.parallel.pipeline import Pipeline
from megafm.parallel.stages import cut_into_stages
from megafm.parallel.zero1 import ShardedStep
from megafm.train.accumulate import Accumulation
from megafm.train.balance import balance_after_steps
from megafm.train.config import OptimConfig
from megafm.train.loss import Loss
from megafm.train.optimizer import build_optimizer, optimizer_tensors


@dataclass
class Assembly:
    """
    Attributes:
        model: the bare model, or this rank's stages of it; `loss` is the same one wrapped for the
            layout.
        passes: runs it forward and backward.
        stepped: what the optimizer steps, by parameter name: the parameters, or shards of them.
    """

    model: Decoder
    loss: nn.Module
    passes: Accumulation | Pipeline
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
    seq_len: int,
    seed: int | None,
) -> Assembly:
    """Build the model from `seed` (None: weights of any value, for a dry run), in torch's default
    dtype, and spread it over `mesh`.

    Args:
        precision: of the matmuls; what FSDP2 gathers parameters as.
        recomputed: the mode of activation checkpointing of every layer, repeated over them.
        seq_len: tokens of a sequence, by which the stages of a pipeline are balanced.
    """
    sharded = shards_parameters(parallel)  # then no rank ever holds the whole model
    experts = expert_mesh(parallel, mesh)
    pp = axis(mesh, "pp")
    stages = cut_into_stages(
        parallel.pipeline_schedule,
        parallel.pp,
        parallel.stages_per_rank if pp else 1,
        flops_by_layer(config, seq_len),
        head_flops(config),
    )
    own = [stage for stage in stages if pp is None or stage.rank == pp.get_local_rank()]
    with torch.device("meta" if sharded else device):
        model = build(
            config,
            mesh,
            cp_attention=parallel.cp_attention,
            experts=experts,
            stages=own,
            seed=seed,
        )
    checkpoint_activations(model.blocks, recomputed)
    if experts is not None:
        modules = [module for module in model.modules() if isinstance(module, Experts)]
        axes = ("dp_replicate", "dp_expert") if parallel.dp_replicate > 1 else ("dp_expert",)
        shard(modules, experts[axes], parallel, precision)
    loss = data_parallel(Loss(model, precision), model.blocks.values(), mesh, parallel, precision)
    if sharded:
        loss.to_empty(device=device)
        if seed is not None:
            model.init_weights(seed)
    passes: Accumulation | Pipeline = Accumulation(loss)
    if pp is not None:
        # Between blocks x has the dtype of the embedding, which FSDP2 gathers as `precision`.
        dtype = precision if isinstance(loss, FSDPModule) else torch.get_default_dtype()

        def activations(tokens: torch.Tensor) -> torch.Tensor:
            shape = (tokens.shape[0], tokens.shape[1] // (parallel.cp * parallel.tp), config.dim)
            return torch.empty(shape, dtype=dtype, device="meta", requires_grad=True)

        passes = Pipeline(
            loss,
            stages,
            parallel,
            pp,
            device,
            activations,
            lambda: model.shared_weight,
            recomputes=any(mode != "none" for mode in recomputed),
        )
    stepped = dict(model.named_parameters())
    if mesh is None or parallel.zero != 1:
        optimizer = build_optimizer(stepped, optim)
    else:
        sharded_step = ShardedStep(stepped, sharding_ranks(mesh))
        stepped = sharded_step.shards
        optimizer = build_optimizer(stepped, optim)
        sharded_step.attach(optimizer)
    balance_after_steps(optimizer, model, mesh)
    return Assembly(model, loss, passes, stepped, optimizer)
