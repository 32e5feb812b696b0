"""Attention on Triton: launches, configurations, derivatives. The kernels stand beside.

Deterministic by construction: no atomics. Memory: out, lse, delta and the gradients.

What is not finite goes further than in the other backends: a key that a query does not see has
weight 0, and 0 * NaN is NaN, so it reaches the queries whose blocks meet its own. Selecting it out
of the operands was tried: 187 of the gate's 252 kernels then lack registers or tensor memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import triton

from megafm.ops import registry
from megafm.ops.triton import architecture, launching_on, wrong_dtype
from megafm.ops.triton.attention_backward import (
    attention_backward_keys,
    attention_backward_queries,
    attention_delta,
)
from megafm.ops.triton.attention_forward import attention_forward
from megafm.ops.triton.cases import Case

if TYPE_CHECKING:
    from megafm.ops.attention import Options

LARGEST_HEAD_DIM = 256
LARGEST_BLOCK = 256  # queries or keys of a tile


class Config(NamedTuple):
    """How a kernel is cut: tile sizes, warps per block, loads in flight."""

    block_q: int
    block_k: int
    num_warps: int
    num_stages: int


# By architecture (0: the interpreter; a chip takes the nearest below it), then bytes of an element
# and the largest head dim: forward, backward over keys, backward over queries.
# Large tiles that keep to the chip's registers and shared memory (tools/gate_triton.py).
CONFIGS: dict[int, dict[tuple[int, int], tuple[Config, Config, Config]]] = {
    0: {
        (size, dim): (Config(32, 16, 4, 1), Config(16, 32, 4, 1), Config(32, 16, 4, 1))
        for size in (2, 4)
        for dim in (64, 128, 256)
    },
    80: {
        (2, 64): (Config(128, 64, 8, 2), Config(32, 128, 8, 2), Config(128, 64, 8, 2)),
        (2, 128): (Config(128, 32, 8, 2), Config(32, 64, 8, 2), Config(64, 32, 4, 2)),
        (2, 256): (Config(64, 32, 8, 2), Config(16, 32, 8, 2), Config(64, 32, 8, 2)),
        (4, 64): (Config(64, 32, 8, 1), Config(16, 32, 8, 1), Config(32, 32, 8, 1)),
        (4, 128): (Config(32, 32, 8, 1), Config(16, 32, 8, 1), Config(32, 16, 8, 1)),
        (4, 256): (Config(16, 16, 8, 1), Config(16, 16, 16, 1), Config(16, 16, 8, 1)),
    },
    90: {
        (2, 64): (Config(128, 64, 8, 3), Config(64, 128, 8, 2), Config(128, 64, 8, 2)),
        (2, 128): (Config(128, 64, 8, 3), Config(32, 128, 8, 2), Config(128, 64, 8, 2)),
        (2, 192): (Config(64, 32, 8, 2), Config(16, 64, 8, 2), Config(64, 16, 8, 2)),
        (2, 256): (Config(128, 32, 8, 2), Config(16, 64, 8, 2), Config(64, 32, 8, 2)),
        (4, 64): (Config(64, 32, 8, 1), Config(32, 32, 8, 1), Config(32, 32, 8, 1)),
        (4, 128): (Config(32, 16, 8, 1), Config(16, 32, 8, 1), Config(16, 16, 8, 1)),
        (4, 256): (Config(16, 16, 8, 1), Config(16, 16, 16, 1), Config(16, 16, 8, 1)),
    },
    100: {
        (2, 64): (Config(128, 64, 8, 2), Config(64, 128, 8, 2), Config(128, 64, 8, 2)),
        (2, 128): (Config(128, 64, 8, 2), Config(64, 128, 8, 2), Config(128, 64, 8, 2)),
        (2, 256): (Config(128, 32, 8, 2), Config(32, 64, 8, 2), Config(64, 32, 8, 2)),
        (4, 64): (Config(64, 32, 8, 1), Config(16, 32, 8, 1), Config(32, 32, 8, 1)),
        (4, 128): (Config(16, 16, 8, 1), Config(16, 32, 8, 1), Config(32, 16, 8, 1)),
        (4, 256): (Config(16, 16, 8, 1), Config(16, 16, 8, 1), Config(16, 16, 8, 1)),
    },
}


def run(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Options
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    rule = (options.causal, options.scale, options.window, options.softcap)
    ends = (options.cu_seqlens, options.cu_seqlens_k)
    out, lse = torch.ops.megafm.triton_attention(q, k, v, options.sinks, *ends, *rule)
    return (out, lse) if options.return_lse else out


def refuses(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Options) -> str | None:
    widest = max(q.shape[3], v.shape[3])
    if not 0 < min(q.shape[3], v.shape[3]) <= widest <= LARGEST_HEAD_DIM:
        return f"no kernel for head dim {widest}, only for 1 to {LARGEST_HEAD_DIM}"
    return wrong_dtype(q=q)


def run_backward(
    d_out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    d_lse: torch.Tensor | None,
    options: Options,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rule = (options.causal, options.scale, options.window, options.softcap)
    ends = (options.cu_seqlens, options.cu_seqlens_k)
    saved = (q, k, v, out, lse)
    return torch.ops.megafm.triton_attention_backward(d_out, d_lse, *saved, *ends, *rule)[:3]


def refuses_backward(d_out: torch.Tensor, *rest: Any) -> str | None:
    q, k, v, *_, options = rest
    return refuses(q, k, v, options)


def _d_sinks(sinks: torch.Tensor, lse: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    """A sink is a key whose value is 0, so its d_score is -probability * delta."""
    probability = torch.exp(sinks.float().view(1, -1, 1) - lse)
    seen = probability.masked_fill(lse == -torch.inf, 0)
    return -(seen * delta).sum((0, 2)).to(sinks.dtype)


class Layout(NamedTuple):
    """Who sees whom: `before` and `after` positions, or intervals of packed documents."""

    before: int
    after: int
    cu_seqlens: torch.Tensor | None
    cu_seqlens_k: torch.Tensor | None

    def keys_of_queries(self, seq_q: int, seq_k: int) -> tuple[torch.Tensor | None, ...]:
        ends = (self.cu_seqlens, self.cu_seqlens_k)
        return _intervals(seq_q, seq_k, *ends, self.before, self.after)

    def queries_of_keys(self, seq_q: int, seq_k: int) -> tuple[torch.Tensor | None, ...]:
        ends = (self.cu_seqlens_k, self.cu_seqlens)
        return _intervals(seq_k, seq_q, *ends, self.after, self.before)


def _layout(
    seq_q: int,
    seq_k: int,
    causal: bool,
    window: int | None,
    cu_seqlens: torch.Tensor | None,
    cu_seqlens_k: torch.Tensor | None,
) -> Layout:
    everything = seq_q + seq_k
    reach = everything if window is None else min(window - 1, everything)
    return Layout(reach, 0 if causal else reach, cu_seqlens, cu_seqlens_k)


def _intervals(
    length: int,
    other_length: int,
    ends: torch.Tensor | None,
    other_ends: torch.Tensor | None,
    before: int,
    after: int,
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Per token of one sequence, the [first, last) it sees in the other: (length,) int32 each.

    None without packed documents. What follows the last document is one document more.
    """
    if ends is None or other_ends is None:
        return None, None
    position = torch.arange(length, device=ends.device)
    document = torch.searchsorted(ends, position, right=True)
    bounds = torch.nn.functional.pad(other_ends, (0, 1), value=other_length)
    known = document.clamp(max=ends.numel() - 1)
    at = position + other_ends[known] - ends[known]
    first = torch.maximum(bounds[document - 1], at - before).clamp(0, other_length)
    last = torch.minimum(bounds[document], at + after + 1).clamp(0, other_length)
    return first.int(), last.int()


