"""The edges of the input space, the same for every op and every backend that runs here.

Each backend is held to the op's reference: shapes of outputs and gradients, values, the same 30
times. Our own kernels (Triton's in its interpreter) also give NaN and infinity in the same places,
and the same bits from strided input as from contiguous; torch's kernels promise neither.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch

from megafm import ops
from megafm.ops import registry

OWN = ("cpu", "triton")
NO_RESERVE = 0x4000  # MAP_NORESERVE of Linux, which Python 3.11 does not name
Tensors = tuple[torch.Tensor, ...]


@dataclass(frozen=True)
class Op:
    """How to call an op on rows of a size.

    Attributes:
        run: the op, of the tensors that `inputs` makes.
        inputs: (rows, size) -> tensors; the floating ones get gradients.
        axis: of the first input, the dimension that counts rows.
    """

    run: Callable[..., torch.Tensor | Tensors]
    inputs: Callable[[int, int], Tensors]
    axis: int = 0


def _norm(rows: int, size: int) -> Tensors:
    return torch.randn(rows, size), torch.randn(size)


def _add_norm(rows: int, size: int) -> Tensors:
    return torch.randn(rows, size), torch.randn(rows, size), torch.randn(size)


def _rope(rows: int, size: int) -> Tensors:
    return torch.randn(2, rows, 4, 16), torch.randn(2, rows, 2, 16)


def _run_rope(q: torch.Tensor, k: torch.Tensor) -> Tensors:
    cos, sin = ops.rope_cache(max(1, q.shape[1]), 16)
    return ops.apply_rope(q, k, cos, sin)


def _swiglu(rows: int, size: int) -> Tensors:
    return torch.randn(rows, size), torch.randn(rows, size)


def _loss(rows: int, size: int) -> Tensors:
    return torch.randn(rows, size), torch.arange(rows) % size


def _linear_loss(rows: int, size: int) -> Tensors:
    return torch.randn(rows, 24), torch.randn(size, 24), torch.arange(rows) % size


def _attend(rows: int, size: int) -> Tensors:
    return tuple(torch.randn(2, rows, heads, 16) for heads in (4, 2, 2))


OPS = {
    "rms_norm": Op(ops.rms_norm, _norm),
    "rms_norm+residual": Op(
        lambda x, residual, weight: ops.rms_norm(x, weight, residual=residual), _add_norm
    ),
    "rope": Op(_run_rope, _rope, axis=1),
    "swiglu": Op(ops.swiglu, _swiglu),
    "cross_entropy": Op(ops.cross_entropy, _loss),
    "linear_cross_entropy": Op(ops.linear_cross_entropy, _linear_loss),
    "attention": Op(ops.attention, _attend, axis=1),
}


def _cases(own: bool = False, batched: bool = False) -> list[object]:
    return [
        pytest.param(
            name, backend, marks=_needs(name.partition("+")[0], backend), id=f"{name}-{backend}"
        )
        for name in OPS
        for backend in registry._table[name.partition("+")[0]]
        if backend in OWN or not (own or backend == "reference")
        if not batched or OPS[name].axis != 0
    ]


def _needs(name: str, backend: str) -> pytest.MarkDecorator:
    reason = registry.why_not(name.partition("+")[0], backend)
    return pytest.mark.skipif(reason is not None, reason=f"{backend}: {reason}")


every_backend = pytest.mark.parametrize(("name", "backend"), _cases())
own_kernels = pytest.mark.parametrize(("name", "backend"), _cases(own=True))
batched = pytest.mark.parametrize(("name", "backend"), _cases(batched=True))  # not by rows alone


def results(name: str, backend: str, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Outputs, then the gradients of every floating input."""
    leaves = [x.detach() for x in inputs]
    wanted = [x.requires_grad_() for x in leaves if x.is_floating_point()]
    with ops.use(**{name.partition("+")[0]: backend}):
        outputs = OPS[name].run(*leaves)
        outputs = list(outputs) if isinstance(outputs, tuple) else [outputs]
        return [*outputs, *torch.autograd.grad(sum(y.sum() for y in outputs), wanted)]


