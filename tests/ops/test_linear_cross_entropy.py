from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from megafm import ops
from tests.ops.backend import CPU, assert_same_bits, needs_library, on_backend
from tests.ops.error_rule import assert_error_rule

module = importlib.import_module("megafm.ops.linear_cross_entropy")

TOKENS, VOCAB, DIM = 201, 37, 12
BACKENDS = ["torch", *CPU]
TERMS: list[dict[str, Any]] = [{}, {"softcap": 3.0}, {"z_loss": 0.1}]
TERMS.append({"softcap": 3.0, "z_loss": 0.1, "ignore_index": 5})


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with on_backend("linear_cross_entropy", request.param):
        yield request.param


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.CHUNK_BYTES, "cpu", 1)  # 64 tokens, and a rest of 9


def make(tokens: int = TOKENS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    targets = torch.randint(0, VOCAB, (tokens,))
    targets[::7] = -100
    return torch.randn(tokens, DIM), torch.randn(VOCAB, DIM), targets


def values(reduction: str, dtype: torch.dtype, **terms: Any) -> list[torch.Tensor]:
    """The loss, and the gradients of three times it (of a weighted sum for "none")."""
    hidden, weight, targets = make()
    targets = targets.masked_fill(targets == -100, terms.get("ignore_index", -100))
    leaves = [x.to(dtype).requires_grad_() for x in (hidden, weight)]
    loss = ops.linear_cross_entropy(*leaves, targets, reduction=reduction, **terms)
    scale = torch.linspace(-1, 3, loss.numel(), dtype=loss.dtype) if loss.dim() else 3
    return [loss.detach(), *torch.autograd.grad((loss * scale).sum(), leaves)]


@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("backend", ["torch", pytest.param("cpu", marks=needs_library)])
def test_in_chunks_equals_the_reference(
    backend: str, reduction: str, terms: dict[str, Any]
) -> None:
    with ops.use(linear_cross_entropy="reference"):
        expected = values(reduction, torch.float64, **terms)
    dtype = torch.float64 if backend == "torch" else torch.float32
    with ops.use(linear_cross_entropy=backend):
        found = values(reduction, dtype, **terms)
    for ours, right in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, right.to(dtype), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bf16_units", [False, True])
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("backend", ["reference", *BACKENDS], indirect=True)
def test_error_rule(
    backend: str,
    reduction: str,
    dtype: torch.dtype,
    softcap: float | None,
    bf16_units: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "has_bf16_units", lambda: bf16_units)
    hidden, weight, targets = make()

    def ours(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return ops.linear_cross_entropy(
            hidden, weight, targets, softcap=softcap, reduction=reduction
        )

    def plain(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        logits = F.linear(hidden, weight)
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return F.cross_entropy(logits, targets, reduction=reduction)

    assert_error_rule(ours, plain, (hidden, weight), dtype)


def test_reference_gradients_match_finite_differences() -> None:
    hidden, weight, targets = make(tokens=9)
    with ops.use(linear_cross_entropy="reference"):
        assert torch.autograd.gradcheck(
            lambda h, w: ops.linear_cross_entropy(h, w, targets, softcap=2.0, z_loss=0.1),
            (hidden.double().requires_grad_(), weight.double().requires_grad_()),
        )


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_logits_far_beyond_exp_are_finite(backend: str) -> None:
    hidden = torch.tensor([[1e4], [1e4]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0]])
    loss = ops.linear_cross_entropy(hidden, weight, torch.tensor([0, 1]))
    loss.backward()
    assert loss.item() == 2e4
    assert hidden.grad.tolist() == [[0], [2]]


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_autocast_runs_matrix_products_in_bf16_and_keeps_the_weights_gradient_fp32(
    reduction: str,
) -> None:
    hidden, weight, targets = make()
    hidden.requires_grad_()
    weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = ops.linear_cross_entropy(hidden, weight, targets, reduction=reduction)
    assert loss.dtype == torch.float32
    loss.sum().backward()
    assert weight.grad.dtype == hidden.grad.dtype == torch.float32
    assert not torch.equal(weight.grad, weight.grad.bfloat16().float())  # was never rounded
    low = values(reduction, torch.bfloat16)
    torch.testing.assert_close(loss.detach(), low[0])


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("frozen", [0, 1])
def test_only_what_needs_a_gradient_gets_one(frozen: int, reduction: str) -> None:
    hidden, weight, targets = make()
    leaves = [hidden, weight]
    trained = leaves[1 - frozen].requires_grad_()
    loss = ops.linear_cross_entropy(hidden, weight, targets, reduction=reduction)
    got = torch.autograd.grad(loss.sum(), trained)[0]
    with ops.use(linear_cross_entropy="reference"):
        loss = ops.linear_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(got, torch.autograd.grad(loss, trained)[0])


class LargestTensor(TorchDispatchMode):
    """Sees the size of everything that torch makes."""

    numel, matmuls = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        tensors = out if isinstance(out, tuple | list) else [out]
        sizes = [x.numel() for x in tensors if isinstance(x, torch.Tensor)]
        self.numel = max(self.numel, *sizes, 0)
        # In inference mode torch shows the whole op, not the product inside it.
        self.matmuls += func in (torch.ops.aten.mm.default, torch.ops.aten.linear.default)
        return out


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_never_holds_the_logits_of_all_tokens(backend: str) -> None:
    hidden, weight, targets = (x for x in make(tokens=64 * 8))
    with LargestTensor() as seen:
        loss = ops.linear_cross_entropy(hidden.requires_grad_(), weight.requires_grad_(), targets)
        loss.backward()
    assert seen.numel == hidden.numel()
    assert seen.matmuls == 3 * 8


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_without_gradients_only_the_logits_are_formed(backend: str, context: Any) -> None:
    hidden, weight, targets = make(tokens=64 * 3)
    weight.requires_grad_()
    expected = ops.linear_cross_entropy(hidden, weight, targets).detach()
    with context(), LargestTensor() as seen:
        loss = ops.linear_cross_entropy(hidden, weight, targets)
    assert seen.matmuls == 3
    assert torch.equal(loss, expected)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_no_tokens_and_only_ignored_tokens_give_zero(backend: str, reduction: str) -> None:
    hidden, weight, targets = make()
    weight.requires_grad_()
    for chosen in (slice(0, 0), targets == -100):
        x = hidden[chosen].requires_grad_()
        loss = ops.linear_cross_entropy(x, weight, targets[chosen], reduction=reduction)
        assert loss.sum().item() == 0
        gradients = torch.autograd.grad(loss.sum(), (x, weight))
        assert all(not gradient.any() for gradient in gradients)


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_compiled_in_one_graph_equals_eager(backend: str, reduction: str) -> None:
    hidden, weight, targets = make()
    leaves = (hidden.requires_grad_(), weight.requires_grad_())

    def loss(h: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return ops.linear_cross_entropy(h, w, targets, reduction=reduction, z_loss=0.1).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*leaves), loss(*leaves))
    ours = torch.autograd.grad(compiled(*leaves), leaves)
    torch.testing.assert_close(ours, torch.autograd.grad(loss(*leaves), leaves))


def test_wrong_arguments_are_refused() -> None:
    hidden, weight, targets = make()
    with pytest.raises(ValueError, match=r"set \(tokens, dim\) and \(tokens,\)"):
        ops.linear_cross_entropy(hidden, weight, targets[1:])
    with pytest.raises(ValueError, match="reduction=mean"):
        ops.linear_cross_entropy(hidden, weight, targets, reduction="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"softcap=0.0: set it above 0"):
        ops.linear_cross_entropy(hidden, weight, targets, softcap=0.0)


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_a_factor_on_the_loss_is_not_rounded_to_bf16(backend: str) -> None:
    hidden, weight, targets = make()
    leaves = [x.bfloat16().requires_grad_() for x in (hidden, weight)]
    loss = ops.linear_cross_entropy(*leaves, targets)
    factor = 1 + 2**-8  # halfway between two bf16: rounds to 1
    plain = torch.autograd.grad(loss, leaves, retain_graph=True)
    scaled = torch.autograd.grad(loss * factor, leaves)
    for ours, one in zip(scaled, plain, strict=True):
        assert torch.equal(ours, (one.double() * factor).bfloat16())
        assert not torch.equal(ours, one)


def test_float64_stays_float64_inside_autocast() -> None:
    hidden, weight, targets = make()
    with torch.autocast("cpu", torch.bfloat16):
        loss = ops.linear_cross_entropy(hidden.double(), weight.double(), targets)
    assert loss.dtype == torch.float64


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_second_derivatives_are_refused_instead_of_being_wrong(
    backend: str, reduction: str
) -> None:
    hidden, weight, targets = make()
    loss = ops.linear_cross_entropy(hidden.requires_grad_(), weight, targets, reduction=reduction)
    with pytest.raises(NotImplementedError, match="set ops.linear_cross_entropy=reference"):
        torch.autograd.grad(loss.sum(), hidden, create_graph=True)


@needs_library
def test_cpu_gives_the_same_bits_every_time() -> None:
    def compute() -> list[torch.Tensor]:
        with ops.use(linear_cross_entropy="cpu"):
            return values("sum", torch.float32, z_loss=0.1)

    assert_same_bits(compute, threads=(2,))  # torch's products split sums by threads


@pytest.mark.parametrize("backend", BACKENDS, indirect=True)
def test_targets_outside_the_vocabulary_are_refused(backend: str) -> None:
    hidden, weight, targets = make()
    targets[70] = VOCAB
    with pytest.raises((IndexError, RuntimeError), match=f"{VOCAB}"):
        ops.linear_cross_entropy(hidden, weight, targets)


def test_tensors_on_two_devices_are_refused() -> None:
    hidden, weight, targets = make()
    with pytest.raises(ValueError, match="weight is on meta"):
        ops.linear_cross_entropy(hidden, weight.to("meta"), targets)
