from __future__ import annotations

from typing import Any

import pytest
import torch

from megafm import ops
from tests.ops.error_rule import assert_error_rule
from tests.ops.triton.on_device import on_device

pytest.importorskip("triton")

# name -> (batch, heads, kv_heads, seq_q, seq_k, options). Under the interpreter blocks are 32
# queries by 16 keys, or 16 by 32: lengths are a few blocks and some, and whole blocks are seen too.
CASES: dict[str, tuple[int, int, int, int, int, dict[str, Any]]] = {
    "causal": (2, 1, 1, 79, 79, {}),
    "grouped_heads": (1, 4, 2, 35, 35, {}),
    "one_kv_head": (2, 3, 1, 9, 20, {}),
    "decode_one": (2, 2, 1, 1, 71, {}),
    "decode_some": (1, 2, 1, 5, 71, {}),
    "full": (1, 1, 1, 37, 71, {"causal": False}),
    "window": (1, 1, 1, 99, 99, {"window": 50}),
    "window_decode": (1, 2, 1, 3, 90, {"window": 20}),
    "window_both_sides": (1, 1, 1, 70, 90, {"causal": False, "window": 35}),
    "negative_scale": (1, 2, 2, 20, 20, {"scale": -0.3}),
    "more_queries_than_keys": (1, 1, 1, 70, 20, {}),
    "window_past_the_keys": (1, 1, 1, 70, 20, {"window": 9, "causal": False}),
    "softcap": (1, 2, 2, 20, 50, {"softcap": 2.0}),
    "softcap_wide": (1, 1, 1, 20, 20, {"softcap": 50.0}),
    "packed": (1, 2, 1, 90, 90, {"cu_seqlens": (0, 50, 50, 53, 90)}),
    "packed_full": (1, 1, 1, 90, 90, {"cu_seqlens": (0, 20, 90), "causal": False}),
    "packed_window": (1, 1, 1, 70, 70, {"cu_seqlens": (0, 60, 70), "window": 12}),
    "packed_with_padding": (1, 1, 1, 50, 50, {"cu_seqlens": (0, 4, 31)}),
    "packed_decode": (1, 2, 1, 9, 60, {"cu_seqlens": (0, 1, 9), "cu_seqlens_k": (0, 13, 60)}),
    "packed_without_keys": (
        1,
        1,
        1,
        20,
        17,
        {"cu_seqlens": (0, 3, 20), "cu_seqlens_k": (0, 0, 17)},
    ),
}
IN_FP16 = ("causal", "grouped_heads", "window_both_sides", "softcap", "packed")


def make(
    name: str, head_dim: int = 16, v_dim: int | None = None
) -> tuple[list[torch.Tensor], dict[str, Any]]:
    torch.manual_seed(0)
    batch, heads, kv_heads, seq_q, seq_k, options = CASES[name]
    packed = {n: torch.tensor(o) for n, o in options.items() if n.startswith("cu_seqlens")}
    q = torch.randn(batch, seq_q, heads, head_dim)
    k = torch.randn(batch, seq_k, kv_heads, head_dim)
    v = torch.randn(batch, seq_k, kv_heads, v_dim or head_dim)
    return [q, k, v], {**options, **packed}


def plain(*inputs: torch.Tensor, **options: Any) -> Any:
    with ops.use(attention="reference"):
        return ops.attention(*inputs, **options)


def hold_to_the_rule(
    tensors: list[torch.Tensor],
    options: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    assert_error_rule(
        on_device(lambda *x: ops.attention(*x, **options), device, attention="triton"),
        lambda *x: plain(*x, **options),
        tensors,
        dtype,
    )


@pytest.mark.parametrize("name", CASES)
def test_error_rule(name: str, device: torch.device) -> None:
    hold_to_the_rule(*make(name), torch.float32, device)


@pytest.mark.parametrize("name", IN_FP16)
def test_error_rule_in_fp16(name: str, device: torch.device) -> None:
    hold_to_the_rule(*make(name), torch.float16, device)


@pytest.mark.parametrize(("head_dim", "v_dim"), [(5, 40), (24, 8), (96, 64)])
def test_head_dims_that_are_no_power_of_two(
    head_dim: int, v_dim: int, device: torch.device
) -> None:
    hold_to_the_rule(*make("packed_decode", head_dim, v_dim), torch.float32, device)


@pytest.mark.parametrize("name", ["grouped_heads", "more_queries_than_keys"])
def test_sinks_and_lse_are_differentiable(name: str, device: torch.device) -> None:
    tensors, options = make(name)
    tensors.append(torch.randn(CASES[name][1]))

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sinks: torch.Tensor) -> Any:
        return ops.attention(q, k, v, sinks=sinks, return_lse=True, **options)

    def reference(*inputs: torch.Tensor) -> Any:
        with ops.use(attention="reference"):
            return attend(*inputs)

    ours = on_device(attend, device, attention="triton")
    assert_error_rule(ours, reference, tensors, torch.float32)


def test_backward_of_a_block_of_keys_with_lse_of_them_all(device: torch.device) -> None:
    """What a ring of ranks calls: its parts add up to the gradients over all keys."""
    from megafm.ops.attention import Options
    from megafm.ops.triton.attention import run_backward

    (q, k, v), _ = make("full")
    leaves = [x.to(device).requires_grad_() for x in (q, k, v)]
    with ops.use(attention="triton"):
        out, lse = ops.attention(*leaves, causal=False, return_lse=True)
    d_out, d_lse = torch.randn_like(out), torch.randn_like(lse)
    whole = torch.autograd.grad((out, lse), leaves, (d_out, d_lse))
    options = Options(False, 0.25, None, None, None, None, None, None, True, True)
    q, k, v = (x.detach() for x in leaves)
    parts = [
        run_backward(d_out, q, k[:, block], v[:, block], out, lse, d_lse, options)
        for block in (slice(0, 30), slice(30, None))
    ]
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole[0])
    for index in (1, 2):
        torch.testing.assert_close(torch.cat([part[index] for part in parts], 1), whole[index])


