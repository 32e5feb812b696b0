"""Grouped products: each group's own, and nothing for groups without rows."""

from __future__ import annotations

import pytest
import torch

from megafm import ops


@pytest.mark.parametrize("counts", [[3, 0, 4, 2], [0, 9, 0, 0], [0, 0, 0, 0]])
@pytest.mark.parametrize(
    ("dtype", "backend"),
    [
        (torch.float64, "reference"),
        (torch.float32, "reference"),
        (torch.bfloat16, "reference"),
        (torch.bfloat16, "torch"),
    ],
)
def test_each_group_is_multiplied_with_its_own_weight(dtype, backend, counts):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(sum(counts), 16, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(4, 8, 16, generator=generator).to(dtype).requires_grad_()
    upstream = torch.randn(sum(counts), 8, generator=generator).to(dtype)
    with ops.use(grouped_linear=backend):
        found = ops.grouped_linear(x, weight, torch.tensor(counts))
    group = torch.arange(4).repeat_interleave(torch.tensor(counts))
    expected = torch.einsum("ni,noi->no", x.double(), weight.double()[group])
    within = 1e-12 if dtype == torch.float64 else 2e-2 if dtype == torch.bfloat16 else 1e-5
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=within, atol=within)
    ours = torch.autograd.grad(found, (x, weight), upstream)
    theirs = torch.autograd.grad(expected, (x, weight), upstream.double())
    for gradient, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, wanted.to(dtype), rtol=within, atol=4 * within)


def test_what_does_not_fit_is_refused():
    x, weight = torch.zeros(3, 16), torch.zeros(2, 8, 16)
    with pytest.raises(ValueError, match=r"weight \(2, 8, 16\) does not fit x \(3, 15\)"):
        ops.grouped_linear(x[:, 1:], weight, torch.tensor([1, 2]))
    with ops.use(grouped_linear="torch"), pytest.raises(ValueError, match="it is for bfloat16"):
        ops.grouped_linear(x, weight, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"counts \(3,\) for 2 groups"):
        ops.grouped_linear(x, weight, torch.tensor([1, 1, 1]))
