"""The backward of attention as an op of its own, for a block of keys at a time.

    p = exp(softcap(q @ k.T * scale) - lse)      delta = sum(dout * out) - d_lse
    dv = p.T @ dout      ds = p * (dout @ v.T - delta)      dq = scale * ds @ k      dk = ds.T @ q

lse and out are of all the keys that a query sees; k and v may be a part of them. So a ring of ranks
that each hold a block of keys adds up the dq of every block, and each block's dk and dv are whole.
"""

from __future__ import annotations

import math

import torch

from megafm.ops import _library, registry, triton
from megafm.ops.attention import Options, by_query_head, check, scores_of, visible
from megafm.ops.cpp import attention as cpp
from megafm.ops.cpp.storage import CPU, CUDA

Gradients = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def attention_backward(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    *,
    d_lse: torch.Tensor | None = None,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    cu_seqlens: torch.Tensor | None = None,
    cu_seqlens_k: torch.Tensor | None = None,
    max_seqlen: int | None = None,
) -> Gradients:
    """Gradients of `attention` for q and for the keys and values given.

    Sinks are no argument: lse has them in it.

    Args:
        dout: the gradient of `out`, of its shape and dtype.
        q, k, v: as for `attention`; where the keys are a block of many, `causal` aligns the last
            query with the block's last key.
        out: (batch, seq_q, heads, head_dim of v) over all keys.
        lse: (batch, heads, seq_q) float32 (float64 for float64 q) over all keys.
        d_lse: the gradient of lse; None: zero.
        causal, scale, window, softcap, cu_seqlens, cu_seqlens_k, max_seqlen: as for `attention`.

    Returns:
        dq, dk, dv in the dtype and shape of q, k, v.

    Raises:
        ValueError: the tensors do not fit together.
    """
    options = Options(
        causal=causal,
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
        window=window,
        softcap=softcap,
        sinks=None,
        cu_seqlens=cu_seqlens,
        cu_seqlens_k=cu_seqlens if cu_seqlens_k is None else cu_seqlens_k,
        max_seqlen=max_seqlen,
        deterministic=True,
        return_lse=True,
    )
    check(q, k, v, options, cu_seqlens_k)
    _check_saved(dout, q, v, out, lse, d_lse)
    saved = (dout, q, k, v, out, lse, d_lse)
    return registry.dispatch("attention_backward", q.device, *saved, options)


def reference(
    dout: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    d_lse: torch.Tensor | None,
    options: Options,
) -> Gradients:
    wide = torch.promote_types(q.dtype, torch.float32)
    queries, d_out = (x.to(wide).transpose(1, 2) for x in (q, dout))
    keys, values = (by_query_head(x.to(wide), q) for x in (k, v))
    scores = scores_of(queries, keys, options)  # (batch, heads, seq_q, seq_k)
    shift = lse.masked_fill(lse == -math.inf, math.inf).unsqueeze(-1)  # sees no key: all zero
    weights = torch.exp(scores - shift)
    mask = visible(q, k, options)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0)
    delta = (d_out * out.to(wide).transpose(1, 2)).sum(-1)  # (batch, heads, seq_q)
    if d_lse is not None:
        delta = delta - d_lse
    d_scores = weights * (d_out @ values.transpose(-2, -1) - delta.unsqueeze(-1)) * options.scale
    if options.softcap is not None:
        d_scores = d_scores * (1 - (scores / options.softcap).square())
    d_q = (d_scores @ keys).transpose(1, 2)
    d_k = _by_kv_head(d_scores.transpose(-2, -1) @ queries, k)
    d_v = _by_kv_head(weights.transpose(-2, -1) @ d_out, v)
    return d_q.to(q.dtype), d_k.to(k.dtype), d_v.to(v.dtype)


def _by_kv_head(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(batch, heads, seq, dim) summed over the heads of each kv head, in the layout of `like`."""
    return x.unflatten(1, (like.shape[2], -1)).sum(2).transpose(1, 2)


def _check_saved(
    dout: torch.Tensor,
    q: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    d_lse: torch.Tensor | None,
) -> None:
    registry.check_devices("attention_backward", q=q, dout=dout, out=out, lse=lse, d_lse=d_lse)
    batch, seq, heads, _ = q.shape
    wanted = {
        "dout": (dout, (batch, seq, heads, v.shape[3]), q.dtype),
        "out": (out, (batch, seq, heads, v.shape[3]), q.dtype),
        "lse": (lse, (batch, heads, seq), torch.promote_types(q.dtype, torch.float32)),
        "d_lse": (d_lse, (batch, heads, seq), torch.promote_types(q.dtype, torch.float32)),
    }
    for name, (x, shape, dtype) in wanted.items():
        if x is not None and (tuple(x.shape) != shape or x.dtype != dtype):
            got = f"{tuple(x.shape)} {x.dtype}"
            raise ValueError(f"attention_backward: {name} is {got}; give {shape} {dtype}")


registry.register("attention_backward", "reference", registry.Backend(reference))
registry.register(
    "attention_backward", "cpu", _library.backend(cpp.run_backward, cpp.refuses_backward, CPU)
)
registry.register(
    "attention_backward",
    "cuda",
    _library.backend(cpp.run_backward, cpp.refuses_cuda_backward, CUDA),
)
registry.register(
    "attention_backward", "triton", triton.backend("attention", "run_backward", "refuses_backward")
)
