"""Scaled dot-product attention: causal, grouped heads, windows, packed documents, sinks, softcap.

    out = softmax(mask(softcap(q @ k.T * scale))) @ v

The reference materialises the scores: 4 * batch * heads * seq_q * seq_k bytes, several times.
FLOPs forward: 4 * batch * heads * seq_q * seq_k * head_dim, half of it when causal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from megafm.ops import _library, registry, triton
from megafm.ops.adapters import transformer_engine
from megafm.ops.autocast import autocast_dtype
from megafm.ops.cpp import attention as cpp
from megafm.ops.cpp.storage import CPU, CUDA

Attended = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
    cu_seqlens: torch.Tensor | None = None,
    cu_seqlens_k: torch.Tensor | None = None,
    max_seqlen: int | None = None,
    deterministic: bool = False,
    return_lse: bool = False,
) -> Attended:
    """Attend from every query to the keys it may see.

    Args:
        q: (batch, seq_q, heads, head_dim); q, k and v have one dtype.
        k, v: (batch, seq_k, kv_heads, head_dim of each); heads is a multiple of kv_heads, head
            h reads kv head h // (heads // kv_heads).
        causal: the last query sees the last key (bottom-right), so decoding with a KV cache
            needs no mask of its own. A query that sees no key gives zeros.
        scale: of the scores; None: head_dim ** -0.5.
        window: a query sees keys less than this many positions away; with `causal` that is
            itself and the window - 1 before it.
        softcap: scores become softcap * tanh(scores / softcap) (Gemma 2).
        sinks: (heads,) one extra logit per head that takes probability and gives no value.
        cu_seqlens: (documents + 1,) int, ends of the documents packed in a batch of 1, from 0;
            attention stays inside a document. cu_seqlens_k: the same for k; None: as for q.
        max_seqlen: longest document, a hint for kernels that launch by it.
        deterministic: gradients are the same bits on every run.
        return_lse: also return the log of each softmax's denominator, sinks included.

    Returns:
        out (batch, seq_q, heads, head_dim of v) in the dtype of q (autocast's inside autocast);
        with return_lse also lse (batch, heads, seq_q) float32 (float64 for float64 input), -inf
        where no key is seen.
    """
    dtype = autocast_dtype(q)
    if dtype is not None:
        q, k, v = (x.to(dtype) for x in (q, k, v))
    options = Options(
        causal=causal,
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
        window=window,
        softcap=softcap,
        sinks=sinks,
        cu_seqlens=cu_seqlens,
        cu_seqlens_k=cu_seqlens if cu_seqlens_k is None else cu_seqlens_k,
        max_seqlen=max_seqlen,
        deterministic=deterministic,
        return_lse=return_lse,
    )
    check(q, k, v, options, cu_seqlens_k)
    if dtype is None:
        return registry.dispatch("attention", q.device, q, k, v, options)
    with torch.autocast(q.device.type, enabled=False):  # for the softmax of the reference
        return registry.dispatch("attention", q.device, q, k, v, options)


@dataclass(frozen=True)
class Options:
    """The keyword arguments of `attention`, defaults filled in."""

    causal: bool
    scale: float
    window: int | None
    softcap: float | None
    sinks: torch.Tensor | None
    cu_seqlens: torch.Tensor | None
    cu_seqlens_k: torch.Tensor | None
    max_seqlen: int | None
    deterministic: bool
    return_lse: bool


def reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Options) -> Attended:
    wide = torch.promote_types(q.dtype, torch.float32)
    keys, values = (by_query_head(x.to(wide), q) for x in (k, v))
    scores = scores_of(q.to(wide).transpose(1, 2), keys, options)
    mask = visible(q, k, options)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    probabilities, lse = _softmax(scores, options.sinks)
    out = (probabilities @ values).transpose(1, 2).to(q.dtype)
    return (out, lse) if options.return_lse else out


def by_query_head(x: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """(batch, seq, kv_heads, dim) as (batch, heads of q, seq, dim)."""
    group = q.shape[2] // max(1, x.shape[2])
    return x.transpose(1, 2).repeat_interleave(group, dim=1)


def scores_of(queries: torch.Tensor, keys: torch.Tensor, options: Options) -> torch.Tensor:
    """(batch, heads, seq_q, seq_k) of (batch, heads, seq, head_dim), not masked."""
    scores = queries @ keys.transpose(-2, -1) * options.scale
    if options.softcap is None:
        return scores
    return options.softcap * torch.tanh(scores / options.softcap)


def _softmax(scores: torch.Tensor, sinks: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Softmax over the last dimension and its log denominator; all zeros where no key is seen."""
    logits = scores
    if sinks is not None:
        sink = sinks.to(scores.dtype).view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
        logits = torch.cat((scores, sink), dim=-1)
    if logits.shape[-1] == 0:
        return scores, scores.sum(-1) - math.inf
    seen = (logits > -math.inf).any(-1, keepdim=True)
    lse = torch.logsumexp(logits.masked_fill(~seen, 0), dim=-1, keepdim=True)
    probabilities = torch.exp(scores - lse)
    return probabilities, lse.masked_fill(~seen, -math.inf).squeeze(-1)


def visible(q: torch.Tensor, k: torch.Tensor, options: Options) -> torch.Tensor | None:
    """(seq_q, seq_k) bool, True where the query sees the key; None where all see all."""
    seq_q, seq_k, device = q.shape[1], k.shape[1], q.device
    ends_q, ends_k = options.cu_seqlens, options.cu_seqlens_k
    if not options.causal and options.window is None and ends_q is None:
        return None
    query = torch.arange(seq_q, device=device).unsqueeze(1)
    key = torch.arange(seq_k, device=device).unsqueeze(0)
    if ends_q is None or ends_k is None:
        mask = torch.ones(seq_q, seq_k, dtype=torch.bool, device=device)
        offset: torch.Tensor | int = seq_k - seq_q  # key position of query 0
    else:
        document = torch.searchsorted(ends_q, query, right=True)
        mask = document == torch.searchsorted(ends_k, key, right=True)
        last = document.clamp(max=ends_q.numel() - 1)
        offset = (ends_k[last] - ends_q[last]).to(query.dtype)
    distance = query + offset - key
    if options.causal:
        mask = mask & (distance >= 0)
    if options.window is not None:
        mask = mask & (distance.abs() < options.window)
    return mask


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Options) -> torch.Tensor:
    """torch's kernels; anything but plain causal or full attention goes in as a mask."""
    causal, plain = options.causal, options.window is None and options.cu_seqlens is None
    grouped = True if q.shape[2] != k.shape[2] else False  # noqa: SIM210 (no SymBool in a trace)
    mask = None
    if plain and q.shape[1] == 1:
        causal = False  # the last query sees every key
    elif not plain or (causal and q.shape[1] != k.shape[1]):
        mask = visible(q, k, options)
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k.transpose(1, 2),
        v.transpose(1, 2),
        attn_mask=mask,
        is_causal=causal and mask is None,
        scale=options.scale,
        enable_gqa=grouped,
    )
    return out.transpose(1, 2)


