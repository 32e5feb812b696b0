"""What a rank computes between the start of a collective and the wait for it, on the fake process
group: the order of the ops as torch's dispatcher sees them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from megafm import ops
from megafm.parallel import replicas, ring_attention, world
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


def test_gradients_of_replicas_are_summed_while_those_of_earlier_layers_are_computed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replicas, "BUCKET_BYTES", 4 * 4 * 4)  # a weight
    with world.fake_process_group(rank=0, world_size=2):
        group = build_mesh(ParallelConfig(dp_replicate=2), "cpu")["dp_replicate"].get_group()
        layers = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(3)))
        loss = replicas.Replicas(layers, group)(torch.zeros(2, 4)).sum()
        with Timeline() as seen:
            loss.backward()
    # one bucket is on its way during the work for the next
    assert seen.entries == ["work", "all_reduce_", *["work", "all_reduce_", "wait_tensor"] * 2]


def test_keys_go_round_the_ring_while_attention_is_computed() -> None:
    with world.fake_process_group(rank=1, world_size=3):
        mesh = build_mesh(ParallelConfig(dp_replicate=1, cp=3), "cpu")
        q = torch.zeros(1, 8, 2, 4)
        with ops.use(attention="reference"), Timeline() as seen:
            ring_attention.forward(q, q, q, None, [0, 24], mesh["cp"].get_group().group_name)
    assert seen.entries == [*["all_to_all_single", "work", "wait_tensor"] * 2, "work"]
