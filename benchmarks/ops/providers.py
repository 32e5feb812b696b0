"""Everything that can compute one op here: ours by backend, torch, torch.compile, libraries."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from benchmarks.ops.op import Function, Op
from megafm import ops
from megafm.ops import triton

Kind = Literal["ours", "eager", "compiled", "library"]

OURS = "megafm"  # what a user gets who chooses nothing


@dataclass(frozen=True)
class Provider:
    """
    Attributes:
        name: "megafm", "megafm BACKEND", a peer's name, or "compiled PEER".
        kind: ours, eager, compiled or library; all but ours are peers.
        context: entered around every use: the choice of the backend.
    """

    name: str
    kind: Kind
    function: Function
    context: Callable[[], AbstractContextManager[None]] = nullcontext


def providers(op: Op, device: torch.device, wanted: list[str]) -> list[Provider]:
    """Ours first; only those whose name starts like one of `wanted`, unless that is empty."""
    found = [Provider(OURS, "ours", op.ours)]
    for name in backend_names(op.name):
        if name == "reference" and device.type == "cuda":
            continue  # the definition: its attention alone takes 70 GB at 16k tokens
        found.append(Provider(f"{OURS} {name}", "ours", op.ours, _choice(op.name, name)))
    found += [Provider(name, "eager", function) for name, function in op.eager.items()]
    for name in op.compiled:
        found.append(Provider(f"compiled {name}", "compiled", _compiled(op.eager[name])))
    if device.type == "cuda":
        found += [Provider(name, "library", function) for name, function in op.libraries().items()]
    return [p for p in found if not wanted or p.name.startswith(tuple(wanted))]


def _compiled(function: Function) -> Function:
    """torch.compile of `function`, on its first call: it takes seconds to load."""
    compiled = functools.cache(lambda: torch.compile(function, dynamic=False))
    return lambda *arguments: compiled()(*arguments)


def backend_names(op: str) -> list[str]:
    """The backends of the registry that can run here; none for what is not in it."""
    found = ops.backends().get(op)
    able = [] if found is None else [n for n, reason in found.why_not.items() if reason is None]
    # Triton's interpreter is for tests: nothing to time, and it rounds bf16 wrongly.
    return [name for name in able if name != "triton" or not triton.interpreting()]


def _choice(op: str, backend: str) -> Callable[[], AbstractContextManager[None]]:
    return lambda: ops.use(**{op: backend})
