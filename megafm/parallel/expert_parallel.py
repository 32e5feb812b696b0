"""Expert parallelism (GShard, arXiv:2006.16668): each rank of `ep` holds some of the experts.

`ep` takes neighbours of dp_shard x cp x tp, innermost first: all of those ranks hold tokens of
their own, also along `tp`, whose ranks split the sequence between blocks. The ranks that hold the
same experts stand along `dp_expert`, and FSDP2 shards each expert over them:

    dp_replicate x dp_shard x cp x tp   =   dp_replicate x dp_expert x ep

Rows travel to the rank of their expert and back, as many as there are.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.distributed.device_mesh import DeviceMesh

from megafm.ops.take_rows import sorting, take_rows
from megafm.parallel.collectives import all_to_all, exchange_rows
from megafm.parallel.mesh import ParallelConfig


def expert_mesh(parallel: ParallelConfig, mesh: DeviceMesh | None) -> DeviceMesh | None:
    """The ranks of the `mesh` of a resolved layout as experts are spread over them; None without
    `ep`."""
    if mesh is None or parallel.ep == 1:
        return None
    dp_expert = parallel.dp_shard * parallel.cp * parallel.tp // parallel.ep
    ranks = mesh.mesh.view(parallel.pp, parallel.dp_replicate, dp_expert, parallel.ep)
    names = ("pp", "dp_replicate", "dp_expert", "ep")
    return DeviceMesh(mesh.device_type, ranks, mesh_dim_names=names)


def at_experts(
    compute: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    rows: torch.Tensor,
    counts: torch.Tensor,
    ep: DeviceMesh,
) -> torch.Tensor:
    """Let each row be computed on the rank that holds its expert.

    Args:
        compute: rows (m, D), sorted by this rank's experts, and their number for each of those
            -> (m, D).
        rows: (n, D), sorted by expert.
        counts: (num_experts,) int64, the rows of each expert, which sum to n.

    Returns:
        (n, D), each row's result in the row's place.
    """
    group, size = ep.get_group(), ep.size()
    there = counts.view(size, -1)  # (rank, its experts)
    here = all_to_all(there, group)  # (sender, this rank's experts)
    sent, received = torch.stack([there.sum(1), here.sum(1)]).tolist()
    arrived = exchange_rows(rows, received, sent, group)
    # by sender and expert -> by expert and sender
    expert = torch.arange(here.shape[1], device=rows.device).repeat(size)
    source, target = sorting(expert.repeat_interleave(here.flatten(), output_size=len(arrived)))
    outputs = compute(take_rows(arrived, source, target), here.sum(0))
    return exchange_rows(take_rows(outputs, target, source), sent, received, group)
