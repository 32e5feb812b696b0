"""The cuda backend of attention, on a GPU or on the emulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from megafm import ops
from tests.ops.cpp.test_attention import LARGE, make_large, make_problem, problems, with_backend
from tests.ops.error_rule import (
    assert_error_rule,
    cotangents_of,
    largest,
    outputs_and_gradients,
)
from tests.ops.test_attention import CASES, make, one_query_at_a_time
from tests.ops.triton.on_device import on_device

HALVES = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
ALIGNED = [name for name, case in LARGE.items() if case[5] % 8 == case[6] % 8 == 0]
WIDTHS = (64, 96, 128, 192, 256)  # of the kernels
# For what the emulated kernels are chosen; a GPU is what it is.
CAPABILITIES = ("its own",) if torch.cuda.is_available() else ("80", "90")
CAPABILITY = "MEGAFM_EMULATOR_CAPABILITY"


@pytest.fixture(params=CAPABILITIES, ids=lambda capability: f"sm_{capability}")
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param != "its own":
        monkeypatch.setenv(CAPABILITY, request.param)
    return str(request.param)


def on_cuda(device: str, **options: Any) -> Callable[..., Any]:
    """attention as a function of q, k, v and, if there is a fourth, sinks."""
    options = {
        key: value.to(device) if isinstance(value, torch.Tensor) else value
        for key, value in options.items()
    }
    return on_device(with_backend("cuda", options), torch.device(device))


@HALVES
@pytest.mark.parametrize("name", [name for name in CASES if name != "sinks"])
def test_error_rule(name: str, dtype: torch.dtype, device: str, capability: str) -> None:
    tensors, options = make(name, head_dim=16)
    if name == "more_queries_than_keys":
        exact = plain = with_backend("reference", options)
    else:
        exact = plain = lambda *x: one_query_at_a_time(*x, **options)[0]
    assert_error_rule(on_cuda(device, **options), plain, tensors, dtype, exact=exact)


@pytest.mark.parametrize("deterministic", [False, True], ids=["atomics", "deterministic"])
@pytest.mark.parametrize("name", ALIGNED)
def test_error_rule_over_several_blocks(
    name: str, deterministic: bool, device: str, capability: str
) -> None:
    tensors, options = make_large(name)
    ours = on_cuda(device, **options, deterministic=deterministic)
    assert_error_rule(ours, with_backend("reference", options), tensors, torch.bfloat16)


@HALVES
@pytest.mark.parametrize("deterministic", [False, True], ids=["atomics", "deterministic"])
@pytest.mark.parametrize("width", WIDTHS)
def test_error_rule_of_every_width(
    width: int, deterministic: bool, dtype: torch.dtype, device: str, capability: str
) -> None:
    torch.manual_seed(0)
    for dim, dim_v in ((width, width), (width - 8, width - 24)):
        q, k = torch.randn(1, 140, 2, dim), torch.randn(1, 135, 1, dim)
        tensors = [q, k, torch.randn(1, 135, 1, dim_v), torch.tensor([0.5, -30.0])]
        plain = with_backend("reference", {"return_lse": True})
        # The lse of the 5 queries that see no key but the sink is the sink.
        ours = on_cuda(device, return_lse=True, deterministic=deterministic)
        assert_error_rule(ours, plain, tensors, dtype)


def test_error_rule_of_several_tiles_to_a_block(device: str, capability: str) -> None:
    """A persistent kernel goes on to its next tile, and from some heads to others."""
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 300, 4, 64), torch.randn(2, 410, 2, 64), torch.randn(2, 410, 2, 64)
    plain = with_backend("reference", {"return_lse": True})
    ours = on_cuda(device, return_lse=True)
    assert_error_rule(ours, plain, [q, k, v], torch.bfloat16)


PACKED: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    # (batch, kv heads, heads of each, queries, keys), options
    "decode": ((2, 2, 8, 1, 300), {}),
    "decode of many": ((1, 1, 64, 1, 140), {"window": 50}),
    "three times two heads": ((1, 2, 6, 5, 130), {"softcap": 2.0}),
    "three heads, none packed": ((1, 1, 3, 5, 130), {}),
    "several tiles": ((1, 2, 4, 50, 170), {"window": 30, "causal": False}),
    "documents": ((1, 1, 8, 30, 200), {"cu_seqlens": [0, 7, 30], "cu_seqlens_k": [0, 90, 200]}),
}


@pytest.mark.parametrize("sinks", [False, True], ids=["", "sinks"])
@pytest.mark.parametrize("name", PACKED)
def test_error_rule_where_few_queries_share_tiles_with_those_of_other_heads(
    name: str, sinks: bool, device: str, capability: str
) -> None:
    shape, options = PACKED[name]
    options = {
        key: torch.tensor(value) if isinstance(value, list) else value
        for key, value in options.items()
    } | {"return_lse": True}
    tensors, options = make_problem(((*shape, 64, 32), options), sinks)
    plain = with_backend("reference", options)
    assert_error_rule(on_cuda(device, **options), plain, tensors, torch.bfloat16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU has one compute capability")
def test_the_compute_capability_chooses_the_kernel(
    device: str, capability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels sum in orders of their own. Heads in one place (a stride of 0) are for sm_80's.

    128 keys of that width are two blocks of sm_80's backward, whose sum has one order.
    """
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 128, 4, 128).half() for _ in range(3))
    shared = k[:, :, :1].expand_as(k)
    attend = on_cuda(device, return_lse=True)

    def lse_and_d_q(k: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = q.clone().requires_grad_()
        out, lse = attend(leaf, k, v)
        return lse, *torch.autograd.grad(out, leaf, v)

    own, of_shared = lse_and_d_q(k), lse_and_d_q(shared)
    monkeypatch.setenv(CAPABILITY, "80")
    assert [*map(torch.equal, own, lse_and_d_q(k))] == [capability == "80"] * 2
    assert all(map(torch.equal, of_shared, lse_and_d_q(shared)))


@given(problems(), st.booleans())
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_error_rule_for_any_options_and_shape(
    device: str, capability: str, problem: tuple[tuple[int, ...], dict[str, Any]], sinks: bool
) -> None:
    (*sizes, dim, dim_v), options = problem
    aligned = (*sizes, 8 * -(-dim // 8), 8 * -(-dim_v // 8))
    tensors, options = make_problem((aligned, options), sinks)
    plain = with_backend("reference", options)
    cancelled = lost_where_terms_cancel(tensors, options)
    ours = on_cuda(device, **options)
    assert_error_rule(ours, plain, tensors, torch.bfloat16, cancelled=cancelled)


def test_error_rule_where_every_query_sees_one_key(device: str, capability: str) -> None:
    """The gradients of q and k are 0: differences of two alike, d_out v and sum(d_out * out)."""
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 40, 2, 64), torch.randn(1, 40, 2, 64), torch.randn(1, 40, 2, 64)
    options = {"window": 1}
    plain, ours = with_backend("reference", options), on_cuda(device, **options)
    cancelled = lost_where_terms_cancel([q, k, v], options)
    assert max(cancelled.values()) < 1e-3  # of values around 1
    assert_error_rule(ours, plain, [q, k, v], torch.bfloat16, cancelled=cancelled)


def lost_where_terms_cancel(
    tensors: list[torch.Tensor], options: dict[str, Any]
) -> dict[int, float]:
    """What the gradients of q, k and sinks may lose, by their index behind the output.

    The first two are sums over p * (d_out v - sum(d_out * out)), two sums of dim_v products that a
    kernel rounds to float32 in orders of their own, as the definition, which has no second one,
    does not: eps/2 of the absolute values for each product and sum (Higham 2002, section 3.1). That
    of a sink is one number, in which the rounding of the output to bfloat16 may add up.
    """
    q, k, v, *sinks = (x.bfloat16().double() for x in tensors)
    if q.numel() == 0 or k.numel() == 0:
        return {}
    (batch, _, heads, dim), (_, seq_k, kv_heads, dim_v) = q.shape, v.shape
    attend = with_backend("reference", {**options, "return_lse": True})
    one_hot = torch.eye(seq_k, dtype=torch.float64)[None, :, None].expand(batch, -1, kv_heads, -1)
    weights, lse = attend(q, k, one_hot, *sinks)  # (batch, seq_q, heads, seq_k)
    out, _ = attend(q, k, v, *sinks)
    d_out = cotangents_of([out.bfloat16()])[0].double().abs()
    k, v = (x.abs().repeat_interleave(heads // kv_heads, 2) for x in (k, v))
    terms = weights * torch.einsum("bihd,bjhd->bihj", d_out, v)
    of_q = torch.einsum("bihj,bjhd->bihd", terms, k)
    of_k = torch.einsum("bihj,bihd->bjhd", terms, q.abs()).unflatten(2, (kv_heads, -1)).sum(3)
    scale = options.get("scale")
    scale = dim**-0.5 if scale is None else abs(scale)
    sums = dim_v * torch.finfo(torch.float32).eps * scale
    lost = {1: sums * largest(of_q), 2: sums * largest(of_k)}
    if sinks:
        weights_of_sinks = (sinks[0][:, None] - lse).exp()  # (batch, heads, seq_q)
        of_sinks = torch.einsum("bhi,bihd->h", weights_of_sinks, d_out * out.abs())
        lost[4] = torch.finfo(torch.bfloat16).eps / 2 * largest(of_sinks)
    return lost


def test_deterministic_mode_gives_the_same_bits_on_every_run(device: str, capability: str) -> None:
    tensors, options = make_large("window")
    attend = on_cuda(device, **options, deterministic=True)
    first = outputs_and_gradients(attend, tensors, torch.bfloat16)
    for _ in range(3):
        again = outputs_and_gradients(attend, tensors, torch.bfloat16)
        assert all(map(torch.equal, again, first))


def test_lse_is_as_exact_as_that_of_floats(device: str, capability: str) -> None:
    tensors, options = make_large("softcap")
    q, k, v = (x.bfloat16() for x in tensors)
    options = {**options, "scale": 0.3, "return_lse": True}
    _, lse = on_cuda(device, **options)(q, k, v)
    _, exact = with_backend("reference", options)(q.double(), k.double(), v.double())
    torch.testing.assert_close(lse.double(), exact.double(), rtol=1e-5, atol=1e-5)


def test_takes_views_as_they_lie_and_copies_what_is_not_aligned(
    device: str, capability: str
) -> None:
    torch.manual_seed(0)
    packed = torch.randn(2, 70, 6, 16).bfloat16()
    q, k, v = packed[:, :, :4], packed[:, :, 4:5], packed[:, :, 5:]
    attend = on_cuda(device)
    expected = attend(*(x.contiguous() for x in (q, k, v)))
    assert torch.equal(attend(q, k, v), expected)
    strided = [x.permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0) for x in (q, k, v)]
    assert torch.equal(attend(*strided), expected)
    apart = torch.randn(2, 70, 6, 17).bfloat16()
    apart[..., 1:] = packed
    shifted = apart[..., 1:]
    assert torch.equal(attend(shifted[:, :, :4], shifted[:, :, 4:5], shifted[:, :, 5:]), expected)


def test_copies_what_is_contiguous_and_not_aligned(device: str, capability: str) -> None:
    torch.manual_seed(0)
    q = torch.randn(1, 70, 2, 16).bfloat16()
    attend = on_cuda(device)
    expected = attend(q, q, q)
    odd = torch.empty(1 + q.numel(), dtype=q.dtype)[1:].view(q.shape).copy_(q)
    stride = q.as_strided(q.shape, (5, *q.stride()[1:]))  # of the batch, whose size is 1
    for other in (odd, stride):
        assert other.is_contiguous()
        assert torch.equal(attend(other, other, other), expected)


def test_a_last_tile_of_queries_may_be_half_empty(device: str, capability: str) -> None:
    torch.manual_seed(0)
    tensors = [torch.randn(1, 64, 2, 16) for _ in range(3)]
    options = {"cu_seqlens": torch.tensor([0, 30, 64], dtype=torch.int32)}
    plain = with_backend("reference", options)
    assert_error_rule(on_cuda(device, **options), plain, tensors, torch.bfloat16)


@pytest.mark.parametrize(
    "shape", [(0, 4, 4, 2, 1), (2, 0, 4, 2, 1), (2, 4, 0, 2, 1), (2, 0, 0, 2, 1)], ids=str
)
def test_zero_lengths(shape: tuple[int, ...], device: str, capability: str) -> None:
    batch, seq_q, seq_k, heads, kv_heads = shape
    q = torch.randn(batch, seq_q, heads, 8)
    k, v = (torch.randn(batch, seq_k, kv_heads, 8) for _ in range(2))
    for x in outputs_and_gradients(on_cuda(device), [q, k, v], torch.bfloat16):
        assert torch.equal(x, torch.zeros_like(x))


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["q", "k", "v"])
def test_what_is_not_finite_reaches_the_queries_that_see_it(
    place: int, bad: float, device: str, capability: str
) -> None:
    tensors, options = make_large("causal")
    tensors = [x.bfloat16() for x in tensors]
    attend = on_cuda(device, **options)
    clean = attend(*tensors)
    tensors[place][0, 100, 0, 3] = bad
    out = attend(*tensors)
    expected = with_backend("reference", options)(*tensors)
    assert not expected[0, 100:].isfinite().all()
    assert not out[0, 100:][~expected[0, 100:].isfinite()].isfinite().any()
    assert torch.equal(out[0, :, 1], clean[0, :, 1])
    if place < 2:
        assert torch.equal(out[0, :100], clean[0, :100])


@pytest.mark.parametrize("mode", ["causal, atomics", "both ways, deterministic"])
@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("place", [0, 1, 2, 3], ids=["q", "k", "v", "d_out"])
def test_what_is_not_finite_stays_in_its_document(
    place: int, bad: float, width: int, mode: str, device: str, capability: str
) -> None:
    """Three documents share tiles, the second lies within one, and 0 * NaN is NaN."""
    torch.manual_seed(0)
    tensors = [torch.randn(1, 200, heads, width).bfloat16() for heads in (2, 1, 1, 2)]
    ends = torch.tensor([0, 70, 90, 200], dtype=torch.int32)
    deterministic = "deterministic" in mode
    causal = "causal" in mode
    attend = on_cuda(device, cu_seqlens=ends, causal=causal, deterministic=deterministic)

    def run() -> list[torch.Tensor]:
        leaves = [x.clone().requires_grad_() for x in tensors[:3]]
        out = attend(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, tensors[3])]

    clean = run()
    tensors[place][0, 75, :, 3] = bad
    tensors[place][0, 80, 0, :] = bad
    found = run()
    for x, expected in zip(found, clean, strict=True):
        others = [torch.cat([y[:, :70], y[:, 90:]], 1).double() for y in (x, expected)]
        if deterministic:
            assert torch.equal(*others)
        else:  # the order of atomics
            torch.testing.assert_close(*others, rtol=0.02, atol=1e-3)
    reached = {0: (0, 1, 2, 3), 1: (0, 1, 2, 3), 2: (0, 1, 2), 3: (1, 2, 3)}[place]
    assert all(not found[i][:, 70:90].isfinite().all() for i in reached)


@pytest.mark.parametrize("width", [64, 256])
def test_a_key_that_is_not_finite_reaches_its_whole_document(
    width: int, device: str, capability: str
) -> None:
    """Its weights are 0, lse is finite, and its tile has keys of another document."""
    torch.manual_seed(0)
    first, length, at = 30, 400, 100
    q, k, v = (torch.randn(1, length, 1, width).bfloat16() for _ in range(3))
    q[..., 3] = q[..., 3].abs() + 1
    k[:, at, :, 3] = -torch.inf
    ends = torch.tensor([0, first, length], dtype=torch.int32)
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = on_cuda(device, cu_seqlens=ends, causal=True)(*leaves)
    d_q, d_k, d_v = torch.autograd.grad(out.sum(), leaves)
    assert out.isfinite().all()
    assert all(x[:, :first].isfinite().all() for x in (d_q, d_k, d_v))
    assert not d_q[:, at:, :, 3].isfinite().any()


@pytest.mark.parametrize(
    ("dtype", "dim", "reason"),
    [
        (torch.float32, 16, "no kernel for torch.float32"),
        (torch.bfloat16, 20, "no kernel for head dim 20, only for multiples of 8 to 256"),
        (torch.bfloat16, 264, "no kernel for head dim 264"),
    ],
)
def test_what_has_no_kernel_is_refused(
    dtype: torch.dtype, dim: int, reason: str, device: str
) -> None:
    q = torch.zeros(1, 4, 1, dim, dtype=dtype, device=device)
    with (
        ops.use(attention="cuda"),
        pytest.raises(ValueError, match=f"ops.attention=cuda: {reason}"),
    ):
        ops.attention(q, q, q)


def test_backward_of_a_block_of_keys(device: str) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 70, 2, 16).bfloat16().to(device) for _ in range(3))
    with ops.use(attention="cuda", attention_backward="cuda"):
        out, lse = ops.attention(q, k, v, causal=False, return_lse=True)
        d_out = torch.randn_like(out)
        whole = ops.attention_backward(d_out, q, k, v, out, lse, causal=False)
        parts = [
            ops.attention_backward(d_out, q, k[:, s], v[:, s], out, lse, causal=False)
            for s in (slice(0, 30), slice(30, 70))
        ]
    torch.testing.assert_close(whole[0], parts[0][0] + parts[1][0], rtol=0.05, atol=0.02)
    for i in (1, 2):
        torch.testing.assert_close(whole[i], torch.cat([part[i] for part in parts], 1))