def assert_same(name: str, backend: str, inputs: Sequence[torch.Tensor]) -> None:
    """The reference's results; what is not our own kernel may say that it takes no such input."""
    try:
        found = results(name, backend, inputs)
    except ValueError as error:
        assert backend not in OWN
        assert str(error).startswith(f"ops.{name.partition('+')[0]}={backend}: ")
        return
    for got, right in zip(found, results(name, "reference", inputs), strict=True):
        torch.testing.assert_close(got, right, rtol=1e-4, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("rows", [0, 1, 2])
@every_backend
def test_no_row_a_single_row_and_two(name: str, backend: str, rows: int) -> None:
    torch.manual_seed(0)
    assert_same(name, backend, OPS[name].inputs(rows, 40))


@pytest.mark.parametrize(("rows", "size"), [(3, 239), (239, 3), (5, 799), (2, 1023), (7, 1)])
@every_backend
def test_odd_sizes(name: str, backend: str, rows: int, size: int) -> None:
    torch.manual_seed(0)
    assert_same(name, backend, OPS[name].inputs(rows, size))


@batched
def test_an_empty_batch(name: str, backend: str) -> None:
    inputs = [x[:0] for x in OPS[name].inputs(3, 40)]
    assert_same(name, backend, inputs)


@own_kernels
def test_strided_input_gives_the_bits_of_contiguous_input(name: str, backend: str) -> None:
    torch.manual_seed(0)
    inputs = OPS[name].inputs(6, 40)
    layouts: list[Callable[[torch.Tensor], torch.Tensor]] = [
        lambda x: x.mT.contiguous().mT if x.dim() > 1 else x,  # the last dimension is strided
        lambda x: torch.cat((x, x), -1)[..., : x.shape[-1]],  # half of a fused projection
        lambda x: torch.stack((x, x), 1)[:, 0],  # every other row
    ]
    expected = results(name, backend, inputs)
    for layout in layouts:
        strided = [layout(x) if x.is_floating_point() else x for x in inputs]
        for got, right in zip(results(name, backend, strided), expected, strict=True):
            assert torch.equal(got, right)


@own_kernels
def test_offsets_beyond_32_bits(name: str, backend: str) -> None:
    """Two rows (of all batches) that lie more than 2**31 elements apart."""
    torch.manual_seed(0)
    op = OPS[name]
    inputs = op.inputs(2, 40)
    expected = results(name, backend, inputs)
    far = far_apart(inputs[0], op.axis)
    assert far.stride(op.axis) > 2**31
    for got, right in zip(results(name, backend, [far, *inputs[1:]]), expected, strict=True):
        assert torch.equal(got, right)


def far_apart(x: torch.Tensor, axis: int) -> torch.Tensor:
    """A copy of `x` with its two rows in address space that is reserved, and backed where used."""
    step = 2**31 + 8
    dense = list(x.narrow(axis, 0, 1).contiguous().stride())
    dense[axis] = step
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    space = mmap.mmap(-1, (step + x.numel()) * x.element_size(), flags=flags)
    far = torch.frombuffer(space, dtype=x.dtype).as_strided(x.shape, dense)
    return far.copy_(x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@own_kernels
def test_nan_and_infinity_come_through_where_they_do_in_the_reference(
    name: str, backend: str, bad: float
) -> None:
    torch.manual_seed(0)
    inputs = OPS[name].inputs(5, 40)
    inputs[0].select(OPS[name].axis, 2)[..., 1] = bad
    expected = results(name, "reference", inputs)
    for got, right in zip(results(name, backend, inputs), expected, strict=True):
        hidden = got.isfinite() & ~right.isfinite()
        spread = ~got.isfinite() & right.isfinite()
        assert not hidden.any()
        # Triton's attention multiplies the rows of a block that hold NaN by 0, where others leave
        # them out: keys that the bad query does not see get NaN in all dimensions, not in one.
        assert not spread.any() or (name, backend) == ("attention", "triton")
        both = got.isfinite() & right.isfinite()
        torch.testing.assert_close(got[both], right[both], rtol=1e-4, atol=1e-4)


@every_backend
def test_thirty_runs_give_the_same_bits(name: str, backend: str) -> None:
    torch.manual_seed(0)
    inputs = OPS[name].inputs(*((33, 65) if backend != "triton" else (5, 33)))  # it interprets
    first = results(name, backend, inputs)
    for _ in range(29):
        for got, right in zip(results(name, backend, inputs), first, strict=True):
            assert torch.equal(got, right)
