"""The adapter against a stand-in with TransformerEngine's signatures; nothing here runs it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from megafm import ops
from megafm.ops import adapters, registry
from megafm.ops.adapters import transformer_engine
from megafm.ops.attention import Options, reference
from tests.ops.adapters import kernels
from tests.ops.adapters.modules import put_module

PLAIN = Options(
    causal=True,
    scale=0.3,
    window=None,
    softcap=None,
    sinks=None,
    cu_seqlens=None,
    cu_seqlens_k=None,
    max_seqlen=None,
    deterministic=False,
    return_lse=False,
)


def rmsnorm_fwd(
    input: torch.Tensor,
    weight: torch.Tensor,
    eps: float,
    ln_out: None,
    quantizer: None,
    otype: str,
    sm_margin: int,
    zero_centered_gamma: bool,
) -> tuple[torch.Tensor, None, torch.Tensor]:
    assert input.dim() == 2 and otype == f"te {input.dtype}" and not zero_centered_gamma
    inverse_rms = (input.square().mean(-1) + eps).rsqrt()
    return input * inverse_rms[:, None] * weight, None, inverse_rms


def rmsnorm_bwd(
    dz: torch.Tensor,
    x: torch.Tensor,
    rsigma: torch.Tensor,
    gamma: torch.Tensor,
    sm_margin: int,
    zero_centered_gamma: bool,
) -> list[torch.Tensor]:
    normed, dy = x * rsigma[:, None], dz * gamma
    dx = (dy - normed * (dy * normed).mean(-1, keepdim=True)) * rsigma[:, None]
    return [dx, (dz * normed).sum(0)]


class DotProductAttention(torch.nn.Module):
    """Of the keyword arguments, those that the adapter uses."""

    def __init__(
        self,
        num_attention_heads: int,
        kv_channels: int,
        num_gqa_groups: int | None = None,
        attention_dropout: float = 0.0,
        qkv_format: str = "sbhd",
        attn_mask_type: str = "causal",
        window_size: tuple[int, int] | None = None,
        softmax_scale: float | None = None,
    ) -> None:
        super().__init__()
        assert attention_dropout == 0 and qkv_format == "bshd"
        self.shape = (num_attention_heads, num_gqa_groups, kv_channels)
        self.mask, self.window, self.scale = attn_mask_type, window_size, softmax_scale

    def forward(
        self,
        query_layer: torch.Tensor,
        key_layer: torch.Tensor,
        value_layer: torch.Tensor,
        attention_mask: None = None,
        qkv_format: str | None = None,
        cu_seqlens_q: torch.Tensor | None = None,
        cu_seqlens_kv: torch.Tensor | None = None,
        cu_seqlens_q_padded: None = None,
        cu_seqlens_kv_padded: None = None,
        max_seqlen_q: int | None = None,
        max_seqlen_kv: int | None = None,
        attn_mask_type: str | None = None,
    ) -> torch.Tensor:
        """(batch, seq, heads, dim) -> (batch, seq, heads * dim); "thd" without batch."""
        heads, kv_heads, dim = self.shape
        assert query_layer.shape[-2:] == (heads, dim) and key_layer.shape[-2:] == (kv_heads, dim)
        mask = attn_mask_type or self.mask
        if qkv_format == "thd":
            assert cu_seqlens_q is not None and cu_seqlens_kv is not None
            assert cu_seqlens_q.dtype == cu_seqlens_kv.dtype == torch.int32 and "padding" in mask
            ends = cu_seqlens_q.tolist()
            parts = [
                self.attend(*(x[None, a:b] for x in (query_layer, key_layer, value_layer)), mask)
                for a, b in itertools.pairwise(ends)
            ]
            return torch.cat(parts, dim=1).flatten(-2)[0]
        assert "padding" not in mask
        return self.attend(query_layer, key_layer, value_layer, mask).flatten(-2)

    def attend(self, q: Any, k: Any, v: Any, mask: str) -> torch.Tensor:
        """window_size counts the keys before and after the query's own; -1 is all of them."""
        assert self.window is not None and "bottom_right" not in mask
        before, after = self.window
        distance = torch.arange(q.shape[1])[:, None] - torch.arange(k.shape[1])
        seen = torch.ones_like(distance, dtype=torch.bool)
        if "causal" in mask:
            assert after == 0
            seen &= distance >= 0
        if before >= 0:
            seen &= distance <= before
        if after >= 0:
            seen &= -distance <= after
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        options = {"attn_mask": seen, "scale": self.scale, "enable_gqa": True}
        return F.scaled_dot_product_attention(q, k, v, **options).transpose(1, 2)


