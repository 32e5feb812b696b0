"""The cpu backend of attention, on every instruction set that this CPU has."""

from __future__ import annotations

import math
import resource
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm import ops
from tests.ops.backend import CPU, assert_same_bits, needs_library, on_backend
from tests.ops.error_rule import assert_error_rule, largest, outputs_and_gradients
from tests.ops.test_attention import CASES, make, one_query_at_a_time

pytestmark = needs_library

DTYPES = [torch.float32, torch.bfloat16]
SMALL = [name for name in CASES if name not in ("sinks", "more_queries_than_keys")]  # see LARGE

# name -> (batch, heads, kv_heads, seq_q, seq_k, dim, dim_v, options); several blocks each.
LARGE: dict[str, tuple[int, int, int, int, int, int, int, dict[str, Any]]] = {
    "causal": (1, 2, 2, 150, 150, 32, 32, {}),
    "grouped_odd": (2, 6, 2, 79, 133, 33, 17, {}),
    "bidirectional": (1, 2, 1, 130, 70, 64, 64, {"causal": False}),
    "wide_heads": (1, 1, 1, 70, 70, 256, 256, {}),
    "window": (1, 2, 1, 239, 239, 48, 48, {"window": 65}),
    "window_both_sides": (1, 2, 1, 130, 200, 16, 16, {"window": 40, "causal": False}),
    "decode": (2, 8, 2, 1, 799, 64, 64, {}),
    "decode_four": (2, 4, 4, 4, 300, 80, 80, {"window": 200}),
    "few_keys": (1, 2, 2, 140, 66, 24, 24, {}),
    "softcap": (1, 2, 2, 100, 100, 64, 64, {"softcap": 3.0}),
    "packed": (1, 4, 2, 200, 200, 32, 32, {"cu_seqlens": torch.tensor([0, 70, 70, 71, 190])}),
    "packed_of_two_kinds": (
        *(1, 2, 1, 150, 190, 32, 32),
        {
            "cu_seqlens": torch.tensor([0, 60, 60, 100], dtype=torch.int32),
            "cu_seqlens_k": torch.tensor([0, 100, 110, 150], dtype=torch.int32),
            "window": 30,
            "causal": False,
        },
    ),
    "one_head_of_many_keys": (1, 1, 1, 40, 1023, 32, 32, {}),
}
# The same, with so few heads to a kv head that one query is worked on unpacked.
DECODE: dict[str, tuple[int, int, int, int, int, int, int, dict[str, Any]]] = {
    "own_keys": (2, 3, 3, 1, 799, 64, 64, {}),
    "shared_odd": (1, 4, 2, 1, 239, 33, 17, {"window": 150, "softcap": 2.0}),
    "one_key": (1, 2, 1, 1, 1, 5, 3, {}),
}


@pytest.fixture(params=CPU)
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with on_backend("attention", request.param):
        yield request.param


@pytest.fixture
def cpu() -> Iterator[None]:
    with ops.use(attention="cpu"):
        yield


def make_large(name: str, cases: dict[str, Any] = LARGE) -> tuple[list[torch.Tensor], Any]:
    torch.manual_seed(0)
    batch, heads, kv_heads, seq_q, seq_k, dim, dim_v, options = cases[name]
    q, k = torch.randn(batch, seq_q, heads, dim), torch.randn(batch, seq_k, kv_heads, dim)
    return [q, k, torch.randn(batch, seq_k, kv_heads, dim_v)], options


