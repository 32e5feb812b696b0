"""What one rank communicates along each axis of the mesh, counted as torch's dispatcher sees it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from megafm.parallel.collectives import named_group
from megafm.plan.dispatch import takes_wrapped

KINDS = {
    "all_gather": (
        "all_gather_into_tensor",
        "all_gather_into_tensor_out",
        "all_gather_into_tensor_coalesced",
        "_allgather_base_",
        "allgather_",
        "allgather_coalesced_",
        "allgather_into_tensor_coalesced_",
    ),
    "reduce_scatter": (
        "reduce_scatter_tensor",
        "reduce_scatter_tensor_out",
        "reduce_scatter_tensor_coalesced",
        "_reduce_scatter_base_",
        "reduce_scatter_",
        "reduce_scatter_tensor_coalesced_",
    ),
    "all_reduce": (
        "all_reduce",
        "all_reduce_",
        "all_reduce_coalesced",
        "all_reduce_coalesced_",
        "allreduce_",
        "allreduce_coalesced_",
    ),
    "all_to_all": ("all_to_all_single", "alltoall_base_", "alltoall_"),
    "broadcast": ("broadcast", "broadcast_"),
    "send": ("send", "isend"),
}
KIND = {op: kind for kind, ops in KINDS.items() for op in ops}
NOT_COUNTED = ("barrier", "monitored_barrier_", "recv_", "irecv")  # nothing, or the sender counts
INPUTS = ("input", "inputs", "input_tensor", "input_tensors", "input_list", "tensor", "tensors")


@dataclass
class Moved:
    """
    Attributes:
        calls: of the collective.
        payload: bytes that this rank puts in.
        sent: bytes that it sends by the ring algorithm, the fewest that there are (Patarasuk and
            Yuan 2009); of an all-to-all, all but its own share.
    """

    calls: int = 0
    payload: int = 0
    sent: int = 0


class Traffic(TorchDispatchMode):
    """Context manager that counts the collectives called inside.

    Attributes:
        moved: by axis ("dp_replicate x dp_shard" for a group over both) and kind of collective.
    """

    def __init__(self, mesh: DeviceMesh | None) -> None:
        super().__init__()
        self.mesh = mesh
        self.moved: dict[tuple[str, str], Moved] = defaultdict(Moved)
        self._axes: dict[str, str] = {}  # by the name of a group

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if takes_wrapped(types):
            return NotImplemented
        if func.namespace in ("c10d", "_c10d_functional"):
            self._count(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _count(self, func: Any, args: Any, kwargs: Any) -> None:
        name = func._schema.name.partition("::")[2]
        names = (argument.name for argument in func._schema.arguments)
        given = dict(zip(names, args, strict=False)) | kwargs
        asked = given.get("process_group", given.get("group_name"))
        if asked is None or name in NOT_COUNTED:
            return
        if name not in KIND:
            where = "its kind belongs into KINDS of megafm/plan/traffic.py"
            raise NotImplementedError(f"traffic of the collective {name} is not counted: {where}")
        group = _group(asked)
        ranks = group.size()
        if ranks == 1:
            return
        tensors = tree_iter(next(given[each] for each in INPUTS if each in given))
        payload = sum(tensor.nbytes for tensor in tensors)
        moved = self.moved[self._axis(group), KIND[name]]
        moved.calls += 1
        moved.payload += payload
        splits = given.get("input_split_sizes")  # of an all-to-all; none: equal ones
        kept = splits[group.rank()] / max(1, sum(splits)) if splits else 1 / ranks
        moved.sent += round(payload * _sent_share(KIND[name], ranks, kept))

    def _axis(self, group: dist.ProcessGroup) -> str:
        if group.group_name not in self._axes:
            assert self.mesh is not None, "a collective of several ranks, and no mesh"
            ranks = dist.get_process_group_ranks(group)
            self._axes[group.group_name] = axes_of(ranks, self.mesh)
        return self._axes[group.group_name]


def axes_of(ranks: list[int], mesh: DeviceMesh) -> str:
    """The axes along which `ranks` differ."""
    assert mesh.mesh_dim_names is not None
    coordinates = np.unravel_index(ranks, tuple(mesh.shape))
    axes = zip(mesh.mesh_dim_names, coordinates, strict=True)
    return " x ".join(name for name, places in axes if places.min() != places.max())


def _sent_share(kind: str, ranks: int, kept: float) -> float:
    """What a rank sends, of what it puts in; of an all-to-all it keeps `kept`."""
    shares = {
        "all_gather": ranks - 1,
        "reduce_scatter": (ranks - 1) / ranks,
        "all_reduce": 2 * (ranks - 1) / ranks,
        "all_to_all": 1 - kept,
    }
    return shares.get(kind, 1)


def _group(given: Any) -> dist.ProcessGroup:
    """Of a group's name, or of the group as an op takes it."""
    if isinstance(given, str):
        return named_group(given)
    if isinstance(given, torch.ScriptObject):
        return dist.ProcessGroup.unbox(given)
    return given
