"""Both ops that end in softmax over the vocabulary; its two kernels alone: test_softmax.py."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from megafm import ops
from tests.ops.error_rule import assert_error_rule
from tests.ops.triton.on_device import on_device

pytest.importorskip("triton")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["fp32", "fp16"])
TOKENS, VOCAB, DIM = 70, 37, 12


def make_targets() -> torch.Tensor:
    targets = torch.randint(0, VOCAB, (TOKENS,), generator=torch.Generator().manual_seed(0))
    targets[::7] = -100
    return targets


@DTYPES
def test_cross_entropy_error_rule(dtype: torch.dtype, device: torch.device) -> None:
    torch.manual_seed(0)
    ours = on_device(ops.cross_entropy, device, cross_entropy="triton")
    plain = functools.partial(F.cross_entropy, reduction="none")
    assert_error_rule(ours, plain, (torch.randn(TOKENS, VOCAB) * 3, make_targets()), dtype)


def test_cross_entropy_with_z_loss_and_another_ignored_id(device: torch.device) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(2, 9, VOCAB), torch.randint(0, VOCAB, (2, 9))
    found = []
    for backend, place in (("reference", "cpu"), ("triton", device)):
        leaf, ids = logits.to(place).requires_grad_(), targets.to(place)
        with ops.use(cross_entropy=backend):
            losses = ops.cross_entropy(leaf, ids, ignore_index=int(targets[0, 0]), z_loss=0.1)
        (grad,) = torch.autograd.grad(losses.square().sum(), leaf)
        found.append((losses.cpu(), grad.cpu()))
    torch.testing.assert_close(found[1], found[0])
    assert found[1][0][0, 0] == 0 and not found[1][1][0, 0].any()


@DTYPES
@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_linear_cross_entropy_error_rule(
    reduction: str, dtype: torch.dtype, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_chunks_of_64(monkeypatch)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(TOKENS, DIM), torch.randn(VOCAB, DIM), make_targets()

    def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(F.linear(hidden, weight), targets, reduction=reduction)

    function = functools.partial(ops.linear_cross_entropy, reduction=reduction)
    ours = on_device(function, device, linear_cross_entropy="triton")
    exact = on_device(function, device, linear_cross_entropy="reference")
    assert_error_rule(ours, plain, (hidden, weight, targets), dtype, exact=exact)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("terms", [{"softcap": 3.0}, {"softcap": 3.0, "z_loss": 0.1}], ids=str)
def test_linear_cross_entropy_terms(
    terms: dict[str, Any],
    reduction: str,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_chunks_of_64(monkeypatch)
    torch.manual_seed(0)
    hidden, weight, targets = torch.randn(TOKENS, DIM), torch.randn(VOCAB, DIM), make_targets()
    found = []
    for backend, place in (("reference", "cpu"), ("triton", device)):
        leaves = hidden.to(place).requires_grad_(), weight.to(place).requires_grad_()
        with ops.use(linear_cross_entropy=backend, cross_entropy="reference"):
            loss = ops.linear_cross_entropy(
                *leaves, targets.to(place), reduction=reduction, **terms
            )
        grads = torch.autograd.grad(loss.sum(), leaves)
        found.append([x.cpu() for x in (loss, *grads)])
    torch.testing.assert_close(found[1], found[0], rtol=2e-6, atol=2e-5)


def in_chunks_of_64(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("megafm.ops.linear_cross_entropy")
    for kind in ("cpu", "cuda"):
        monkeypatch.setitem(module.CHUNK_BYTES, kind, 1)


def test_what_they_cannot_do_is_refused(device: torch.device) -> None:
    logits = torch.randn(2, 5, device=device, requires_grad=True)
    targets = torch.tensor([1, 2], device=device)
    with ops.use(cross_entropy="triton", linear_cross_entropy="triton"):
        losses = ops.cross_entropy(logits, targets)
        for op in (ops.cross_entropy, lambda x, y: ops.linear_cross_entropy(x, x, y)):
            with pytest.raises(ValueError, match=r"no Triton kernel for"):
                op(logits.double(), targets)
    with pytest.raises(NotImplementedError, match=r"set ops.cross_entropy=reference"):
        torch.autograd.grad(losses.sum(), logits, create_graph=True)