def _config(x: torch.Tensor, v: torch.Tensor) -> tuple[Config, Config, Config]:
    chip = architecture()
    arch = max(known for known in CONFIGS if known <= chip)
    widest = max(x.shape[3], v.shape[3])
    sizes = (key for key in CONFIGS[arch] if key[0] == x.element_size() and key[1] >= widest)
    return CONFIGS[arch][min(sizes)]


def _dims(q: torch.Tensor, v: torch.Tensor) -> dict[str, int]:
    dim, v_dim = q.shape[3], v.shape[3]
    return {
        "DIM": dim,
        "V_DIM": v_dim,
        "BLOCK_DIM": max(16, triton.next_power_of_2(dim)),
        "BLOCK_V_DIM": max(16, triton.next_power_of_2(v_dim)),
    }


def _blocks(config: Config) -> dict[str, int]:
    return {
        "BLOCK_Q": config.block_q,
        "BLOCK_K": config.block_k,
        "num_warps": config.num_warps,
        "num_stages": config.num_stages,
    }


def _readable(x: torch.Tensor) -> torch.Tensor:
    """`x`, or a copy where a head's elements are apart or offsets in a tile pass 32 bits."""
    near = x.stride(1) < 2**31 // LARGEST_BLOCK
    return x if near and (x.stride(3) == 1 or x.shape[3] == 1) else x.contiguous()


