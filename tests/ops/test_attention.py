from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from megafm import ops
from tests.ops.error_rule import assert_error_rule

# name -> (heads, kv_heads, seq_q, seq_k, options); packed cases have batch 1.
CASES: dict[str, tuple[int, int, int, int, dict[str, Any]]] = {
    "causal": (4, 4, 9, 9, {}),
    "grouped_heads": (6, 2, 7, 7, {}),
    "decode_one": (4, 2, 1, 11, {}),
    "decode_some": (4, 2, 3, 11, {}),
    "bidirectional": (2, 2, 5, 8, {"causal": False}),
    "window": (2, 1, 10, 10, {"window": 3}),
    "window_decode": (2, 1, 2, 10, {"window": 4}),
    "window_of_one": (2, 2, 6, 6, {"window": 1}),
    "window_both_sides": (2, 2, 8, 8, {"causal": False, "window": 2}),
    "scale": (2, 2, 6, 6, {"scale": 0.3}),
    "packed": (4, 2, 12, 12, {"cu_seqlens": torch.tensor([0, 5, 5, 12])}),
    "packed_window": (2, 2, 9, 9, {"cu_seqlens": torch.tensor([0, 4, 9]), "window": 2}),
    "packed_with_padding": (2, 2, 9, 9, {"cu_seqlens": torch.tensor([0, 4, 7])}),
    "packed_decode": (
        2,
        2,
        4,
        9,
        {"cu_seqlens": torch.tensor([0, 1, 4]), "cu_seqlens_k": torch.tensor([0, 3, 9])},
    ),
    "more_queries_than_keys": (2, 2, 6, 4, {}),
    "softcap": (2, 2, 5, 5, {"softcap": 2.0}),
    "sinks": (2, 1, 5, 5, {"sinks": torch.tensor([0.5, -1.0])}),
    "one_token": (1, 1, 1, 1, {}),
}
REFERENCE_ONLY = {"packed_decode", "more_queries_than_keys", "softcap", "sinks"}


def make(name: str, head_dim: int = 8) -> tuple[list[torch.Tensor], dict[str, Any]]:
    torch.manual_seed(0)
    heads, kv_heads, seq_q, seq_k, options = CASES[name]
    batch = 1 if "cu_seqlens" in options else 2
    q = torch.randn(batch, seq_q, heads, head_dim)
    k, v = (torch.randn(batch, seq_k, kv_heads, head_dim) for _ in range(2))
    return [q, k, v], options


def document_of(token: int, ends: list[int]) -> int:
    return sum(token >= end for end in ends[1:])


def sees(i: int, j: int, seq_q: int, seq_k: int, options: dict[str, Any]) -> bool:
    """The definition, one query and one key at a time."""
    offset = seq_k - seq_q
    if "cu_seqlens" in options:
        ends_q = options["cu_seqlens"].tolist()
        ends_k = options.get("cu_seqlens_k", options["cu_seqlens"]).tolist()
        document = document_of(i, ends_q)
        if document != document_of(j, ends_k):
            return False
        last = min(document + 1, len(ends_q) - 1)
        offset = ends_k[last] - ends_q[last]
    distance = i + offset - j
    if options.get("causal", True) and distance < 0:
        return False
    return abs(distance) < options.get("window", math.inf)


