from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from megafm import ops
from megafm.ops.attention import Options
from megafm.ops.attention_backward import attention_backward, reference
from megafm.ops.cpp import attention as cpp
from megafm.ops.cpp import storage
from tests.ops.backend import needs_library
from tests.ops.test_attention import CASES, make

NAMES = [name for name in CASES if name != "sinks"]
BACKENDS = {"reference": reference, "cpu": functools.partial(cpp.run_backward, storage.CPU)}


@pytest.fixture(params=["reference", pytest.param("cpu", marks=needs_library)])
def backward(request: pytest.FixtureRequest) -> Any:
    return BACKENDS[request.param]


def options_of(q: torch.Tensor, options: dict[str, Any]) -> Options:
    cu_seqlens = options.get("cu_seqlens")
    return Options(
        causal=options.get("causal", True),
        scale=options.get("scale", q.shape[-1] ** -0.5),
        window=options.get("window"),
        softcap=options.get("softcap"),
        sinks=None,
        cu_seqlens=cu_seqlens,
        cu_seqlens_k=options.get("cu_seqlens_k", cu_seqlens),
        max_seqlen=None,
        deterministic=True,
        return_lse=True,
    )


@pytest.mark.parametrize("name", NAMES)
def test_equals_autograd_of_the_reference(backward: Any, name: str) -> None:
    tensors, options = make(name, head_dim=16)
    q, k, v = (x.requires_grad_() for x in tensors)
    with ops.use(attention="reference"):
        out, lse = ops.attention(q, k, v, return_lse=True, **options)
    d_out, d_lse = torch.randn_like(out), torch.randn_like(lse)
    d_lse[lse.isinf()] = 0
    expected = torch.autograd.grad((out, lse), (q, k, v), (d_out, d_lse))
    inputs = [x.detach() for x in (d_out, q, k, v, out, lse, d_lse)]
    for found, right in zip(backward(*inputs, options_of(q, options)), expected, strict=True):
        assert found.dtype == right.dtype
        torch.testing.assert_close(found, right, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("sinks", [False, True])
def test_blocks_of_keys_with_the_lse_of_all_add_up(sinks: bool) -> None:
    """A ring of two ranks: the first half of the keys lies in the past of all queries."""
    torch.manual_seed(0)
    q = torch.randn(2, 40, 4, 16, requires_grad=True)
    k, v = (torch.randn(2, 80, 2, 16, requires_grad=True) for _ in range(2))
    logits = torch.randn(4) if sinks else None
    with ops.use(attention="reference"):
        out, lse = ops.attention(q, k, v, sinks=logits, return_lse=True)
    d_out = torch.randn_like(out)
    d_q, d_k, d_v = torch.autograd.grad(out, (q, k, v), d_out)
    halves = []
    for causal, part in ((False, slice(0, 40)), (True, slice(40, 80))):
        block = [x.detach() for x in (d_out, q, k[:, part], v[:, part], out, lse)]
        halves.append(attention_backward(*block, causal=causal))
    torch.testing.assert_close(halves[0][0] + halves[1][0], d_q)
    torch.testing.assert_close(torch.cat([halves[0][1], halves[1][1]], 1), d_k)
    torch.testing.assert_close(torch.cat([halves[0][2], halves[1][2]], 1), d_v)


def test_float64_goes_to_the_reference() -> None:
    q = torch.randn(1, 5, 2, 4, dtype=torch.float64, requires_grad=True)
    out, lse = ops.attention(q, q, q, return_lse=True)
    (expected,) = torch.autograd.grad(out.sum(), q)
    q, out, lse = q.detach(), out.detach(), lse.detach()
    found = attention_backward(torch.ones_like(out), q, q, q, out, lse)
    torch.testing.assert_close(sum(found), expected)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dout": torch.zeros(1, 5, 2, 3)}, r"dout is \(1, 5, 2, 3\) .*; give \(1, 5, 2, 4\)"),
        ({"out": torch.zeros(1, 5, 2, 4).bfloat16()}, "out is .* torch.bfloat16; give"),
        ({"lse": torch.zeros(1, 5, 2)}, r"lse is \(1, 5, 2\) .*; give \(1, 2, 5\)"),
    ],
)
def test_wrong_arguments_are_refused(changed: dict[str, torch.Tensor], message: str) -> None:
    q = torch.randn(1, 5, 2, 4)
    given = {"dout": q, "q": q, "k": q, "v": q, "out": q, "lse": torch.zeros(1, 2, 5), **changed}
    with pytest.raises(ValueError, match=message):
        attention_backward(**given)