def parallel_cross_entropy(
    inp: torch.Tensor,
    target: torch.Tensor,
    label_smoothing: float = 0.0,
    reduce_loss: bool = False,
    dist_process_group: None = None,
    ignore_idx: int = -100,
    is_cg_capturable: bool = False,
    *,
    overwrite_input: bool = False,
) -> torch.Tensor:
    """(batch, seq, vocab) and one target a row -> (batch, seq) float32."""
    assert inp.dim() == 3 and target.numel() == inp.shape[0] * inp.shape[1]
    assert not (label_smoothing or reduce_loss or overwrite_input or is_cg_capturable)
    losses = F.cross_entropy(
        inp.flatten(0, 1).float(), target.flatten(), ignore_index=ignore_idx, reduction="none"
    )
    return losses.view(inp.shape[:2])


@pytest.fixture(autouse=True)
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    dtypes = {x: f"te {x}" for x in (torch.float32, torch.float16, torch.bfloat16)}
    put_module(monkeypatch, "transformer_engine")
    put_module(
        monkeypatch,
        "transformer_engine.pytorch",
        DotProductAttention=DotProductAttention,
        parallel_cross_entropy=parallel_cross_entropy,
    )
    put_module(monkeypatch, "transformer_engine.pytorch.constants", TE_DType=dtypes)
    put_module(
        monkeypatch,
        "transformer_engine.pytorch.optimizers",
        multi_tensor_applier=kernels.multi_tensor_applier,
        multi_tensor_adam=kernels.multi_tensor_adam,
        multi_tensor_l2norm=kernels.multi_tensor_l2norm,
    )
    put_module(
        monkeypatch, "transformer_engine_torch", rmsnorm_fwd=rmsnorm_fwd, rmsnorm_bwd=rmsnorm_bwd
    )
    transformer_engine._attention_module.cache_clear()
    transformer_engine._overwrites_logits.cache_clear()
    yield
    transformer_engine._attention_module.cache_clear()
    transformer_engine._overwrites_logits.cache_clear()


def test_rms_norm_and_its_gradients() -> None:
    inputs = [torch.randn(2, 3, 8), torch.randn(8), torch.randn(2, 3, 8)]

    def values(function: Any) -> list[torch.Tensor]:
        x, weight, residual = (leaf.clone().requires_grad_() for leaf in inputs)
        y, total = function(x, weight, residual)
        gradients = torch.autograd.grad((y * y.cos()).sum() + total.sin().sum(), (x, weight))
        return [y, total, *gradients]

    ours = values(lambda x, w, r: transformer_engine.RMS_NORM.run(x, w, 1e-5, r))
    theirs = values(lambda x, w, r: ops.rms_norm(x, w, 1e-5, residual=r))
    torch.testing.assert_close(ours, theirs)
    alone = transformer_engine.RMS_NORM.run(inputs[0], inputs[1], 1e-5, None)
    torch.testing.assert_close(alone, ops.rms_norm(inputs[0], inputs[1], 1e-5))


