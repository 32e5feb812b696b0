"""What the benchmark of an op consists of; one small file per op fills it in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

Sizes = Mapping[str, int]
Function = Callable[..., Any]
Run = Callable[[], tuple[torch.Tensor, ...]]

FORWARD, BACKWARD, BOTH = "fwd", "bwd", "fwd+bwd"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Inputs:
    """
    Attributes:
        leaves: floating tensors, whose gradients are formed.
        constants: further arguments, such as targets.
    """

    leaves: tuple[torch.Tensor, ...]
    constants: tuple[Any, ...] = ()

    def doubled(self) -> Inputs:
        """The same values in float64."""
        wide = tuple(
            x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x
            for x in self.constants
        )
        return Inputs(tuple(x.double() for x in self.leaves), wide)


@dataclass(frozen=True)
class Work:
    """What a run has to do at least.

    Attributes:
        bytes: read from and written to memory by a fused kernel that keeps nothing in cache.
        flops: in matrix products; 0 where memory alone is the limit.
    """

    bytes: float
    flops: float = 0


def autograd_runs(function: Function, inputs: Inputs) -> dict[str, Run]:
    """Forward without autograd, backward of one graph that is kept, and both, over `inputs`."""
    leaves = [x.detach().requires_grad_() for x in inputs.leaves]
    cotangents: list[torch.Tensor] = []
    graph: list[torch.Tensor] = []

    def slopes(outputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if not cotangents:
            cotangents.extend(_cotangent(y) for y in outputs)
        return cotangents

    def forward() -> tuple[torch.Tensor, ...]:
        with torch.no_grad():
            return _as_tuple(function(*leaves, *inputs.constants))

    def both() -> tuple[torch.Tensor, ...]:
        outputs = _as_tuple(function(*leaves, *inputs.constants))
        return (*outputs, *torch.autograd.grad(outputs, leaves, slopes(outputs)))

    def backward() -> tuple[torch.Tensor, ...]:
        if not graph:
            graph.extend(_as_tuple(function(*leaves, *inputs.constants)))
        return torch.autograd.grad(graph, leaves, slopes(graph), retain_graph=True)

    return {FORWARD: forward, BACKWARD: backward, BOTH: both}


@dataclass(frozen=True)
class Op:
    """
    Attributes:
        name: of the op in the registry, and of its result files.
        shapes: name -> sizes, on a CPU; `quick` has one tiny one, for tests and a first look.
        gpu: the same on a GPU, with tensors of at least 256 MB where memory is the limit.
        inputs: (sizes, dtype, device) -> Inputs, always the same values.
        ours: calls megafm.ops on leaves and constants; the harness picks the backend.
        eager: name -> function: torch as its users write it.
        compiled: those of `eager` that torch.compile is given too.
        libraries: the kernels of others that are installed, by name; asked on a GPU only.
        exact: the definition, run at float64 to check every provider.
        work: (sizes, bytes per element, mode) -> Work.
        runs: makes the timed closures of a function, by mode.
        dtypes: that the op is measured in, of those asked for.
    """

    name: str
    shapes: Mapping[str, Sizes]
    gpu: Mapping[str, Sizes]
    quick: Mapping[str, Sizes]
    inputs: Callable[[Sizes, torch.dtype, torch.device], Inputs]
    ours: Function
    eager: Mapping[str, Function]
    compiled: tuple[str, ...]
    exact: Function
    work: Callable[[Sizes, int, str], Work]
    runs: Callable[[Function, Inputs], Mapping[str, Run]] = autograd_runs
    libraries: Callable[[], Mapping[str, Function]] = dict
    modes: tuple[str, ...] = (FORWARD, BOTH)
    dtypes: tuple[str, ...] = tuple(DTYPES)

    def shapes_on(self, device: torch.device, quick: bool) -> Mapping[str, Sizes]:
        if quick:
            return self.quick
        return self.gpu if device.type == "cuda" else self.shapes

    def modes_of(self, shape: str, device: torch.device) -> tuple[str, ...]:
        """The modes that are timed, the last of them checked too. Decoding a token is inference and
        has no backward; a backward alone is timed on a GPU, where the graphs of all providers fit.
        """
        if shape.startswith("decode"):
            return (FORWARD,)
        if device.type == "cuda" and BOTH in self.modes:
            return (FORWARD, BACKWARD, BOTH)
        return self.modes

    def work_of(self, sizes: Sizes, size: int, mode: str) -> Work:
        """What a run of a mode has to do; a backward alone, what both have beyond the forward."""
        if mode != BACKWARD:
            return self.work(sizes, size, mode)
        both, forward = self.work(sizes, size, BOTH), self.work(sizes, size, FORWARD)
        return Work(both.bytes - forward.bytes, both.flops - forward.flops)


def normal(*shape: int, dtype: torch.dtype, device: torch.device, seed: int = 0) -> torch.Tensor:
    """Standard normal values, the same in every process on such a device."""
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=device).to(dtype)


def _as_tuple(outputs: Any) -> tuple[torch.Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _cotangent(y: torch.Tensor) -> torch.Tensor:
    """One for a loss, else normal values that every dtype here holds exactly."""
    if y.dim() == 0:
        return torch.ones_like(y)
    return normal(*y.shape, dtype=torch.bfloat16, device=y.device, seed=1).to(y.dtype)