def with_backend(backend: str, options: dict[str, Any]) -> Any:
    """attention as a function of q, k, v and, if there is a fourth, sinks."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *sinks: torch.Tensor) -> Any:
        given = {**options, "sinks": sinks[0]} if sinks else options
        with ops.use(attention=backend):
            return ops.attention(q, k, v, **given)

    return attend


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", SMALL)
def test_error_rule(isa: str, name: str, dtype: torch.dtype) -> None:
    tensors, options = make(name, head_dim=16)

    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> Any:
        return one_query_at_a_time(q, k, v, **options)

    ours = with_backend("cpu", {**options, "return_lse": True})
    assert_error_rule(ours, plain, tensors, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", LARGE)
def test_error_rule_over_several_blocks(isa: str, name: str, dtype: torch.dtype) -> None:
    tensors, options = make_large(name)
    plain = with_backend("reference", options)
    assert_error_rule(with_backend("cpu", options), plain, tensors, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
def test_error_rule_of_sinks_and_lse(isa: str, dtype: torch.dtype) -> None:
    tensors, options = make_large("grouped_odd")
    options = {**options, "return_lse": True}
    tensors.append(torch.tensor([0.5, -1.0, 6.0, 0.0, -30.0, 2.0]))
    plain = with_backend("reference", options)
    assert_error_rule(with_backend("cpu", options), plain, tensors, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize("sinks", [False, True])
@pytest.mark.parametrize("name", DECODE)
def test_error_rule_of_a_decoded_token(
    isa: str, name: str, sinks: bool, dtype: torch.dtype
) -> None:
    """Forward: that is how tokens are decoded."""
    tensors, options = make_large(name, DECODE)
    options = {**options, "return_lse": True}
    tensors = [x.to(dtype) for x in tensors]
    tensors += [torch.randn(tensors[0].shape[2])] if sinks else []
    plain = with_backend("reference", options)
    for got, compared, exact in zip(
        with_backend("cpu", options)(*tensors),
        plain(*tensors),
        plain(*(x.double() for x in tensors)),
        strict=True,
    ):
        allowed = 2 * largest(compared - exact) + torch.finfo(got.dtype).eps * largest(exact)
        assert largest(got - exact) <= allowed


@pytest.mark.parametrize("magnitude", [1e-20, 30.0, 1e5])
def test_error_rule_at_extreme_scores(isa: str, magnitude: float) -> None:
    (q, k, v), options = make_large("causal")
    tensors = [q * magnitude, k, v]
    plain = with_backend("reference", options)
    assert_error_rule(with_backend("cpu", options), plain, tensors, torch.float32)


@pytest.mark.parametrize("softcap", [0.5, 50.0])
@pytest.mark.parametrize("magnitude", [1e-3, 1.0, 100.0])
def test_softcap_is_right_from_small_to_large_scores(
    isa: str, magnitude: float, softcap: float
) -> None:
    (q, k, v), options = make_large("causal")
    options = {**options, "softcap": softcap}
    plain = with_backend("reference", options)
    assert_error_rule(with_backend("cpu", options), plain, [q * magnitude, k, v], torch.float32)


@st.composite
def problems(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    size = st.integers(0, 100)
    batch, kv_heads, group = (draw(st.integers(1, 3)) for _ in range(3))
    seq_q, seq_k = draw(size), draw(size)
    options: dict[str, Any] = {
        "causal": draw(st.booleans()),
        "window": draw(st.none() | st.integers(1, 120)),
        "softcap": draw(st.none() | st.floats(0.5, 30)),
        "scale": draw(st.none() | st.floats(-1, 1)),
    }
    if draw(st.booleans()):
        batch, documents = 1, draw(st.integers(1, 4))
        for name, length in (("cu_seqlens", seq_q), ("cu_seqlens_k", seq_k)):
            ends = sorted(draw(st.integers(0, length)) for _ in range(documents))
            options[name] = torch.tensor([0, *ends])
    dims = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    return (batch, kv_heads, group, seq_q, seq_k, *dims), options


def make_problem(
    problem: tuple[tuple[int, ...], dict[str, Any]], sinks: bool
) -> tuple[list[torch.Tensor], dict[str, Any]]:
    (batch, kv_heads, group, seq_q, seq_k, dim, dim_v), options = problem
    torch.manual_seed(0)
    q, k = (
        torch.randn(batch, seq_q, kv_heads * group, dim),
        torch.randn(batch, seq_k, kv_heads, dim),
    )
    tensors = [q, k, torch.randn(batch, seq_k, kv_heads, dim_v)]
    return tensors + ([torch.randn(kv_heads * group)] if sinks else []), options


@given(problems(), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_equals_the_reference_for_any_options_and_shape(
    problem: tuple[tuple[int, ...], dict[str, Any]], sinks: bool
) -> None:
    tensors, options = make_problem(problem, sinks)
    found = outputs_and_gradients(with_backend("cpu", options), tensors, torch.float32)
    right = outputs_and_gradients(with_backend("reference", options), tensors, torch.float64)
    for ours, theirs in zip(found, right, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@given(problems(), st.booleans())
@settings(max_examples=30, deadline=None, derandomize=True)
def test_error_rule_of_bf16_for_any_options_and_shape(
    problem: tuple[tuple[int, ...], dict[str, Any]], sinks: bool
) -> None:
    tensors, options = make_problem(problem, sinks)
    plain = with_backend("reference", options)
    assert_error_rule(with_backend("cpu", options), plain, tensors, torch.bfloat16)


@pytest.mark.parametrize("name", ["grouped_odd", "window", "softcap", "wide_heads"])
def test_lse_of_bf16_is_as_exact_as_that_of_floats(isa: str, name: str) -> None:
    tensors, options = make_large(name)
    q, k, v = (x.bfloat16() for x in tensors)
    options = {**options, "scale": 0.3, "return_lse": True}
    _, lse = with_backend("cpu", options)(q, k, v)
    _, exact = with_backend("reference", options)(q.double(), k.double(), v.double())
    torch.testing.assert_close(lse.double(), exact.double(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ["causal", "one_head_of_many_keys"])
def test_the_same_bits_on_every_run_and_any_number_of_threads(
    cpu: None, name: str, dtype: torch.dtype
) -> None:
    tensors, options = make_large(name)
    attend = with_backend("cpu", {**options, "return_lse": True})
    assert_same_bits(lambda: outputs_and_gradients(attend, tensors, dtype))


def test_takes_views_as_they_lie(cpu: None) -> None:
    torch.manual_seed(0)
    packed = torch.randn(2, 70, 6, 16)
    q, k, v = packed[:, :, :4], packed[:, :, 4:5], packed[:, :, 5:]
    expected = ops.attention(*(x.contiguous() for x in (q, k, v)))
    assert torch.equal(ops.attention(q, k, v), expected)
    strided = [x.permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0) for x in (q, k, v)]
    assert torch.equal(ops.attention(*strided), expected)
    assert torch.equal(ops.attention(q.expand(2, 70, 4, 16), k, v), expected)


def test_strides_beyond_32_bits(cpu: None) -> None:
    stride = (1 << 31) + 64
    far = torch.empty(3 * stride, dtype=torch.bfloat16)  # touched in a few pages only
    views = [far.as_strided((1, 3, 1, 8), (0, stride, 8, 1), 8 * i) for i in range(3)]
    near = [torch.randn(1, 3, 1, 8).bfloat16() for _ in views]
    for view, x in zip(views, near, strict=True):
        view.copy_(x)
    assert torch.equal(ops.attention(*views), ops.attention(*near))


def test_memory_does_not_grow_with_the_square_of_the_sequence(cpu: None) -> None:
    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

    seq = 1 << 14
    q, k, v = (torch.randn(1, seq, 1, 8, requires_grad=True) for _ in range(3))
    before = peak()
    ops.attention(q, k, v, window=64).sum().backward()
    assert peak() - before < seq * seq  # a byte a score; the tensors take 1/50 of it


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["q", "k", "v"])
def test_what_is_not_finite_reaches_the_queries_that_see_it(
    isa: str, place: int, bad: float, dtype: torch.dtype
) -> None:
    tensors, options = make_large("causal")
    tensors = [x.to(dtype) for x in tensors]
    clean = ops.attention(*tensors, **options)
    tensors[place][0, 100, 0, 3] = bad
    out = ops.attention(*tensors, **options)
    expected = with_backend("reference", options)(*tensors)
    assert not expected[0, 100:].isfinite().all()
    assert not out[0, 100:][~expected[0, 100:].isfinite()].isfinite().any()
    assert torch.equal(out[0, :, 1], clean[0, :, 1])
    if place < 2:
        assert torch.equal(out[0, :100], clean[0, :100])


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [1, 2], ids=["k", "v"])
@pytest.mark.parametrize("softcap", [None, 3.0])
def test_what_is_not_finite_reaches_the_head_of_a_decoded_token(
    isa: str, softcap: float | None, place: int, bad: float, dtype: torch.dtype
) -> None:
    tensors = [x.to(dtype) for x in make_large("own_keys", DECODE)[0]]
    clean = ops.attention(*tensors, softcap=softcap)
    tensors[place][0, 100, 0, 3] = bad
    out = ops.attention(*tensors, softcap=softcap)
    expected = with_backend("reference", {"softcap": softcap})(*tensors)
    assert torch.equal(out.isfinite(), expected.isfinite())
    assert torch.equal(out[:, :, 1:], clean[:, :, 1:])


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
def test_queries_that_see_no_key(isa: str, dtype: torch.dtype) -> None:
    q, k, v = (torch.randn(1, n, 2, 4, dtype=dtype, requires_grad=True) for n in (5, 3, 3))
    out, lse = ops.attention(q, k, v, return_lse=True)
    assert torch.equal(out[:, :2], torch.zeros(1, 2, 2, 4, dtype=dtype))
    assert torch.equal(lse[..., :2], torch.full((1, 2, 2), -math.inf))
    gradients = torch.autograd.grad(out.sum(), (q, k, v))
    assert torch.equal(gradients[0][:, :2], torch.zeros(1, 2, 2, 4, dtype=dtype))
    assert all(x.isfinite().all() for x in gradients)


@pytest.mark.parametrize(
    "shape", [(0, 4, 4, 2, 1), (2, 0, 4, 2, 1), (2, 4, 0, 2, 1), (2, 0, 0, 2, 1)], ids=str
)
def test_zero_lengths(isa: str, shape: tuple[int, ...]) -> None:
    batch, seq_q, seq_k, heads, kv_heads = shape
    q = torch.randn(batch, seq_q, heads, 8, requires_grad=True)
    k, v = (torch.randn(batch, seq_k, kv_heads, 8, requires_grad=True) for _ in range(2))
    out = ops.attention(q, k, v)
    assert torch.equal(out, torch.zeros_like(q))
    for x, gradient in zip((q, k, v), torch.autograd.grad(out.sum(), (q, k, v)), strict=True):
        assert torch.equal(gradient, torch.zeros_like(x))


@pytest.mark.parametrize("dtype", DTYPES, ids=["fp32", "bf16"])
def test_ops_pass_opcheck(dtype: torch.dtype) -> None:
    q = torch.randn(1, 6, 4, 8, dtype=dtype, requires_grad=True)
    k, v = (torch.randn(1, 6, 2, 8, dtype=dtype, requires_grad=True) for _ in range(2))
    sinks, ends = torch.randn(4, requires_grad=True), torch.tensor([0, 2, 6])
    library = torch.ops.megafm
    torch.library.opcheck(
        library.attention.default, (q, k, v, sinks, ends, ends, True, 0.3, 4, 5.0, False)
    )
    q, k, v, sinks = (x.detach() for x in (q, k, v, sinks))
    out, lse = library.attention(q, k, v, sinks, ends, ends, True, 0.3, 4, 5.0, False)
    saved = (out, lse, q, k, v, out, lse, sinks, ends, ends, True, 0.3, 4, 5.0, True)
    torch.library.opcheck(library.attention_backward.default, saved)


@pytest.mark.parametrize("name", ["causal", "packed", "decode", "softcap"])
def test_compiled_in_one_graph_equals_eager(cpu: None, name: str) -> None:
    tensors, options = make_large(name)
    tensors = [x.requires_grad_() for x in tensors]

    def attend(*x: torch.Tensor) -> torch.Tensor:
        return ops.attention(*x, **options)

    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    ours, eager = compiled(*tensors), attend(*tensors)
    assert torch.equal(ours, eager)
    ours, eager = (torch.autograd.grad(x.sum(), tensors) for x in (ours, eager))
    assert all(map(torch.equal, ours, eager))


def test_a_second_derivative_is_refused(cpu: None) -> None:
    q, k, v = (torch.randn(1, 4, 1, 8, requires_grad=True) for _ in range(3))
    with pytest.raises(NotImplementedError, match=r"set ops.attention=reference"):
        torch.autograd.grad(ops.attention(q, k, v).sum(), q, create_graph=True)


def test_a_dtype_without_a_kernel_is_refused(cpu: None) -> None:
    q = torch.randn(1, 4, 1, 8).double()
    with pytest.raises(ValueError, match=r"ops.attention=cpu: no kernel for torch.float64"):
        ops.attention(q, q, q)


def test_op_refuses_what_would_read_out_of_bounds() -> None:
    q, k = torch.randn(1, 4, 4, 8), torch.randn(1, 4, 3, 8)
    options = (None, None, True, 1.0, None, None, False)
    with pytest.raises(RuntimeError, match="do not fit"):
        torch.ops.megafm.attention(q, k, k, None, *options)
    with pytest.raises(RuntimeError, match="sinks must be"):
        torch.ops.megafm.attention(q, q, q, torch.zeros(3), *options)
    wild = torch.tensor([-5, 900, 3])  # ends are clamped to the sequence
    out, _ = torch.ops.megafm.attention(q, q, q, None, wild, wild, True, 1.0, None, None, False)
    assert out.shape == q.shape
