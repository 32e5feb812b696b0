"""What a rank computes between the start of a collective and the wait for it, on the fake process
group: the order of the ops as torch's dispatcher sees them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from megafm import ops
from megafm.parallel import ring_attention, world
from megafm.parallel.layers import ColumnParallelLinear, column_parallel
from megafm.parallel.mesh import ParallelConfig, build_mesh

WORK = ("mm", "linear", "addmm", "bmm", "softmax", "_softmax")  # of the reference ops


class Timeline(TorchDispatchMode):
    """Collectives, waits and work in order; work after work is one."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.partition("::")[2]
        entry = name if func.namespace == "_c10d_functional" else "work" if name in WORK else None
        if entry is not None and self.entries[-1:] != [entry]:
            self.entries.append(entry)
        return func(*args, **(kwargs or {}))


def test_the_backward_pass_of_a_column_layer_computes_while_it_gathers_and_scatters() -> None:
    with world.fake_process_group(rank=0, world_size=2):
        mesh = build_mesh(ParallelConfig(dp_replicate=1, tp=2), "cpu")
        with ops.use(linear="reference"):
            layers = [ColumnParallelLinear(4, 8, mesh["tp"]) for _ in range(2)]
            x = torch.zeros(1, 2, 4, requires_grad=True)
            outputs = column_parallel(x, *layers)
            with Timeline() as seen:
                torch.stack(outputs).sum().backward()
    gathering = ["all_gather_into_tensor", "work"]  # the gradient of x
    scattering = ["reduce_scatter_tensor", "wait_tensor", "work"]  # those of the weights
    assert seen.entries == [*gathering, *scattering, "wait_tensor"]


def test_keys_go_round_the_ring_while_attention_is_computed() -> None:
    with world.fake_process_group(rank=1, world_size=3):
        mesh = build_mesh(ParallelConfig(dp_replicate=1, cp=3), "cpu")
        q = torch.zeros(1, 8, 2, 4)
        with ops.use(attention="reference"), Timeline() as seen:
            ring_attention.forward(q, q, q, None, [0, 24], mesh["cp"].get_group().group_name)
    assert seen.entries == [*["all_to_all_single", "work", "wait_tensor"] * 2, "work"]
