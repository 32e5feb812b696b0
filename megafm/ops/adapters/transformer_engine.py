"""NVIDIA TransformerEngine: RMSNorm, attention, cross-entropy, AdamW, norm. Not yet run on a GPU.

Signatures as of version 2.20.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from megafm.ops import adapters, registry
from megafm.ops.adapters import multi_tensor
from megafm.ops.adapters.multi_tensor import CORRECT_BIAS, DECOUPLED, Tensors

if TYPE_CHECKING:
    from megafm.ops.attention import Options

FIX = "pip install 'megafm[te]'"
MAX_HEAD_DIM = 256


class _RmsNorm(torch.autograd.Function):
    """The kernels under te.pytorch.RMSNorm; the module itself wants to own the weight."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        import transformer_engine.pytorch  # noqa: F401 (loads the libraries of the next two)
        import transformer_engine_torch as tex
        from transformer_engine.pytorch.constants import TE_DType

        rows = x.reshape(-1, x.shape[-1]).contiguous()
        quantizer, sm_margin, zero_centered = None, 0, False
        y, _, inverse_rms = tex.rmsnorm_fwd(
            rows, weight, eps, None, quantizer, TE_DType[x.dtype], sm_margin, zero_centered
        )
        ctx.save_for_backward(rows, weight, inverse_rms)
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        import transformer_engine_torch as tex

        registry.refuse_second_derivative("rms_norm")
        rows, weight, inverse_rms = ctx.saved_tensors
        dy = grads[0].reshape(rows.shape).contiguous()
        dx, dweight = tex.rmsnorm_bwd(dy, rows, inverse_rms, weight, 0, False)
        return dx.view(grads[0].shape), dweight, None


def _rms_norm(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    total = x if residual is None else x + residual
    y = _RmsNorm.apply(total, weight, eps)
    return y if residual is None else (y, total)


def _rms_norm_refuses(
    x: torch.Tensor, weight: torch.Tensor, eps: float, residual: torch.Tensor | None
) -> str | None:
    if x.dtype != weight.dtype:
        return f"it wants one dtype, x is {x.dtype}, weight {weight.dtype}"
    return adapters.refused_rms_norm(x, weight, eps, residual)


def _attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Options) -> torch.Tensor:
    heads, kv_heads, window = q.shape[2], k.shape[2], options.window
    attend = _attention_module(heads, q.shape[3], kv_heads, options.causal, window, options.scale)
    if options.cu_seqlens is None:
        return attend(q, k, v).view(*q.shape[:3], v.shape[3])
    ends = options.cu_seqlens.to(torch.int32)
    out = attend(
        q.squeeze(0),  # (tokens, heads, head_dim)
        k.squeeze(0),
        v.squeeze(0),
        qkv_format="thd",
        attn_mask_type="padding_causal" if options.causal else "padding",
        cu_seqlens_q=ends,
        cu_seqlens_kv=ends,
        max_seqlen_q=options.max_seqlen,
        max_seqlen_kv=options.max_seqlen,
    )
    return out.view(*q.shape[:3], v.shape[3])


@functools.lru_cache(maxsize=64)
def _attention_module(
    heads: int, head_dim: int, kv_heads: int, causal: bool, window: int | None, scale: float
) -> Any:
    """It has no parameters, so layers of one shape share it."""
    from transformer_engine.pytorch import DotProductAttention

    before = -1 if window is None else window - 1
    return DotProductAttention(
        num_attention_heads=heads,
        kv_channels=head_dim,
        num_gqa_groups=kv_heads,
        attention_dropout=0.0,
        qkv_format="bshd",
        attn_mask_type="causal" if causal else "no_mask",
        window_size=(before, 0 if causal else before),
        softmax_scale=scale,
    )


def _attention_refuses(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, options: Options
) -> str | None:
    if options.softcap is not None or options.sinks is not None or options.return_lse:
        return "it is not adapted to softcap, sinks or lse"
    if options.deterministic:
        return "its backward is deterministic only by an environment variable"
    if q.shape[1] != k.shape[1] or options.cu_seqlens_k is not options.cu_seqlens:
        return "it is adapted to queries and keys of the same tokens only"
    if q.dtype not in (torch.float16, torch.bfloat16):
        return f"its fused kernels take float16 and bfloat16, not {q.dtype}"
    head_dim = q.shape[3]
    if v.shape[3] != head_dim or head_dim % 8 or head_dim > MAX_HEAD_DIM:
        return f"it takes one head_dim, a multiple of 8 up to {MAX_HEAD_DIM}"
    if options.scale <= 0:
        return f"it wants a scale above 0, not {options.scale}"
    return adapters.refused_place(q)


def _cross_entropy(
    logits: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int,
    z_loss: float,
    group: dist.ProcessGroup | None,
) -> torch.Tensor:
    from transformer_engine.pytorch import parallel_cross_entropy

    losses = parallel_cross_entropy(
        logits.reshape(1, -1, logits.shape[-1]),  # (1, tokens, vocab)
        targets.reshape(1, -1),
        ignore_idx=ignore_index,
        overwrite_input=False,
    )
    return losses.reshape(targets.shape)


def _cross_entropy_refuses(
    logits: torch.Tensor,
    targets: torch.Tensor,
    ignore_index: int,
    z_loss: float,
    group: dist.ProcessGroup | None,
) -> str | None:
    if z_loss:
        return "it has no z-loss"
    if group is not None:
        return "it is not adapted to a vocabulary that is sharded over ranks"
    if logits.dtype not in (torch.float32, torch.bfloat16):
        return f"it takes float32 and bfloat16, not {logits.dtype}"
    return adapters.refused_place(logits) or _overwrites_logits()


@functools.cache
def _overwrites_logits() -> str | None:
    from transformer_engine.pytorch import parallel_cross_entropy

    if "overwrite_input" in inspect.signature(parallel_cross_entropy).parameters:
        return None
    return "this old transformer-engine overwrites the logits; pip install -U transformer-engine"


def _adamw(*arguments: Any) -> None:
    """Its kernel forms 1 - beta in float32: the second moment is off by up to 3e-5 of it."""
    from transformer_engine.pytorch import optimizers

    lists, update = multi_tensor.adamw_arguments(*arguments)
    if lists[0]:
        optimizers.multi_tensor_applier(
            optimizers.multi_tensor_adam,
            multi_tensor.noop_flag(lists[0][0].device),
            lists,
            update.lr,
            update.beta1,
            update.beta2,
            update.eps,
            update.step,
            DECOUPLED,
            CORRECT_BIAS,
            update.weight_decay,
        )


def _grad_norm(tensors: Tensors) -> torch.Tensor:
    from transformer_engine.pytorch import optimizers

    kernel, apply = optimizers.multi_tensor_l2norm, optimizers.multi_tensor_applier
    return multi_tensor.grad_norm(tensors, kernel, apply)


# Its extension module lies beside the package, where only the package finds it.
_missing = functools.partial(adapters.missing, "transformer-engine", "transformer_engine")

RMS_NORM = registry.Backend(_rms_norm, _missing, _rms_norm_refuses, FIX)
ATTENTION = registry.Backend(_attention, _missing, _attention_refuses, FIX)
CROSS_ENTROPY = registry.Backend(_cross_entropy, _missing, _cross_entropy_refuses, FIX)
ADAMW = registry.Backend(_adamw, _missing, multi_tensor.refused_adamw, FIX)
GRAD_NORM = registry.Backend(_grad_norm, _missing, multi_tensor.refused_grad_norm, FIX)
