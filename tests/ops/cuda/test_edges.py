"""The edges of the input space, see tests/ops/test_edges.py, for the CUDA kernels."""

from __future__ import annotations

import pytest
import torch

from tests.ops.test_edges import OPS, far_apart, results

# Attention has no kernel for fp32; sums of squares and of exponentials are fp32 in every dtype.
DTYPES = dict.fromkeys(OPS, torch.float32) | {"attention": torch.bfloat16}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
every_op = pytest.mark.parametrize("name", OPS)


def made(name: str, rows: int, size: int, device: str) -> list[torch.Tensor]:
    torch.manual_seed(0)
    inputs = OPS[name].inputs(rows, size)
    return [x.to(device, DTYPES[name]) if x.is_floating_point() else x.to(device) for x in inputs]


@pytest.mark.parametrize(
    ("rows", "size"), [(0, 40), (1, 40), (2, 40), (3, 239), (5, 799), (2, 1023), (7, 1)]
)
@every_op
def test_sizes(name: str, rows: int, size: int, device: str) -> None:
    inputs = made(name, rows, size, device)
    bound = TOLERANCE[DTYPES[name]]
    pairs = zip(results(name, "cuda", inputs), results(name, "reference", inputs), strict=True)
    for got, right in pairs:
        torch.testing.assert_close(got, right, rtol=bound, atol=bound, equal_nan=True)


@every_op
def test_offsets_beyond_32_bits(name: str, device: str) -> None:
    """Two rows that lie more than 2**31 elements apart."""
    if device != "cpu":
        pytest.skip("reserves address space of the host: the emulated kernels only")
    inputs = made(name, 2, 40, device)
    expected = results(name, "cuda", inputs)
    far = far_apart(inputs[0], OPS[name].axis)
    assert far.stride(OPS[name].axis) > 2**31
    for got, right in zip(results(name, "cuda", [far, *inputs[1:]]), expected, strict=True):
        assert torch.equal(got, right)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@every_op
def test_nan_and_infinity_come_through(name: str, bad: float, device: str) -> None:
    inputs = made(name, 5, 40, device)
    inputs[0].select(OPS[name].axis, 2)[..., 1] = bad
    bound = TOLERANCE[DTYPES[name]]
    pairs = zip(results(name, "cuda", inputs), results(name, "reference", inputs), strict=True)
    for got, right in pairs:
        both = got.isfinite() & right.isfinite()
        assert torch.equal(both, got.isfinite())  # nothing is hidden
        # A query whose scores are all -inf by its own values, not by a mask: attention's reference
        # takes it for one that sees no key, the kernels give NaN.
        assert torch.equal(both, right.isfinite()) or (name, bad) == ("attention", float("inf"))
        torch.testing.assert_close(got[both], right[both], rtol=bound, atol=bound)


@every_op
def test_thirty_runs_give_the_same_bits(name: str, device: str) -> None:
    inputs = made(name, 9, 65, device)
    first = results(name, "cuda", inputs)
    for _ in range(29):
        for got, right in zip(results(name, "cuda", inputs), first, strict=True):
            assert torch.equal(got, right)
