"""The adapter against a stand-in with apex's signatures; nothing here runs apex."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from megafm.ops import rms_norm
from megafm.ops.adapters import apex
from tests.ops.adapters import kernels
from tests.ops.adapters.modules import put_module


def mixed_dtype_fused_rms_norm_affine(
    input: torch.Tensor,
    weight: torch.Tensor,
    normalized_shape: Sequence[int],
    eps: float = 1e-6,
    memory_efficient: bool = False,
) -> torch.Tensor:
    """The output has the dtype of the weight; inside autocast the arguments are cast first."""
    assert not torch.is_autocast_enabled(input.device.type)
    wide = input.to(weight.dtype)
    scale = (wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return wide * scale * weight.view(normalized_shape)


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> None:
    put_module(monkeypatch, "apex")
    put_module(monkeypatch, "apex.normalization")
    put_module(
        monkeypatch,
        "apex.normalization.fused_layer_norm",
        mixed_dtype_fused_rms_norm_affine=mixed_dtype_fused_rms_norm_affine,
    )
    put_module(
        monkeypatch,
        "apex.multi_tensor_apply",
        multi_tensor_applier=kernels.multi_tensor_applier,
    )
    put_module(
        monkeypatch,
        "amp_C",
        multi_tensor_adam=kernels.multi_tensor_adam,
        multi_tensor_adam_capturable_master=kernels.multi_tensor_adam_capturable_master,
        multi_tensor_l2norm=kernels.multi_tensor_l2norm,
    )


@pytest.mark.parametrize("dtypes", [(torch.float32,) * 2, (torch.bfloat16, torch.float32)])
def test_rms_norm_with_and_without_residual(dtypes: tuple[torch.dtype, torch.dtype]) -> None:
    x = torch.randn(2, 3, 8).to(dtypes[0]).requires_grad_()
    weight = torch.randn(8).to(dtypes[1]).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        alone = apex.RMS_NORM.run(x, weight, 1e-5, None)
        y, total = apex.RMS_NORM.run(x, weight, 1e-5, 2 * x)
    torch.testing.assert_close(alone, rms_norm(x, weight, 1e-5))
    torch.testing.assert_close((y, total), rms_norm(x, weight, 1e-5, residual=2 * x))
    y.sum().backward()
    assert x.grad is not None and weight.grad is not None


@pytest.mark.parametrize(
    ("dtype", "master"), [(torch.float32, False), (torch.bfloat16, True), (torch.float16, True)]
)
def test_adamw(dtype: torch.dtype, master: bool) -> None:
    kernels.assert_adamw(apex.ADAMW.run, dtype, master)


def test_grad_norm() -> None:
    kernels.assert_grad_norm(apex.GRAD_NORM.run)


def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert apex.ADAMW.unavailable() is None
    found = apex.RMS_NORM.unavailable()  # the package alone, as that of PyPI, is not enough
    assert found == "apex with its CUDA extensions is not installed"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert apex.ADAMW.unavailable() == "torch sees no CUDA device"


def test_refuses_what_it_cannot_take() -> None:
    x, update = torch.ones(2, 4), None
    assert apex.RMS_NORM.refuses(x, x[0], 1e-6, None) == "it runs on CUDA tensors, not on cpu"
    assert apex.RMS_NORM.refuses(x.double(), x[0], 1e-6, None) == "it computes in float32"
    assert "not on cpu" in apex.ADAMW.refuses([x], [x], [x], [x], None, update)
    meta = torch.ones(2, device="meta")
    assert "not on meta" in apex.GRAD_NORM.refuses([meta])
