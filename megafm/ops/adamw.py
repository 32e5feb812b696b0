"""AdamW (Loshchilov and Hutter 2019): decoupled weight decay, many tensors in one launch.

    m = beta1 * m + (1 - beta1) * grad          v = beta2 * v + (1 - beta2) * grad**2
    x = x - lr * weight_decay * x - lr * (m / (1 - beta1**t)) / (sqrt(v / (1 - beta2**t)) + eps)

One pass over parameter, gradient and both moments: 28 bytes moved per fp32 parameter. A 16-bit
parameter is the rounding of an fp32 master that is kept with fp32 moments (also 28 bytes): its own
8 or 11 bits are too few to add small updates to.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from megafm.ops import _library, registry, triton
from megafm.ops.adapters import apex, transformer_engine
from megafm.ops.cpp import adamw as cpp
from megafm.ops.cpp.storage import CUDA

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class Update:
    """The numbers of one step; `step` counts from 1."""

    step: int
    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float

    @property
    def corrections(self) -> tuple[float, float]:
        """What the moments are divided by: they started at 0."""
        return 1 - self.beta1**self.step, 1 - self.beta2**self.step


def adamw_step(
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    masters: Tensors | None,
    update: Update,
) -> None:
    """One step of AdamW, in place, over tensors of one device.

    Args:
        params: all of one dtype; like all the other lists contiguous, of any shapes.
        grads: all of one dtype; left as they are.
        exp_avgs, exp_avg_sqs: the moments m and v, in the dtype of the masters if there are any,
            else in that of the parameters.
        masters: float32 copies of 16-bit parameters, which become their roundings.
    """
    if params:
        lists = params, grads, exp_avgs, exp_avg_sqs, masters
        registry.dispatch("adamw", params[0].device, *lists, update)


def reference(
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    masters: Tensors | None,
    update: Update,
) -> None:
    correction1, correction2 = update.corrections
    sources = params if masters is None else masters
    lists = zip(params, grads, exp_avgs, exp_avg_sqs, sources, strict=True)
    for param, grad, exp_avg, exp_avg_sq, source in lists:
        wide = torch.promote_types(source.dtype, torch.float32)
        x, g, m, v = (tensor.to(wide) for tensor in (source, grad, exp_avg, exp_avg_sq))
        m = update.beta1 * m + (1 - update.beta1) * g
        v = update.beta2 * v + (1 - update.beta2) * g.square()
        step = (m / correction1) / ((v / correction2).sqrt() + update.eps)
        x = x * (1 - update.lr * update.weight_decay) - update.lr * step
        exp_avg.copy_(m)
        exp_avg_sq.copy_(v)
        source.copy_(x)
        if masters is not None:
            param.copy_(x)


def _torch(
    params: Tensors,
    grads: Tensors,
    exp_avgs: Tensors,
    exp_avg_sqs: Tensors,
    masters: Tensors | None,
    update: Update,
) -> None:
    """torch's kernel wants one dtype: with masters it runs tensor by tensor on widened gradients,
    so that not all of them are widened at once."""
    if masters is None and grads[0].dtype == params[0].dtype:
        _torch_fused(params, grads, exp_avgs, exp_avg_sqs, update)
        return
    targets = params if masters is None else masters
    for target, grad, m, v in zip(targets, grads, exp_avgs, exp_avg_sqs, strict=True):
        _torch_fused([target], [grad.to(target.dtype)], [m], [v], update)
    if masters is not None:
        torch._foreach_copy_(params, masters)


def _torch_fused(
    params: Tensors, grads: Tensors, exp_avgs: Tensors, exp_avg_sqs: Tensors, update: Update
) -> None:
    """The kernel under torch.optim.AdamW(fused=True), without what that does around it."""
    step = torch.full((), update.step, dtype=torch.float32, device=params[0].device)
    torch._fused_adamw_(
        params,
        grads,
        exp_avgs,
        exp_avg_sqs,
        [],
        [step] * len(params),
        lr=update.lr,
        beta1=update.beta1,
        beta2=update.beta2,
        weight_decay=update.weight_decay,
        eps=update.eps,
        amsgrad=False,
        maximize=False,
    )


registry.register("adamw", "reference", registry.Backend(reference))
registry.register("adamw", "torch", registry.Backend(_torch))
registry.register("adamw", "cuda", _library.backend(cpp.run, cpp.refuses, CUDA))
registry.register("adamw", "triton", triton.backend("adamw"))
registry.register("adamw", "transformer_engine", transformer_engine.ADAMW)
registry.register("adamw", "apex", apex.ADAMW)


class AdamW(torch.optim.Optimizer):
    """AdamW, one fused launch for each group and dtype; the backend is chosen by `ops.adamw`.

    A DTensor (FSDP2) is stepped through its local shard. A parameter without a gradient is left
    out, and does not count the step.

    Args:
        params: tensors, (name, tensor) pairs or parameter groups, as torch.optim takes them.
        weight_decay: decoupled: the parameter shrinks by lr * weight_decay a step.
        master_weights: keep float32 masters and moments of float16 and bfloat16 parameters (12
            bytes each); without, moments have the parameter's dtype (4 bytes), and updates under
            1/256 of a bfloat16 parameter are lost. float32 parameters need none and get none. A
            master is taken from the parameter at its first step: set parameters before that.

    Raises:
        ValueError: a number out of its range, or a complex parameter; a sparse gradient.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        *,
        master_weights: bool = True,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "master_weights": master_weights,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        _check(self.param_groups[-1])

    def init_state(self) -> None:
        """Give every parameter the state of step 0, unless it has one: what a checkpoint fills."""
        for group in self.param_groups:
            for parameter in group["params"]:
                self._state(parameter, group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step every parameter that has a gradient; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._step_group(group)
        return loss

    def _step_group(self, group: dict[str, Any]) -> None:
        for (step, *_), tensors in self._alike(group).items():
            _step_lists(step, tensors, group)

    def _alike(self, group: dict[str, Any]) -> dict[tuple[Any, ...], list[list[torch.Tensor]]]:
        """Tensors that one call takes, by step, device and dtypes, with that step counted."""
        alike = defaultdict(list)
        for parameter in group["params"]:
            grad = parameter.grad
            if grad is None:
                continue
            if grad.layout != torch.strided:
                raise ValueError("AdamW: a gradient is sparse; make it dense (sparse=False)")
            state = self._state(parameter, group)
            state["step"] += 1
            names = ("exp_avg", "exp_avg_sq", "master")
            tensors = [parameter, grad, *(state[name] for name in names if name in state)]
            key = (int(state["step"]), grad.device, parameter.dtype, grad.dtype, len(tensors))
            alike[key].append([_local(tensor) for tensor in tensors])
        return alike

    def _state(self, parameter: torch.Tensor, group: dict[str, Any]) -> dict[str, torch.Tensor]:
        state = self.state[parameter]
        if not state:
            has_master = group["master_weights"] and parameter.dtype.itemsize == 2
            dtype = torch.float32 if has_master else parameter.dtype
            layout = torch.contiguous_format
            state["step"] = torch.zeros((), dtype=torch.float32)  # on the host: it is read there
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, dtype=dtype, memory_format=layout)
            if has_master:
                state["master"] = parameter.detach().to(dtype).contiguous()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, but every state keeps its dtype (torch rounds it to the parameter's), and
        becomes contiguous (torch lays a moment out like its parameter): it is stepped in place."""
        super().load_state_dict(state_dict)
        saved = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        own = chain.from_iterable(group["params"] for group in self.param_groups)
        for index, parameter in zip(saved, own, strict=True):
            for name, value in state_dict["state"].get(index, {}).items():
                device = value.device if name == "step" else parameter.device
                layout = torch.contiguous_format
                self.state[parameter][name] = value.to(device, copy=True, memory_format=layout)


def _step_lists(step: int, tensors: list[list[torch.Tensor]], group: dict[str, Any]) -> None:
    """One step on [parameter, gradient, moments, master] of many parameters, strided ones by way
    of a copy: the kernels walk memory, and a gradient need not lie as its parameter does."""
    params = [each[0] for each in tensors]
    contiguous = [[tensor.contiguous() for tensor in each] for each in tensors]
    columns = zip(*contiguous, strict=True)
    flat, grads, exp_avgs, exp_avg_sqs, *masters = (list(column) for column in columns)
    beta1, beta2 = group["betas"]
    lr, eps, weight_decay = float(group["lr"]), group["eps"], group["weight_decay"]
    update = Update(step, lr, beta1, beta2, eps, weight_decay)
    adamw_step(flat, grads, exp_avgs, exp_avg_sqs, masters[0] if masters else None, update)
    for param, stepped in zip(params, flat, strict=True):
        if stepped is not param:
            param.copy_(stepped)


def _local(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _check(group: dict[str, Any]) -> None:
    for name in ("lr", "eps", "weight_decay"):
        if not 0 <= group[name] < math.inf:
            raise ValueError(f"AdamW: {name}={group[name]}: set a number that is not negative")
    if not all(0 <= beta < 1 for beta in group["betas"]):
        raise ValueError(f"AdamW: betas={group['betas']}: set each in [0, 1), as (0.9, 0.95)")
    for parameter in group["params"]:
        if not parameter.is_floating_point():
            raise ValueError(f"AdamW: a parameter is {parameter.dtype}; give floating-point ones")
