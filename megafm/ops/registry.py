"""Which implementation of an op runs: a reference each, faster backends beside it, one choice.

The reference is the definition. `auto` takes the first backend of the table in auto.py that can run
here and can take the input; a backend that was asked for by name runs or raises. All of it is
look-ups on constants, so a choice is traced and guarded by torch.compile.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from megafm.ops import auto

BACKENDS = (
    "reference",
    "cpu",
    "triton",
    "cuda",
    "sdpa",
    "torch",
    "onednn",
    "transformer_engine",
    "apex",
)

ENVIRONMENT = "MEGAFM_OPS"


def can_run() -> str | None:
    return None


def takes_all(*args: Any, **kwargs: Any) -> str | None:
    return None


@dataclass(frozen=True)
class Backend:
    """One implementation of an op.

    Attributes:
        run: takes the arguments of the op's reference and returns what it returns.
        unavailable: why this machine cannot run it, or None; asked once per process.
        refuses: of the arguments, why it cannot take them, or None.
        fix: what to run to make it available, e.g. "make setup"; announced once when `auto`
            had to pass it over.
        transforms: it is written in torch's own ops, so torch.func can transform it, as it can
            every reference.
    """

    run: Callable[..., Any]
    unavailable: Callable[[], str | None] = can_run
    refuses: Callable[..., str | None] = takes_all
    fix: str | None = None
    transforms: bool = False


_table: dict[str, dict[str, Backend]] = {}
_requests: dict[str, str] = {}  # op -> backend asked for; an absent op is on auto
_environment_error: str | None = None
_announced: set[str | None] = set()


def register(op: str, backend: str, implementation: Backend) -> None:
    check_name(op, backend)
    _table.setdefault(op, {})[backend] = implementation


def dispatch(op: str, device: torch.device, *args: Any, **kwargs: Any) -> Any:
    """Run `op` on the backend that was asked for, else on the best one that takes the input.

    Raises:
        ValueError: the backend asked for cannot run here, or cannot take this input.
    """
    if _environment_error is not None:
        raise ValueError(_environment_error)
    backends = _table[op]
    asked = _requests.get(op, "auto")
    if asked != "auto":
        reason = why_not(op, asked) or no_transform(op, asked)
        reason = reason or backends[asked].refuses(*args, **kwargs)
        if reason is not None:
            raise ValueError(f"ops.{op}={asked}: {reason}; set ops.{op}=auto")
        return backends[asked].run(*args, **kwargs)
    shape = auto.shape_class(op, *args, **kwargs)
    reason = None
    for name in able(op, device.type, first_tensor(args[0]).dtype, shape):
        reason = no_transform(op, name) or backends[name].refuses(*args, **kwargs)
        if reason is None:
            return backends[name].run(*args, **kwargs)
    if reason is not None and not torch.compiler.is_compiling():
        announce_fallback(op, reason)
    return backends["reference"].run(*args, **kwargs)


def no_transform(op: str, backend: str) -> str | None:
    """Inside torch.func (grad, vmap, ...), why `backend` cannot run; else None.

    torch refuses there the derivatives of torch.library.register_autograd. Not asked while
    torch.compile traces, which sees no None in the answer.
    """
    if torch.compiler.is_compiling() or torch._C._functorch.peek_interpreter_stack() is None:
        return None
    if backend == "reference" or _table[op][backend].transforms:
        return None
    return "torch.func transforms torch's own ops only"


def first_tensor(first: torch.Tensor | Sequence[torch.Tensor]) -> torch.Tensor:
    """Of an op's first argument: a tensor, or a sequence of them (AdamW)."""
    return first if isinstance(first, torch.Tensor) else first[0]


@torch.compiler.assume_constant_result
def able(op: str, device: str, dtype: torch.dtype, shape: str) -> tuple[str, ...]:
    """The backends of auto's table that can run here, best first."""
    return _able(op, device, dtype, shape)


@functools.cache
def _able(op: str, device: str, dtype: torch.dtype, shape: str) -> tuple[str, ...]:
    names = auto.order(op, device, dtype, shape)
    for name in names:
        if why_not(op, name) is not None:
            announce_fix(op, name)
    return tuple(name for name in names if why_not(op, name) is None)


def check_devices(op: str, **tensors: torch.Tensor | None) -> None:
    """Raise ValueError unless all tensors (None is skipped) are on one device."""
    if len({x.device for x in tensors.values() if x is not None}) > 1:
        given = ((name, x.device) for name, x in tensors.items() if x is not None)
        places = ", ".join(f"{name} is on {device}" for name, device in given)
        raise ValueError(f"{op}: {places}; move them to one device")


def refuse_second_derivative(op: str) -> None:
    """For a backward that autograd cannot differentiate: a silent zero would be the alternative."""
    if torch.is_grad_enabled():
        message = f"{op}: this backend has no second derivative; set ops.{op}=reference"
        raise NotImplementedError(message)


# Probes and warnings run as ordinary Python while torch.compile traces; their answers never change.
@torch.compiler.assume_constant_result
def why_not(op: str, backend: str) -> str | None:
    """Why `backend` cannot run `op` on this machine, in one line; None if it can."""
    return _probe(op, backend)


@functools.cache
def _probe(op: str, backend: str) -> str | None:
    implementation = _table[op].get(backend)
    if implementation is None:
        return f"megafm has no {backend} version of {op}"
    return implementation.unavailable()


def announce_fix(op: str, backend: str) -> None:
    """Warn, once per reason, that `auto` passes over a backend which the user could install."""
    fix, reason = _table[op][backend].fix, why_not(op, backend)
    if fix is not None and reason not in _announced:
        _announced.add(reason)
        warnings.warn(f"megafm: {reason}, so {op} runs slower; to fix: {fix}", stacklevel=4)


