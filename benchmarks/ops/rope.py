"""Rotary embedding of queries and keys, pairs (i, i + half) as in Llama."""

from __future__ import annotations

import importlib.util

import torch

from benchmarks.ops.op import FORWARD, Function, Inputs, Op, Sizes, Work, normal
from megafm import ops


def inputs(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Inputs:
    place = {"dtype": dtype, "device": device}
    batch, seq, dim, last = (sizes[name] for name in ("batch", "seq", "head_dim", "last"))
    q = normal(batch, seq, sizes["heads"], dim, **place)
    k = normal(batch, seq, sizes["kv_heads"], dim, **place, seed=2)
    cos, sin = ops.rope_cache(last, dim, device=device)
    return Inputs((q, k), (cos[last - seq :], sin[last - seq :]))


def written_out(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As model code writes it: tables of full width, and a half turned."""
    cos, sin = (torch.cat((x, x), dim=-1).unsqueeze(1) for x in (cos, sin))  # (seq, 1, head_dim)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, dim=-1)
        return (x * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)

    return rotate(q), rotate(k)


def complex_product(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As Llama's first release wrote it, on halves instead of neighbours."""
    turn = torch.complex(cos, sin).unsqueeze(1)  # (seq, 1, head_dim / 2)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        turned = torch.complex(*x.float().chunk(2, dim=-1)) * turn
        return torch.cat((turned.real, turned.imag), dim=-1).to(x.dtype)

    return rotate(q), rotate(k)


def libraries() -> dict[str, Function]:
    if not importlib.util.find_spec("liger_kernel"):
        return {}
    from liger_kernel.ops.rope import LigerRopeFunction

    def liger(
        q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        wide = (torch.cat((x, x), dim=-1).unsqueeze(0) for x in (cos, sin))
        rotated = LigerRopeFunction.apply(q.transpose(1, 2), k.transpose(1, 2), *wide)
        return tuple(x.transpose(1, 2) for x in rotated)

    return {"Liger": liger}


def work(sizes: Sizes, size: int, mode: str) -> Work:
    """Each direction reads and writes q and k once."""
    heads = sizes["heads"] + sizes["kv_heads"]
    elements = sizes["batch"] * sizes["seq"] * heads * sizes["head_dim"]
    return Work((2 if mode == FORWARD else 4) * elements * size)


def sizes(batch: int, seq: int, last: int, **heads: int) -> Sizes:
    """`last` positions, the queries are at the `seq` last of them."""
    return {"batch": batch, "seq": seq, "last": last} | heads


OP = Op(
    name="rope",
    shapes={
        "B8 H8 KV4 T512 D64": sizes(8, 512, 512, heads=8, kv_heads=4, head_dim=64),
        "B1 H32 KV8 T2048 D128": sizes(1, 2048, 2048, heads=32, kv_heads=8, head_dim=128),
        "decode B8 H8 KV4 D64": sizes(8, 1, 512, heads=8, kv_heads=4, head_dim=64),
    },
    gpu={"B4 H32 KV8 T8192 D128": sizes(4, 8192, 8192, heads=32, kv_heads=8, head_dim=128)},
    quick={"B1 H2 KV1 T8 D16": sizes(1, 8, 8, heads=2, kv_heads=1, head_dim=16)},
    inputs=inputs,
    ours=ops.apply_rope,
    eager={"written out": written_out, "complex": complex_product},
    compiled=("written out",),
    exact=written_out,
    work=work,
    libraries=libraries,
)