def launch_forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sinks: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    cu_seqlens_k: torch.Tensor | None,
    causal: bool,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, seq_q, heads, _ = q.shape
    seq_k, kv_heads = k.shape[1:3]
    out, lse = _shapes_forward(q, k, v)
    if out.numel() == 0:
        return out, lse
    q, k, v = (_readable(x) for x in (q, k, v))
    layout = _layout(seq_q, seq_k, causal, window, cu_seqlens, cu_seqlens_k)
    config = _config(q, v)[0]
    grid = (triton.cdiv(seq_q, config.block_q) * heads * batch,)
    with launching_on(q):
        attention_forward[grid](
            *(q, k, v, out, lse),
            None if sinks is None else sinks.contiguous(),
            *layout.keys_of_queries(seq_q, seq_k),
            *(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3]),
            *(seq_q, seq_k, heads, heads // kv_heads, layout.before, layout.after),
            *(scale, softcap),
            **_dims(q, v),
            **_blocks(config),
        )
    return out, lse


def launch_backward(
    d_out: torch.Tensor,
    d_lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    cu_seqlens: torch.Tensor | None,
    cu_seqlens_k: torch.Tensor | None,
    causal: bool,
    scale: float,
    window: int | None,
    softcap: float | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    batch, seq_q, heads, _ = q.shape
    seq_k, kv_heads = k.shape[1:3]
    dq, dk, dv, delta = _shapes_backward(d_out, d_lse, q, k, v, out, lse)
    if q.shape[0] * heads == 0:
        return dq, dk, dv, delta
    q, k, v, d_out = (_readable(x) for x in (q, k, v, d_out))
    out, lse = out.contiguous(), lse.contiguous()
    layout = _layout(seq_q, seq_k, causal, window, cu_seqlens, cu_seqlens_k)
    _, by_keys, by_queries = _config(q, v)
    strides = [*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *d_out.stride()[:3]]
    sizes = [seq_q, seq_k, heads, heads // kv_heads, layout.before, layout.after]
    dims = _dims(q, v)
    with launching_on(q):
        if seq_q > 0:
            block = 64
            attention_delta[(triton.cdiv(seq_q, block) * heads * batch,)](
                *(out, d_out, None if d_lse is None else d_lse.contiguous(), delta),
                *d_out.stride()[:3],
                *(seq_q, heads),
                V_DIM=dims["V_DIM"],
                BLOCK_V_DIM=dims["BLOCK_V_DIM"],
                BLOCK_Q=block,
                num_warps=2 * q.element_size(),  # with 4 for fp32 it would spill
            )
            attention_backward_queries[(triton.cdiv(seq_q, by_queries.block_q) * heads * batch,)](
                *(q, k, v, d_out, lse, delta, dq),
                *layout.keys_of_queries(seq_q, seq_k),
                *(*strides, *sizes, scale, softcap),
                **dims,
                **_blocks(by_queries),
            )
        if seq_k > 0:
            attention_backward_keys[(triton.cdiv(seq_k, by_keys.block_k) * kv_heads * batch,)](
                *(q, k, v, d_out, lse, delta, dk, dv),
                *layout.queries_of_keys(seq_q, seq_k),
                *(*strides, *sizes, scale, softcap),
                **dims,
                **_blocks(by_keys),
            )
    return dq, dk, dv, delta


def _shapes_forward(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    batch, seq_q, heads, _dim = q.shape
    out = q.new_empty(batch, seq_q, heads, v.shape[3])
    return out, q.new_empty(batch, heads, seq_q, dtype=torch.float32)


def _shapes_backward(
    d_out: torch.Tensor,
    d_lse: torch.Tensor | None,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    *_: Any,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    return dq, dk, dv, lse.new_empty(lse.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    q, k, v, sinks, cu_seqlens, cu_seqlens_k, *ctx.rule = inputs
    ctx.save_for_backward(q, k, v, *output, sinks, cu_seqlens, cu_seqlens_k)


def _derivative(
    ctx: Any, d_out: torch.Tensor, d_lse: torch.Tensor | None
) -> tuple[torch.Tensor | None, ...]:
    registry.refuse_second_derivative("attention")
    q, k, v, out, lse, sinks, *ends = ctx.saved_tensors
    dq, dk, dv, delta = torch.ops.megafm.triton_attention_backward(
        d_out, d_lse, q, k, v, out, lse, *ends, *ctx.rule
    )
    d_sinks = None if sinks is None else _d_sinks(sinks, lse, delta)
    return dq, dk, dv, d_sinks, None, None, *[None] * len(ctx.rule)


_RULE = (
    "Tensor? cu_seqlens, Tensor? cu_seqlens_k, bool causal, float scale, int? window, "
    "float? softcap"
)
_SCHEMAS = (
    f"triton_attention(Tensor q, Tensor k, Tensor v, Tensor? sinks, {_RULE}) -> (Tensor, Tensor)",
    "triton_attention_backward(Tensor d_out, Tensor? d_lse, Tensor q, Tensor k, Tensor v, "
    f"Tensor out, Tensor lse, {_RULE}) -> (Tensor, Tensor, Tensor, Tensor)",
)
_library = torch.library.Library("megafm", "FRAGMENT")
for _schema in _SCHEMAS:
    _library.define(_schema)
for _device in ("CPU", "CUDA"):  # CPU: the interpreter
    _library.impl("triton_attention", launch_forward, _device)
    _library.impl("triton_attention_backward", launch_backward, _device)
torch.library.register_fake("megafm::triton_attention", _shapes_forward)
torch.library.register_fake("megafm::triton_attention_backward", _shapes_backward)
torch.library.register_autograd("megafm::triton_attention", _derivative, setup_context=_save)


def compile_cases() -> Iterator[Case]:
    """Every dtype and width with every option, the most that is alive at once; causal at some."""
    for dim in (64, 96, 128, 192, 256):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            yield from _cases(dtype, dim, every_option=True)
    for dim in (128, 192, 256):
        yield from _cases(torch.bfloat16, dim, every_option=False)
    for dim in (64, 128, 256):
        yield from _cases(torch.float32, dim, every_option=False)


def _cases(dtype: torch.dtype, dim: int, *, every_option: bool) -> Iterator[Case]:
    """Forward and backward, causal or with every option."""
    meta = torch.device("meta")
    q = torch.empty(1, 4096, 16, dim, dtype=dtype, device=meta)
    k = torch.empty(1, 4096, 4, dim, dtype=dtype, device=meta)
    lse, sinks = torch.empty(1, 16, 4096, device=meta), torch.empty(16, device=meta)
    rule: tuple[Any, ...] = (None, None, True, dim**-0.5, None, None)
    if every_option:
        ends = torch.empty(3, dtype=torch.int32, device=meta)
        rule = (ends, ends, True, dim**-0.5, 1024, 30.0)
    products = ("attention_forward", "attention_backward_keys", "attention_backward_queries")
    matrix = () if dtype == torch.float32 else products
    name = f"{dtype} {dim} {'every option' if every_option else 'causal'}".removeprefix("torch.")
    yield Case(name, launch_forward, (q, k, k, sinks if every_option else None, *rule), matrix)
    saved = (q, k, k, q, lse)
    yield Case(name, launch_backward, (q, lse if every_option else None, *saved, *rule), matrix)