def one_query_at_a_time(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, seq_q, heads, head_dim = q.shape
    seq_k, kv_heads = k.shape[1:3]
    out, lse = [], []
    for b in range(batch):
        for h in range(heads):
            for i in range(seq_q):
                keys = [j for j in range(seq_k) if sees(i, j, seq_q, seq_k, options)]
                kv = h // (heads // kv_heads)
                scores = k[b, keys, kv] @ q[b, i, h] * options.get("scale", head_dim**-0.5)
                if "softcap" in options:
                    scores = options["softcap"] * torch.tanh(scores / options["softcap"])
                weights = scores.exp()
                total = weights.sum()
                if "sinks" in options:
                    total = total + options["sinks"][h].to(q.dtype).exp()
                out.append(
                    weights @ v[b, keys, kv] / total if keys else torch.zeros_like(q[b, i, h])
                )
                lse.append(total.log())
    shaped = torch.stack(out).view(batch, heads, seq_q, head_dim).transpose(1, 2)
    return shaped, torch.stack(lse).view(batch, heads, seq_q)


@pytest.mark.parametrize("name", CASES)
def test_reference_matches_one_query_at_a_time(name: str) -> None:
    tensors, options = make(name)
    q, k, v = (x.double() for x in tensors)
    expected, expected_lse = one_query_at_a_time(q, k, v, **options)
    with ops.use(attention="reference"):
        out, lse = ops.attention(q, k, v, return_lse=True, **options)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(lse, expected_lse)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", [name for name in CASES if name not in REFERENCE_ONLY])
@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_error_rule(backend: str, name: str, dtype: torch.dtype) -> None:
    tensors, options = make(name, head_dim=16)

    def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        with ops.use(attention=backend):
            return ops.attention(q, k, v, **options)

    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return one_query_at_a_time(q, k, v, **options)[0]

    assert_error_rule(ours, plain, tensors, dtype)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_scores_far_beyond_exp_are_finite(backend: str) -> None:
    (q, k, v), _ = make("causal")
    with ops.use(attention=backend):
        out = ops.attention(q * 100, k * 100, v)
    torch.testing.assert_close(out[:, 0], v[:, 0])
    assert out.isfinite().all()


@pytest.mark.parametrize("name", ["grouped_heads", "window", "softcap", "more_queries_than_keys"])
def test_reference_gradients_match_finite_differences(name: str) -> None:
    tensors, options = make(name, head_dim=2)
    q, k, v = (x[:1].double().requires_grad_() for x in tensors)
    with ops.use(attention="reference"):
        assert torch.autograd.gradcheck(
            lambda *x: ops.attention(*x, **options), (q, k, v), fast_mode=True
        )


def test_lse_and_sinks_are_differentiable() -> None:
    tensors, _ = make("causal", head_dim=2)
    q, k, v = (x[:1, :4, :2].double().requires_grad_() for x in tensors)
    sinks = torch.randn(2).double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda q, k, v, sinks: ops.attention(q, k, v, sinks=sinks, return_lse=True),
        (q, k, v, sinks),
        fast_mode=True,
    )


def test_queries_that_see_no_key_give_zeros_and_no_gradient() -> None:
    q, k, v = (torch.randn(1, n, 1, 4, requires_grad=True) for n in (5, 3, 3))
    out, lse = ops.attention(q, k, v, return_lse=True)
    assert torch.equal(out[:, :2], torch.zeros(1, 2, 1, 4))
    assert torch.equal(lse[..., :2], torch.full((1, 1, 2), -math.inf))
    out.sum().backward()
    assert torch.equal(q.grad[:, :2], torch.zeros(1, 2, 1, 4))
    assert all(x.grad.isfinite().all() for x in (q, k, v))


@pytest.mark.parametrize("lengths", [(0, 0), (0, 3), (3, 0)])
def test_zero_lengths(lengths: tuple[int, int]) -> None:
    q, k, v = (torch.randn(2, n, 2, 4, requires_grad=True) for n in (lengths[0], *lengths[1:] * 2))
    out = ops.attention(q, k, v)
    assert torch.equal(out, torch.zeros(2, lengths[0], 2, 4))
    out.sum().backward()


def test_packed_documents_equal_each_alone() -> None:
    q, k, v = (torch.randn(1, 10, 2, 4) for _ in range(3))
    packed = ops.attention(q, k, v, cu_seqlens=torch.tensor([0, 4, 10], dtype=torch.int32))
    alone = [ops.attention(q[:, s], k[:, s], v[:, s]) for s in (slice(0, 4), slice(4, 10))]
    torch.testing.assert_close(packed, torch.cat(alone, dim=1))


