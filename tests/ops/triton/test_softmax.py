from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm.ops.cross_entropy import NO_COLUMN
from tests.ops.error_rule import assert_error_rule

pytest.importorskip("triton")
NAN, INF = float("nan"), float("inf")


def plain(logits: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """lse of each row, and how far the picked logit is below it (0 without a column)."""
    losses = F.cross_entropy(logits, columns, reduction="none", ignore_index=NO_COLUMN)
    return torch.logsumexp(logits, -1), losses


class Fused(torch.autograd.Function):
    """The same by the two kernels."""

    @staticmethod
    def forward(ctx, logits, columns):
        from megafm.ops.triton import softmax

        top, log_total, picked = softmax.stats(logits, columns)
        ctx.save_for_backward(logits, columns, top, log_total)
        losses = (log_total - picked).masked_fill(columns == NO_COLUMN, 0)
        return (top + log_total).to(logits.dtype), losses.to(logits.dtype)

    @staticmethod
    def backward(ctx, d_lse, d_losses):
        from megafm.ops.triton import softmax

        d_losses = d_losses.float().masked_fill(ctx.saved_tensors[1] == NO_COLUMN, 0)
        return softmax.gradient(*ctx.saved_tensors, d_lse + d_losses, -d_losses), None


def fused(device: torch.device):
    def run(logits: torch.Tensor, columns: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        lse, picked = Fused.apply(logits.to(device), columns.to(device))
        return lse.cpu(), picked.cpu()

    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
@pytest.mark.parametrize("shape", [(0, 7), (5, 1), (6, 33), (3, 4097), (2, 9000)], ids=str)
def test_error_rule(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(0)
    columns = torch.randint(0, shape[-1], shape[:-1])
    columns.view(-1)[::3] = NO_COLUMN
    assert_error_rule(fused(device), plain, (torch.randn(shape) * 3, columns), dtype)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(rows=st.integers(1, 9), vocab=st.integers(8, 5000), magnitude=st.integers(-3, 3))
def test_error_rule_for_any_size_and_magnitude(rows: int, vocab: int, magnitude: int) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    logits, columns = torch.randn(rows, vocab) * 10.0**magnitude, torch.arange(rows) % vocab
    assert_error_rule(fused(device), plain, (logits, columns), torch.float32)


def test_rows_of_a_wider_buffer(device: torch.device) -> None:
    from megafm.ops.triton import softmax

    torch.manual_seed(0)
    wide = torch.randn(4, 50, device=device)
    columns = torch.tensor([0, 5, 29, NO_COLUMN], device=device)
    for logits in (wide[:, 7:37], wide[:2].repeat(15, 1).mT[:4]):
        rows = softmax.stats(logits, columns)
        for ours, expected in zip(rows, softmax.stats(logits.clone(), columns), strict=True):
            assert torch.equal(ours, expected)
        ones = torch.ones(4, device=device)
        expected = logits.double().softmax(-1)
        expected[range(3), [0, 5, 29]] += 1
        found = softmax.gradient(logits, columns, *rows[:2], ones, ones)
        torch.testing.assert_close(found, expected.float())


def lse_and_picked(logits: torch.Tensor, columns: torch.Tensor) -> tuple:
    picked = logits.gather(-1, columns.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.logsumexp(logits, -1), picked.masked_fill(columns == NO_COLUMN, 0)


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_in_place_and_through_a_soft_cap(softcap: float | None, device: torch.device) -> None:
    from megafm.ops.triton import softmax

    torch.manual_seed(0)
    x = (torch.randn(5, 60) * 4).double().requires_grad_()
    columns = torch.tensor([3, 0, NO_COLUMN, 59, 7])
    capped = x if softcap is None else softcap * torch.tanh(x / softcap)
    slopes = torch.randn(2, 5)
    slopes[:, 1] = 0
    (expected,) = torch.autograd.grad(lse_and_picked(capped, columns), x, list(slopes.double()))
    buffer = torch.full((5, 80), 2.0, device=device)
    logits = buffer[:, 10:70]
    logits.copy_(capped.detach())
    columns, slopes = columns.to(device), slopes.to(device)
    top, log_total, _ = softmax.stats(logits, columns)
    softmax.gradient_in_place(logits, columns, top, log_total, *slopes, softcap=softcap)
    torch.testing.assert_close(logits.cpu(), expected.float())
    assert (buffer[:, :10] == 2).all() and (buffer[:, 70:] == 2).all()
    assert not logits[1].any()


def test_masked_logits_and_what_is_not_finite(device: torch.device) -> None:
    from megafm.ops.triton import softmax

    logits = torch.zeros(5, 9000, device=device)
    logits[0, :8000] = -INF  # whole blocks of nothing, then finite ones
    logits[1] = -INF
    logits[2, 8999] = NAN
    logits[3, 4] = INF
    columns = torch.tensor([8500, 0, 0, 0, 0], device=device)
    top, log_total, picked = softmax.stats(logits, columns)
    losses = log_total - picked
    assert losses[0].item() == pytest.approx(torch.tensor(1000.0).log().item())
    assert losses[1:4].isnan().all() and losses[4].isfinite()
    assert top[1] == log_total[1] == -INF
    ones = torch.ones(5, device=device)
    slopes = softmax.gradient(logits, columns, top, log_total, ones, -ones)
    assert slopes[1:4].isnan().any(1).all() and slopes[0, :8000].eq(0).all()
    zeros = torch.zeros(5, device=device)
    assert not softmax.gradient(logits, columns, top, log_total, zeros, zeros).any()


def test_a_column_outside_the_row_gives_nan_and_reads_nothing(device: torch.device) -> None:
    from megafm.ops.triton import softmax

    columns = torch.tensor([9, -1], device=device)
    picked = softmax.stats(torch.zeros(2, 9, device=device), columns)[2]
    assert picked.isnan().all()


def test_the_same_bits_on_every_run(device: torch.device) -> None:
    torch.manual_seed(0)
    logits, columns = torch.randn(3, 5000, requires_grad=True), torch.tensor([1, 4999, NO_COLUMN])
    runs = []
    for _ in range(30):
        outputs = fused(device)(logits, columns)
        runs.append((*outputs, *torch.autograd.grad(sum(outputs).sum(), logits)))
    assert all(torch.equal(a, b) for run in runs for a, b in zip(run, runs[0], strict=True))
