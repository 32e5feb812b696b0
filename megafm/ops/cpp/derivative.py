"""Ops with a derivative: registered with torch for traces, called in eager mode by a shorter way.

A call through the dispatcher reaches a derivative of torch.library.register_autograd in Python even
where no gradient is wanted, and with one goes back and forth twice. The same formulas in an
autograd.Function, called from Python at once, save about 13 us of a forward and backward, and about
50 us where the caches are cold (benchmarks/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

_functions: dict[OpOverload, type[torch.autograd.Function]] = {}


def register(op: OpOverload, backward: Callable[..., Any], save: Callable[..., None]) -> None:
    """Give `op` the derivative `backward(ctx, *gradients)`; `save(ctx, inputs, output)` precedes.

    As torch.library.register_autograd takes them; the gradients of all inputs, None included, are
    what `backward` returns.
    """
    torch.library.register_autograd(op, backward, setup_context=save)

    def forward(ctx: Any, *args: Any) -> Any:
        output = _below_autograd(op, *args)
        save(ctx, args, output)
        return output

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    _functions[op] = type(op.name(), (torch.autograd.Function,), methods)


def call(op: OpOverload, *args: Any) -> Any:
    """`op(*args)`, differentiable."""
    if torch.compiler.is_compiling():
        return op(*args)
    if torch.is_grad_enabled() and torch._C._any_requires_grad(*args):
        return _functions[op].apply(*args)
    return _below_autograd(op, *args)


def _below_autograd(op: OpOverload, *args: Any) -> Any:
    with torch._C._AutoDispatchBelowAutograd():
        return op(*args)
