"""One AdamW step over the parameters of a model."""

from __future__ import annotations

import importlib.util
import math

import torch

from benchmarks.ops.op import Function, Inputs, Op, Run, Sizes, Work, normal
from megafm import ops

SETTINGS = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def inputs(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
    """Parameters as leaves, their gradients as constants."""
    place = {"dtype": dtype, "device": device}
    shape = (sizes["rows"], sizes["dim"])
    seeds = range(sizes["tensors"])
    parameters = tuple(normal(*shape, **place, seed=seed) for seed in seeds)
    return Inputs(parameters, tuple(normal(*shape, **place, seed=-seed - 1) for seed in seeds))


def steps(optimizer: Function, inputs: Inputs) -> dict[str, Run]:
    """`optimizer` makes one from parameters; every run is a step with the same gradients."""
    parameters = [torch.nn.Parameter(x.clone()) for x in inputs.leaves]
    for parameter, gradient in zip(parameters, inputs.constants, strict=True):
        parameter.grad = gradient
    step = optimizer(parameters).step

    def run() -> tuple[torch.Tensor, ...]:
        step()
        return tuple(parameter.detach() for parameter in parameters)

    return {"step": run}


class WrittenOut:
    """Algorithm 2 of Loshchilov and Hutter (2019), one tensor after the other."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        self.state = [(p, torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
        self.steps = 0

    @torch.no_grad()
    def step(self) -> None:
        self.steps += 1
        lr, (beta1, beta2), eps, decay = SETTINGS.values()
        for p, mean, square in self.state:
            mean.mul_(beta1).add_(p.grad, alpha=1 - beta1)
            square.mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
            scale = (square / (1 - beta2**self.steps)).sqrt() + eps
            p.mul_(1 - lr * decay).addcdiv_(mean, scale, value=-lr / (1 - beta1**self.steps))


def libraries() -> dict[str, Function]:
    if not importlib.util.find_spec("apex"):
        return {}
    from apex.optimizers import FusedAdam

    return {"apex": lambda parameters: FusedAdam(parameters, **SETTINGS)}


def work(sizes: Sizes, size: int, mode: str) -> Work:
    """Parameter, gradient and both moments in; all but the gradient out."""
    return Work(7 * size * math.prod(sizes.values()))


OP = Op(
    name="adamw",
    shapes={"50M": {"tensors": 48, "rows": 1024, "dim": 1024}},
    gpu={"268M": {"tensors": 16, "rows": 4096, "dim": 4096}},
    quick={"12K": {"tensors": 3, "rows": 64, "dim": 64}},
    inputs=inputs,
    ours=lambda parameters: ops.AdamW(parameters, **SETTINGS),
    eager={
        "torch.optim.AdamW": lambda parameters: torch.optim.AdamW(parameters, **SETTINGS),
        "fused=True": lambda parameters: torch.optim.AdamW(parameters, **SETTINGS, fused=True),
    },
    compiled=(),
    exact=WrittenOut,
    work=work,
    runs=steps,
    modes=("step",),
    dtypes=("fp32",),
    libraries=libraries,
)
