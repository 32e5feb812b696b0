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
