from __future__ import annotations

from typing import Any

import pytest
import torch

from megafm import ops
from megafm.ops import blockwise_attention as module
from megafm.ops.blockwise_attention import Layout, blockwise_attention
from tests.ops.error_rule import assert_error_rule
from tests.ops.test_attention import CASES, make, one_query_at_a_time

NAMES = ["causal", "grouped_heads", "decode_one", "decode_some", "bidirectional", "scale"]
NAMES += [name for name in CASES if name.startswith("window")]


@pytest.fixture(autouse=True)
def several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", (4, 4))


def ours(options: dict[str, Any]) -> Any:
    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        scale = options.get("scale", q.shape[-1] ** -0.5)
        layout = Layout(options.get("causal", True), options.get("window"), scale)
        return blockwise_attention(q, k, v, layout)

    return attend


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", NAMES)
def test_error_rule(name: str, dtype: torch.dtype) -> None:
    tensors, options = make(name, head_dim=16)

    def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return one_query_at_a_time(q, k, v, **options)[0]

    assert_error_rule(ours(options), plain, tensors, dtype)


@pytest.mark.parametrize("name", ["grouped_heads", "window", "decode_some", "bidirectional"])
def test_gradients_match_finite_differences(name: str) -> None:
    tensors, options = make(name, head_dim=2)
    q, k, v = (x[:1].double().requires_grad_() for x in tensors)
    assert torch.autograd.gradcheck(ours(options), (q, k, v), fast_mode=True)


def test_leaves_out_the_keys_that_no_query_of_a_block_sees() -> None:
    q = torch.empty(1, 12, 1, 2)
    blocks = list(module._blocks(q, torch.empty(1, 14, 1, 2), Layout(True, 3, 1.0)))
    assert [(b.begin, b.end) for b in blocks] == [(0, 4), (4, 8), (8, 12)]
    assert [(b.first, b.last) for b in blocks] == [(0, 6), (4, 10), (8, 14)]


def test_auto_takes_it_for_bf16_where_the_cpu_multiplies_bf16() -> None:
    reason = ops.backends()["attention"].why_not["torch"]
    if reason is not None:
        pytest.skip(reason)
    q, k, v = (x.bfloat16() for x in make("grouped_heads")[0])
    with torch.autocast("cpu", torch.bfloat16):
        out = ops.attention(q, k, v)
    with ops.use(attention="torch"):
        assert torch.equal(out, ops.attention(q, k, v))
        with pytest.raises(ValueError, match="only in bfloat16"):
            ops.attention(q.float(), k.float(), v.float())


def test_compiled_in_one_graph_equals_eager() -> None:
    inputs = [x.requires_grad_() for x in make("grouped_heads")[0]]
    compiled = torch.compile(ours({}), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), ours({})(*inputs))
    gradients = torch.autograd.grad(compiled(*inputs).sum(), inputs)
    torch.testing.assert_close(gradients, torch.autograd.grad(ours({})(*inputs).sum(), inputs))


def test_takes_an_empty_batch() -> None:
    q, k, v = (torch.randn(0, 6, 2, 8, requires_grad=True) for _ in range(3))
    out = ours({})(q, k, v)
    out.sum().backward()
    assert out.shape == q.shape == q.grad.shape
