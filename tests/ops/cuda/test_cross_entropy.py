"""Both ops that end in softmax over the vocabulary."""

from __future__ import annotations

import functools

import pytest
import torch
import torch.nn.functional as F

from megafm import ops
from megafm.ops.cpp.softmax import SoftmaxKernels
from megafm.ops.cpp.storage import CUDA
from megafm.ops.cross_entropy import NO_COLUMN, TorchKernels
from tests.ops.cuda.conftest import EMULATED
from tests.ops.cuda.test_rms_norm import DTYPES
from tests.ops.error_rule import assert_error_rule
from tests.ops.triton.on_device import on_device

TOKENS = 21
INF, NAN = float("inf"), float("nan")


def make_targets(vocab: int) -> torch.Tensor:
    targets = torch.randint(0, vocab, (TOKENS,), generator=torch.Generator().manual_seed(0))
    targets[::7] = -100
    return targets


@DTYPES
@pytest.mark.parametrize("vocab", [1, 37, 64, 4096, 9000])
def test_error_rule(vocab: int, dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(0)
    ours = on_device(ops.cross_entropy, torch.device(device), cross_entropy="cuda")
    plain = functools.partial(F.cross_entropy, reduction="none")
    assert_error_rule(ours, plain, (torch.randn(TOKENS, vocab) * 3, make_targets(vocab)), dtype)


@DTYPES
def test_linear_cross_entropy_error_rule(dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(0)
    inputs = torch.randn(TOKENS, 12), torch.randn(40, 12), make_targets(40)

    def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(hidden, weight), targets, reduction="sum")

    where = torch.device(device)
    ours = on_device(ops.linear_cross_entropy, where, linear_cross_entropy="cuda")
    exact = on_device(ops.linear_cross_entropy, where, linear_cross_entropy="reference")
    assert_error_rule(ours, plain, inputs, dtype, exact=exact)


@pytest.fixture
def kernels(device: str) -> SoftmaxKernels:
    return SoftmaxKernels(CUDA if device == "cuda" else EMULATED)


@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("vocab", [37, 64])
def test_gradient_in_place_is_that_of_the_torch_kernels(
    vocab: int, softcap: float | None, kernels: SoftmaxKernels, device: str
) -> None:
    torch.manual_seed(0)
    ours = torch.randn(TOKENS, vocab, device=device)
    columns = make_targets(vocab).masked_fill(make_targets(vocab) == -100, NO_COLUMN).to(device)
    rows = (columns, *torch.randn(4, TOKENS, device=device).unbind())
    rows[3][2] = rows[4][2] = 0
    theirs = ours.clone()
    kernels.gradient_in_place(ours, *rows, softcap=softcap)
    TorchKernels.gradient_in_place(theirs, *rows, softcap=softcap)
    torch.testing.assert_close(ours, theirs)


def test_rows_of_a_wider_buffer(kernels: SoftmaxKernels, device: str) -> None:
    logits = torch.randn(4, 50, device=device)[:, 7:37]
    columns = torch.tensor([0, 5, 29, NO_COLUMN], device=device)
    for ours, right in zip(
        kernels.stats(logits, columns), kernels.stats(logits.clone(), columns), strict=True
    ):
        assert torch.equal(ours, right)


def test_masked_logits_and_what_is_not_finite(kernels: SoftmaxKernels, device: str) -> None:
    logits = torch.zeros(5, 9000, device=device)
    logits[0, :8000] = -INF  # all of a thread's first steps, then finite ones
    logits[1] = -INF
    logits[2, 8999] = NAN
    logits[3, 4] = INF
    columns = torch.tensor([8500, 0, 0, 0, 9000], device=device)
    top, log_total, picked = kernels.stats(logits, columns)
    losses = log_total - picked
    assert losses[0].item() == pytest.approx(torch.tensor(1000.0).log().item())
    assert losses[1:4].isnan().all()
    assert picked[4].isnan()  # a column outside the row: nothing is read there
    assert top[1] == log_total[1] == -INF