def _sdpa_refuses(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Options
) -> str | None:
    if options.scale <= 0:
        return f"its mask turns to NaN with scale={options.scale}"
    if options.deterministic and q.device.type == "cuda":
        return "torch's backward on CUDA is not deterministic"
    if options.cu_seqlens is not None and options.cu_seqlens_k is not options.cu_seqlens:
        return "some queries of a document may see none of its keys"
    if options.softcap is not None or options.sinks is not None or options.return_lse:
        return "it has no softcap, sinks or lse"
    bounded = options.causal or options.window is not None
    if k.shape[1] == 0 or (bounded and q.shape[1] > k.shape[1]):
        return f"some of {q.shape[1]} queries see none of {k.shape[1]} keys"
    return None


def check(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    options: Options,
    cu_seqlens_k: torch.Tensor | None,
) -> None:
    """Raise ValueError for what no backend takes; `cu_seqlens_k` is the argument as given."""
    tensors = {"sinks": options.sinks, "cu_seqlens": options.cu_seqlens}
    registry.check_devices("attention", q=q, k=k, v=v, **tensors, cu_seqlens_k=cu_seqlens_k)
    if not _fit_together(q, k, v):
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise ValueError(f"attention: q, k, v of shapes {shapes} do not fit together")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"attention: q, k, v are {q.dtype}, {k.dtype}, {v.dtype}; give one dtype")
    heads, window, cu_seqlens = q.shape[2], options.window, options.cu_seqlens
    if heads % max(1, k.shape[2]):
        raise ValueError(f"attention: {heads} heads are no multiple of {k.shape[2]} kv heads")
    if window is not None and window < 1:
        raise ValueError(f"attention: window={window}: set at least 1, or None for no window")
    if options.softcap is not None and options.softcap <= 0:
        raise ValueError(f"attention: softcap={options.softcap}: set it above 0, or None")
    if options.sinks is not None and options.sinks.shape != (heads,):
        shape = tuple(options.sinks.shape)
        raise ValueError(f"attention: sinks {shape}: set one per head, ({heads},)")
    if cu_seqlens is None and cu_seqlens_k is not None:
        raise ValueError("attention: cu_seqlens_k without cu_seqlens; give both")
    if cu_seqlens is not None and q.shape[0] != 1:
        raise ValueError(f"attention: cu_seqlens wants documents in a batch of 1, not {q.shape[0]}")
    ends_k = options.cu_seqlens_k
    if cu_seqlens is None or ends_k is None:
        return
    if cu_seqlens.dim() != 1 or ends_k.shape != cu_seqlens.shape:
        shapes = f"{tuple(cu_seqlens.shape)} and {tuple(ends_k.shape)}"
        raise ValueError(f"attention: cu_seqlens {shapes}: give (documents + 1,) for q and k")


def _fit_together(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> bool:
    if not q.dim() == k.dim() == v.dim() == 4:
        return False
    batch, _, _, dim = q.shape
    batch_k, seq_k, kv_heads, dim_k = k.shape
    batch_v, seq_v, heads_v, _ = v.shape
    return batch == batch_k == batch_v and seq_k == seq_v and kv_heads == heads_v and dim == dim_k


registry.register("attention", "reference", registry.Backend(reference))
registry.register("attention", "cpu", _library.backend(cpp.run, cpp.refuses, CPU))
registry.register("attention", "cuda", _library.backend(cpp.run, cpp.refuses_cuda, CUDA))
registry.register(
    "attention", "sdpa", registry.Backend(_sdpa, refuses=_sdpa_refuses, transforms=True)
)
registry.register("attention", "triton", triton.backend("attention"))
registry.register("attention", "transformer_engine", transformer_engine.ATTENTION)