@pytest.mark.parametrize("window", [None, 1, 3])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_attention(causal: bool, window: int | None, packed: bool) -> None:
    ends = torch.tensor([0, 4, 5, 9]) if packed else None
    options = dataclasses.replace(
        PLAIN, causal=causal, window=window, cu_seqlens=ends, cu_seqlens_k=ends
    )
    batch = 1 if packed else 2
    q, k, v = torch.randn(batch, 9, 4, 8), torch.randn(batch, 9, 2, 8), torch.randn(batch, 9, 2, 8)
    out = transformer_engine.ATTENTION.run(q, k, v, options)
    torch.testing.assert_close(out, reference(q, k, v, options))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"softcap": 30.0}, "softcap, sinks or lse"),
        ({"return_lse": True}, "softcap, sinks or lse"),
        ({"deterministic": True}, "deterministic only by an environment variable"),
        ({"cu_seqlens_k": torch.tensor([0, 8])}, "of the same tokens"),
        ({"scale": 0.0}, "a scale above 0"),
        ({}, "CUDA tensors, not on cpu"),
    ],
)
def test_attention_refuses_what_it_does_not_map(changes: dict[str, Any], reason: str) -> None:
    q = torch.zeros(1, 8, 2, 64, dtype=torch.bfloat16)
    options = dataclasses.replace(PLAIN, **changes)
    assert reason in transformer_engine.ATTENTION.refuses(q, q, q, options)


def test_attention_refuses_shapes_and_dtypes() -> None:
    refuses, q = transformer_engine.ATTENTION.refuses, torch.zeros(1, 8, 2, 64).half()
    assert "the same tokens" in refuses(q[:, :1], q, q, PLAIN)
    assert "not torch.float32" in refuses(q.float(), q.float(), q.float(), PLAIN)
    assert "multiple of 8" in refuses(q[..., :60], q[..., :60], q[..., :60], PLAIN)


def test_cross_entropy_leaves_the_logits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """By way of the op: what it hands its backends is what the adapter takes."""
    monkeypatch.setattr(adapters, "refused_place", lambda x: None)  # a GPU, or it is refused
    monkeypatch.setattr(registry, "why_not", lambda op, backend: None)
    logits, targets = torch.randn(2, 3, 11, requires_grad=True), torch.randint(11, (2, 3))
    targets[0, 1] = -7
    before = logits.detach().clone()
    with ops.use(cross_entropy="reference"):
        expected = ops.cross_entropy(logits, targets, ignore_index=-7)
    with ops.use(cross_entropy="transformer_engine"):
        losses = ops.cross_entropy(logits, targets, ignore_index=-7)
    torch.testing.assert_close(losses, expected)
    losses.sum().backward()
    assert torch.equal(logits, before) and logits.grad is not None


def test_cross_entropy_refuses_z_loss_and_a_library_that_overwrites_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refuses, logits = transformer_engine.CROSS_ENTROPY.refuses, torch.zeros(2, 4)
    assert refuses(logits, logits[:, 0].long(), -100, 1e-4, None) == "it has no z-loss"
    assert "sharded" in refuses(logits, logits[:, 0].long(), -100, 0.0, "some ranks")
    assert "not torch.float16" in refuses(logits.half(), logits[:, 0].long(), -100, 0.0, None)
    assert transformer_engine._overwrites_logits() is None
    transformer_engine._overwrites_logits.cache_clear()
    put_module(
        monkeypatch, "transformer_engine.pytorch", parallel_cross_entropy=lambda inp, target: None
    )
    assert "overwrites the logits" in str(transformer_engine._overwrites_logits())


@pytest.mark.parametrize(
    ("dtype", "master"), [(torch.float32, False), (torch.bfloat16, True), (torch.float16, True)]
)
def test_adamw(dtype: torch.dtype, master: bool) -> None:
    kernels.assert_adamw(transformer_engine.ADAMW.run, dtype, master)


def test_grad_norm() -> None:
    kernels.assert_grad_norm(transformer_engine.GRAD_NORM.run)


def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert transformer_engine.ATTENTION.unavailable() is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert transformer_engine.ATTENTION.unavailable() == "torch sees no CUDA device"
