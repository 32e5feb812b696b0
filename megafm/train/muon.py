"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): momentum, orthogonalised.

    B = momentum * B + grad                     O = newton_schulz(grad + momentum * B)
    x = x - lr * weight_decay * x - lr * 0.2 * sqrt(max(rows, columns)) * O

It is for the matrices inside the layers; embedding, head and vectors are stepped by AdamW. The
factor on O is that of Liu et al. 2025 (arXiv:2502.16982, eq. 4): updates are as large as AdamW's,
so one learning rate and weight decay serve both. State: 4 bytes an fp32 element, half of AdamW's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, distribute_tensor

from megafm import ops
from megafm.parallel.collectives import exchange_rows

# Jordan's quintic a x + b x^3 + c x^5: five rounds take singular values to 0.68 ... 1.14.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ROUNDS = 5


class Muon(ops.AdamW):
    """Muon for the groups with `momentum` above 0, AdamW for the others.

    A sharded matrix is gathered, orthogonalised by every rank and cut again. Experts, a matrix
    each, stay where they are; of those in parts each rank takes some, and gives the parts back. A
    layout changes no update. What a rank holds between steps stays sharded.

    Args:
        params: groups; those with `momentum` hold matrices, or stacks of them, alone.
        options: of AdamW, for the groups that do not name their own.
    """

    def __init__(self, params: Any, **options: Any) -> None:
        groups = [{"momentum": 0.0, **group} for group in params]
        super().__init__(groups, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if not 0 <= group["momentum"] < 1:
            raise ValueError(f"Muon: momentum={group['momentum']}: set it in [0, 1), as 0.95")
        if group["momentum"] > 0 and any(p.ndim < 2 for p in group["params"]):
            raise ValueError("Muon: a parameter is no matrix; put it in a group with momentum=0")

    def _step_group(self, group: dict[str, Any]) -> None:
        if group["momentum"] == 0:
            super()._step_group(group)
            return
        for parameter in group["params"]:
            if parameter.grad is not None:
                self._step_matrix(parameter, parameter.grad, group)

    def _step_matrix(
        self, parameter: torch.Tensor, grad: torch.Tensor, group: dict[str, Any]
    ) -> None:
        state = self._state(parameter, group)
        momentum = state["momentum"]
        momentum.mul_(group["momentum"]).add_(grad)
        update = _by_matrix(momentum * group["momentum"] + grad)
        update *= 0.2 * math.sqrt(max(update.shape[-2:]))
        source = state.get("master", parameter)
        lr = float(group["lr"])
        source.mul_(1 - lr * group["weight_decay"]).sub_(update.to(source.dtype), alpha=lr)
        if source is not parameter:
            parameter.copy_(source)

    def _state(self, parameter: torch.Tensor, group: dict[str, Any]) -> dict[str, torch.Tensor]:
        if group["momentum"] == 0:
            return super()._state(parameter, group)
        state = self.state[parameter]
        if not state:
            has_master = group["master_weights"] and parameter.dtype.itemsize == 2
            dtype = torch.float32 if has_master else parameter.dtype
            state["momentum"] = torch.zeros_like(parameter, dtype=dtype)
            if has_master:
                state["master"] = parameter.detach().to(dtype)
        return state


def orthogonalized(matrix: torch.Tensor) -> torch.Tensor:
    """About U V^T of `matrix` = U S V^T: singular vectors as they are, singular values near 1; of
    each matrix of a batch (..., rows, columns).

    Newton-Schulz iteration, in bf16 on a GPU, else in the dtype of `matrix` (float32 at least).
    FLOPs of rows n <= columns m: 5 * (4 n^2 m + 2 n^3).
    """
    wide = torch.promote_types(matrix.dtype, torch.float32)
    x = matrix.to(torch.bfloat16 if matrix.is_cuda else wide)
    transposed = x.shape[-2] > x.shape[-1]  # the products are then of the shorter side
    if transposed:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if transposed else x).to(matrix.dtype)


def _by_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """`orthogonalized`, for matrices that may lie on several ranks: (rows, columns) or, of experts,
    (num_experts, rows, columns)."""
    if not isinstance(tensor, DTensor):
        return orthogonalized(tensor)
    mesh, placements = tensor.device_mesh, tensor.placements
    if tensor.ndim == 2:
        update = orthogonalized(tensor.full_tensor())
        return distribute_tensor(update, mesh, placements, src_data_rank=None)
    update = tensor.to_local()
    dims = [getattr(placed, "dim", 0) for placed in placements]
    if any(dims):  # a part of each
        axis = dims.index(max(dims))
        update = _orthogonalized_parts(update, dims[axis], mesh.get_group(axis))
    else:  # a rank's matrices are whole
        update = orthogonalized(update)
    return DTensor.from_local(
        update, mesh, placements, run_check=False, shape=tensor.shape, stride=tensor.stride()
    )


def _orthogonalized_parts(parts: torch.Tensor, dim: int, group: dist.ProcessGroup) -> torch.Tensor:
    """`orthogonalized` for experts of which each rank of `group` has a part along `dim`: each takes
    some of them, whole, and gives the parts back."""
    rank, size = group.rank(), group.size()
    rounds, more = divmod(len(parts), size)
    taken = [rounds + (i < more) for i in range(size)]  # of the experts, by each rank
    arrived = exchange_rows(parts, [taken[rank]] * size, taken, group)
    whole = torch.cat(arrived.chunk(size) if taken[rank] else [arrived] * size, dim)
    update = torch.cat(orthogonalized(whole).chunk(size, dim))
    return exchange_rows(update, taken, [taken[rank]] * size, group)
