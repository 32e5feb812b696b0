"""Causal attention: every head its own keys, grouped heads, and one new token on a cache."""

from __future__ import annotations

import importlib.util

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from benchmarks.ops.op import FORWARD, Function, Inputs, Op, Sizes, Work, normal
from megafm import ops


def inputs(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
    def make(seq: int, heads: int, seed: int) -> torch.Tensor:
        shape = (sizes["batch"], seq, heads, sizes["head_dim"])
        return normal(*shape, dtype=dtype, device=device, seed=seed)

    q = make(sizes["seq_q"], sizes["heads"], 0)
    return Inputs((q, *(make(sizes["seq_k"], sizes["kv_heads"], seed) for seed in (2, 3))))


def ours(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return ops.attention(q, k, v)


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """torch's own choice of kernel; a single query sees all keys."""
    out = F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)),
        is_causal=q.shape[1] > 1,
        enable_gqa=q.shape[2] != k.shape[2],
    )
    return out.transpose(1, 2)


def sdpa_repeated(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Keys and values repeated for every query head, as model code often does."""
    group = q.shape[2] // k.shape[2]
    return sdpa(q, *(x.repeat_interleave(group, dim=2) for x in (k, v)))


def libraries() -> dict[str, Function]:
    found: dict[str, Function] = {
        "cuDNN SDPA": _forced(SDPBackend.CUDNN_ATTENTION),
        "flash SDPA": _forced(SDPBackend.FLASH_ATTENTION),
    }
    if importlib.util.find_spec("flash_attn"):
        from flash_attn import flash_attn_func

        found["flash-attn"] = lambda q, k, v: flash_attn_func(q, k, v, causal=True)
    return found


def _forced(backend: SDPBackend) -> Function:
    """By default SDPA takes FlashAttention-2 on Hopper; cuDNN has to be asked for."""

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(backend):
            return sdpa(q, k, v)

    return attend


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Head after head, each formed again for its gradients: float64 scores of all heads do not fit
    small machines, nor those of long sequences a GPU."""
    group, (seq_q, seq_k) = q.shape[2] // k.shape[2], (q.shape[1], k.shape[1])
    hidden = torch.ones(seq_q, seq_k, dtype=torch.bool, device=q.device).triu(seq_k - seq_q + 1)

    def attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        scores = queries @ keys.T * q.shape[-1] ** -0.5
        return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ values

    def rows_of(i: int, head: int) -> torch.Tensor:
        of_head = q[i, :, head], k[i, :, head // group], v[i, :, head // group]
        return checkpoint(attend, *of_head, use_reentrant=False)

    rows = (
        torch.stack([rows_of(i, head) for head in range(q.shape[2])], dim=1)
        for i in range(q.shape[0])
    )
    return torch.stack(list(rows))


def work(sizes: Sizes, size: int, mode: str) -> Work:
    """Two matrix products forward and five backward, over the scores that are not masked."""
    seq_q, seq_k, dim = sizes["seq_q"], sizes["seq_k"], sizes["head_dim"]
    seen = sizes["batch"] * (seq_q * (seq_k - seq_q) + seq_q * (seq_q + 1) / 2)
    products, passes = (2, 1) if mode == FORWARD else (7, 3)
    rows = sizes["batch"] * (2 * seq_q * sizes["heads"] + 2 * seq_k * sizes["kv_heads"])
    flops = 0 if seq_q == 1 else products * 2 * seen * dim * sizes["heads"]
    return Work(passes * rows * dim * size, flops)


def shape(
    seq: int, dim: int, kv_heads: int = 8, cached: int = 0, *, batch: int = 1, heads: int = 8
) -> Sizes:
    sizes = {"batch": batch, "seq_q": seq, "seq_k": cached + seq, "heads": heads}
    return sizes | {"kv_heads": kv_heads, "head_dim": dim}


def on_gpu(seq: int, dim: int, kv_heads: int) -> Sizes:
    """2,048 channels of queries, 16,384 tokens in all."""
    return shape(seq, dim, kv_heads, batch=GPU_TOKENS // seq, heads=2048 // dim)


CONTEXTS = (256, 512, 1024, 2048)
GPU_TOKENS = 16384

OP = Op(
    name="attention",
    shapes={
        **{f"T{seq} D{dim}": shape(seq, dim) for dim in (32, 64, 128) for seq in CONTEXTS},
        **{f"T{seq} D64 KV2": shape(seq, 64, kv_heads=2) for seq in CONTEXTS},
        "decode 1024 D64": shape(1, 64, cached=1023),
        "decode 1024 D64 KV2": shape(1, 64, kv_heads=2, cached=1023),
    },
    gpu={
        **{f"S{2**n} D128": on_gpu(2**n, 128, 16) for n in range(10, 15)},
        "S4096 D64": on_gpu(4096, 64, 32),
        "S4096 D128 KV4": on_gpu(4096, 128, 4),
    },
    quick={"T16 D16 KV2": shape(16, 16, kv_heads=2)},
    inputs=inputs,
    ours=ours,
    eager={"SDPA": sdpa, "SDPA repeated": sdpa_repeated},
    compiled=("SDPA",),
    exact=exact,
    work=work,
    libraries=libraries,
)