def announce_fallback(op: str, reason: str) -> None:
    """Warn, once per op, that an input went to the slow reference because nothing else takes it."""
    if op not in _announced:
        _announced.add(op)
        warnings.warn(f"megafm: {op} runs its slow reference: {reason}", stacklevel=4)


@contextmanager
def use(**requests: str) -> Iterator[None]:
    """Run ops on the named backends inside the block: `with use(attention="reference"): ...`.

    For the whole process, not one thread; the innermost block wins over config and environment.

    Raises:
        ValueError: an unknown op or backend, or a backend that cannot run on this machine.
    """
    check_requests(requests)
    before = dict(_requests)
    _requests.update(requests)
    try:
        yield
    finally:
        _requests.clear()
        _requests.update(before)


@dataclass(frozen=True)
class OpsConfig:
    """The backend of each op; "auto" is the fastest one that can run and takes the input."""

    attention: str = "auto"
    attention_backward: str = "auto"
    rms_norm: str = "auto"
    rope: str = "auto"
    swiglu: str = "auto"
    cross_entropy: str = "auto"
    linear: str = "auto"
    grouped_linear: str = "auto"
    linear_cross_entropy: str = "auto"
    adamw: str = "auto"
    grad_norm: str = "auto"

    def __post_init__(self) -> None:
        for op, backend in dataclasses.asdict(self).items():
            check_name(op, backend)


def configure(config: OpsConfig) -> None:
    """Apply `config` for the whole process. Fields on "auto" leave MEGAFM_OPS in force.

    Raises:
        ValueError: a backend that cannot run on this machine, or a wrong MEGAFM_OPS.
    """
    if _environment_error is not None:
        raise ValueError(_environment_error)
    asked = {op: name for op, name in dataclasses.asdict(config).items() if name != "auto"}
    requests = _environment_requests() | asked
    check_requests(requests)
    _requests.clear()
    _requests.update(requests)


@dataclass(frozen=True)
class OpBackends:
    """What this machine can run of one op.

    Attributes:
        pick: device -> "float32" or "float32 large" (dtype, class of shape) -> what auto tries
            first.
        why_not: backend -> None if it can run here, else the reason.
        absent: the backends that megafm has no version of this op for.
        fix: backend -> what to run to make it available, where that is known.
    """

    pick: dict[str, dict[str, str]]
    why_not: dict[str, str | None]
    absent: tuple[str, ...]
    fix: dict[str, str]


def backends() -> dict[str, OpBackends]:
    """For each op, the backends that can run on this machine, and why the others cannot."""
    if _environment_error is not None:
        raise ValueError(_environment_error)
    devices = auto.DEVICES if torch.cuda.is_available() else ("cpu",)
    return {op: _describe(op, devices) for op in sorted(_table)}


def _describe(op: str, devices: tuple[str, ...]) -> OpBackends:
    reasons = {name: why_not(op, name) for name in BACKENDS}
    fixes = {name: b.fix for name, b in _table[op].items() if b.fix and reasons[name]}
    pick = {device: dict(_first_choices(op, device, reasons)) for device in devices}
    absent = tuple(name for name in BACKENDS if name not in _table[op])
    return OpBackends(pick, reasons, absent, fixes)


def _first_choices(
    op: str, device: str, reasons: Mapping[str, str | None]
) -> Iterator[tuple[str, str]]:
    for dtype, shape in auto.cases(op):
        names = [name for name in auto.order(op, device, dtype, shape) if not reasons[name]]
        asked = _requests.get(op, "auto")
        label = f"{str(dtype).removeprefix('torch.')} {shape}".strip()
        yield label, asked if asked != "auto" else (names or ["reference"])[0]


def check_requests(requests: Mapping[str, str]) -> None:
    for op, backend in requests.items():
        check_name(op, backend)
        reason = None if backend == "auto" else why_not(op, backend)
        if reason is not None:
            able = [name for name in BACKENDS if why_not(op, name) is None]
            raise ValueError(f"ops.{op}={backend}: {reason}; set one of auto, {', '.join(able)}")


def check_name(op: str, backend: str) -> None:
    """Raise ValueError for an unknown op or backend, naming the nearest."""
    if op not in auto.AUTO:
        raise ValueError(f"ops.{op}={backend}: no such op; {_nearest(op, tuple(auto.AUTO))}")
    if backend not in (*BACKENDS, "auto"):
        known = ("auto", *BACKENDS)
        raise ValueError(f"ops.{op}={backend}: no such backend; {_nearest(backend, known)}")


def _nearest(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]}?" if close else f"set one of {', '.join(known)}"


def _environment_requests() -> dict[str, str]:
    """MEGAFM_OPS="attention=sdpa,rms_norm=reference" as a dictionary."""
    requests = {}
    for item in filter(None, os.environ.get(ENVIRONMENT, "").replace(" ", "").split(",")):
        op, equals, backend = item.partition("=")
        if not equals:
            raise ValueError(f"{ENVIRONMENT}={item}: not of the form op=backend")
        try:
            check_name(op, backend)
        except ValueError as error:
            raise ValueError(f"{ENVIRONMENT}: {error}") from None
        requests[op] = backend
    return requests


def load_environment() -> None:
    """Read MEGAFM_OPS; a mistake in it is reported by the first use of an op, not by the import."""
    global _environment_error
    try:
        _requests.update(_environment_requests())
    except ValueError as error:
        _environment_error = str(error)