def test_queries_that_see_no_key_give_zeros_and_no_gradient(device: torch.device) -> None:
    q, k, v = (torch.randn(1, n, 1, 16, device=device, requires_grad=True) for n in (40, 3, 3))
    with ops.use(attention="triton"):
        out, lse = ops.attention(q, k, v, return_lse=True)
    assert torch.equal(out[:, :37], torch.zeros_like(out[:, :37]))
    assert torch.equal(lse[..., :37], torch.full_like(lse[..., :37], -torch.inf))
    out.sum().backward()
    assert torch.equal(q.grad[:, :37], torch.zeros_like(out[:, :37]))
    assert all(x.grad.isfinite().all() for x in (q, k, v))


@pytest.mark.parametrize("lengths", [(0, 0), (0, 3), (3, 0)])
@pytest.mark.parametrize("batch", [0, 2])
def test_zero_sizes(batch: int, lengths: tuple[int, int], device: torch.device) -> None:
    shapes = [(batch, n, 2, 4) for n in (lengths[0], *lengths[1:] * 2)]
    q, k, v = (torch.randn(shape, device=device, requires_grad=True) for shape in shapes)
    with ops.use(attention="triton"):
        out = ops.attention(q, k, v)
    assert torch.equal(out, torch.zeros_like(q))
    out.sum().backward()
    assert all(torch.equal(x.grad, torch.zeros_like(x)) for x in (q, k, v))


def test_tensors_are_read_where_they_lie(device: torch.device) -> None:
    """Parts of one projection, heads before positions, and rows too far apart for 32 bits."""
    torch.manual_seed(0)
    fused = torch.randn(2, 2, 20, 3 * 16, device=device)
    parts = [x.transpose(1, 2) for x in fused.split(16, dim=-1)]
    far = torch.empty(2**31 + 2**24, dtype=torch.float16, device=device)
    rows = torch.as_strided(far, (1, 3, 1, 16), (2**31, 2**30, 16, 1))
    rows.copy_(torch.randn(rows.shape))
    for q, k, v in (parts, (rows, rows, rows)):
        with ops.use(attention="triton"):
            out = ops.attention(q, k, v)
            expected = ops.attention(*(x.contiguous() for x in (q, k, v)))
        assert torch.equal(out, expected)


def test_gradients_are_the_same_bits_every_time(device: torch.device) -> None:
    tensors, options = make("grouped_heads")
    results = []
    for _ in range(30 if device.type == "cuda" else 2):
        leaves = [x.to(device).requires_grad_() for x in tensors]
        with ops.use(attention="triton"):
            out = ops.attention(*leaves, **options)
        results.append(torch.autograd.grad(out.square().sum(), leaves))
    assert all(torch.equal(a, b) for r in results for a, b in zip(r, results[0], strict=True))


def test_scores_far_beyond_exp_and_nan(device: torch.device) -> None:
    q, k, v = (torch.randn(1, 20, 1, 16, device=device) for _ in range(3))
    with ops.use(attention="triton"):
        assert ops.attention(q * 100, k * 100, v).isfinite().all()
        k[0, 5] = torch.nan
        out = ops.attention(q, k, v)
    assert out[0, :5].isfinite().all() and out[0, 5:].isnan().all()


def test_compiled_in_one_graph_equals_eager(device: torch.device) -> None:
    tensors, options = make("decode_one")

    def loss(*inputs: torch.Tensor) -> torch.Tensor:
        return ops.attention(*inputs, **options).square().sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    found = []
    with ops.use(attention="triton"):
        for function in (loss, compiled):
            leaves = [x.to(device).requires_grad_() for x in tensors]
            found.append(torch.autograd.grad(function(*leaves), leaves))
    for eager, traced in zip(*found, strict=True):
        assert torch.equal(eager, traced)


@pytest.mark.parametrize("packed", [False, True])
def test_passes_opcheck(packed: bool, device: torch.device) -> None:
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 6, h, 16, device=device).requires_grad_() for h in (2, 1, 1))
    sinks = torch.randn(2, device=device).requires_grad_() if packed else None
    ends = torch.tensor([0, 2, 6], dtype=torch.int32, device=device) if packed else None
    rule = (ends, ends, True, 0.25, 3 if packed else None, 5.0 if packed else None)
    from megafm.ops.triton import attention  # noqa: F401  registers them

    library = torch.ops.megafm
    torch.library.opcheck(library.triton_attention.default, (q, k, v, sinks, *rule))
    q, k, v = (x.detach() for x in (q, k, v))
    out, lse = library.triton_attention(q, k, v, None, *rule)
    saved = (torch.randn_like(out), torch.randn_like(lse), q, k, v, out, lse)
    torch.library.opcheck(library.triton_attention_backward.default, (*saved, *rule))


@pytest.mark.parametrize(
    ("dtype", "head_dim", "message"),
    [(torch.float64, 16, "no Triton kernel for q torch.float64"), (torch.float16, 257, "dim 257")],
)
def test_what_has_no_kernel_is_refused(
    dtype: torch.dtype, head_dim: int, message: str, device: torch.device
) -> None:
    q = torch.randn(1, 4, 1, head_dim, dtype=dtype, device=device)
    with ops.use(attention="triton"), pytest.raises(ValueError, match=message):
        ops.attention(q, q, q)