@pytest.mark.parametrize("name", sorted(REFERENCE_ONLY))
def test_sdpa_when_asked_for_refuses_what_it_cannot_do_and_auto_can(name: str) -> None:
    tensors, options = make(name)
    with ops.use(attention="sdpa"), pytest.raises(ValueError, match=r"ops.attention=sdpa: "):
        ops.attention(*tensors, **options)
    with ops.use(attention="reference"):
        expected = ops.attention(*tensors, **options)
    torch.testing.assert_close(ops.attention(*tensors, **options), expected)


@pytest.mark.parametrize("name", ["causal", "decode_some", "window", "packed", "softcap"])
def test_compiled_in_one_graph_equals_eager(name: str) -> None:
    tensors, options = make(name)
    compiled = torch.compile(
        lambda *x: ops.attention(*x, **options), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(*tensors), ops.attention(*tensors, **options))


@pytest.mark.parametrize(
    ("shapes", "options", "message"),
    [
        (((1, 4, 2, 8), (1, 4, 2, 4)), {}, "do not fit together"),
        (((1, 4, 3, 8), (1, 4, 2, 8)), {}, "3 heads are no multiple of 2 kv heads"),
        (((4, 2, 8), (4, 2, 8)), {}, "do not fit together"),
        (((1, 4, 2, 8), (1, 4, 2, 8)), {"window": 0}, "window=0"),
        (((1, 4, 2, 8), (1, 4, 2, 8)), {"softcap": 0.0}, "softcap=0.0"),
        (((1, 4, 2, 8), (1, 4, 2, 8)), {"sinks": torch.zeros(3)}, r"sinks \(3,\): set one per"),
        (((2, 4, 2, 8), (2, 4, 2, 8)), {"cu_seqlens": torch.tensor([0, 4])}, "batch of 1, not 2"),
        (((1, 4, 2, 8), (1, 4, 2, 8)), {"cu_seqlens_k": torch.tensor([0, 4])}, "give both"),
        (
            ((1, 4, 2, 8), (1, 4, 2, 8)),
            {"cu_seqlens": torch.tensor(4)},
            r"cu_seqlens \(\) and \(\): give",
        ),
        (
            ((1, 4, 2, 8), (1, 4, 2, 8)),
            {"cu_seqlens": torch.tensor([0, 4]), "cu_seqlens_k": torch.tensor([0, 1, 4])},
            r"cu_seqlens \(2,\) and \(3,\): give \(documents \+ 1,\)",
        ),
    ],
)
def test_wrong_arguments_are_refused(shapes: tuple, options: dict, message: str) -> None:
    q, k = (torch.randn(shape) for shape in shapes)
    with pytest.raises(ValueError, match=message):
        ops.attention(q, k, k, **options)


def test_mixed_dtypes_are_refused() -> None:
    q, k, v = (torch.randn(1, 4, 2, 8) for _ in range(3))
    with pytest.raises(ValueError, match=r"bfloat16, torch.float32, .*; give one dtype"):
        ops.attention(q.bfloat16(), k, v)


@pytest.mark.parametrize("backend", ["reference", "sdpa"])
def test_autocast_gives_its_dtype_and_a_float32_softmax(backend: str) -> None:
    (q, k, v), _ = make("causal")
    with ops.use(attention=backend):
        with torch.autocast("cpu", torch.bfloat16):
            out = ops.attention(q, k, v)
        assert torch.equal(out, ops.attention(*(x.bfloat16() for x in (q, k, v))))
    with torch.autocast("cpu", torch.bfloat16):
        assert ops.attention(q, k, v, return_lse=True)[1].dtype == torch.float32
        assert ops.attention(q.double(), k.double(), v.double()).dtype == torch.float64


@pytest.mark.parametrize("scale", [0.0, -2.0])
def test_scales_that_torch_turns_to_nan_go_elsewhere(scale: float) -> None:
    tensors, _ = make("causal")
    expected = one_query_at_a_time(*tensors, scale=scale)[0]
    torch.testing.assert_close(ops.attention(*tensors, scale=scale), expected)
