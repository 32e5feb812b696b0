"""A matrix product with a weight, y = x @ weight.T, and its two backward products.

torch takes MKL for fp32 on a CPU, which runs its AVX2 code on CPUs that are not Intel's. oneDNN, in
the same torch, uses their AVX-512: on an AMD EPYC (Zen 5) it is about twice as fast in all three
products, from some 8 million multiply-adds on; below, its overhead of 12 us per call shows.
FLOPs: 2 * rows * in_features * out_features forward, twice that backward.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from megafm.ops import registry
from megafm.ops.autocast import autocast_dtype


def linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x @ weight.T.

    Args:
        x: (..., in_features), the dtype of `weight` (autocast's inside autocast).
        weight: (out_features, in_features).

    Returns:
        (..., out_features) in the dtype of the product.
    """
    if weight.dim() != 2 or x.shape[-1:] != weight.shape[1:]:
        raise ValueError(f"linear: weight {tuple(weight.shape)} does not fit x {tuple(x.shape)}")
    registry.check_devices("linear", x=x, weight=weight)
    dtype = autocast_dtype(x)
    if dtype is not None:
        x, weight = x.to(dtype), weight.to(dtype)
    if x.dtype != weight.dtype:
        raise ValueError(f"linear: x is {x.dtype}, weight {weight.dtype}; give one dtype")
    return registry.dispatch("linear", x.device, x, weight)


def reference(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.linear(x, weight)


def onednn(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return _OneDnn.apply(x, weight)


class _OneDnn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        d_y = grads[0]
        d_x = linear(d_y, weight.T) if ctx.needs_input_grad[0] else None
        d_weight = None
        if ctx.needs_input_grad[1]:
            d_weight = weight_gradient(d_y.flatten(0, -2), x.flatten(0, -2))
        return d_x, d_weight


def weight_gradient(d_y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """d_y.T @ x of (rows, out_features) and (rows, in_features); may be a transposed view.

    oneDNN copies a transposed first argument, so the narrower one goes first.
    """
    if d_y.shape[1] > x.shape[1]:
        return linear(x.T, d_y.T).T
    return linear(d_y.T, x.T)


def product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x @ weight.T by oneDNN, fp32, without a derivative.

    torch.compile gets an op of ours: of torch's own, inductor wants a weight that is a constant.
    """
    if torch.compiler.is_compiling():
        return torch.ops.megafm.onednn_product(x, weight)
    return _product(x, weight)


def _product(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


_library = torch.library.Library("megafm", "FRAGMENT")
_library.define("onednn_product(Tensor x, Tensor weight) -> Tensor")
_library.impl("onednn_product", _product, "CPU")
torch.library.register_fake("megafm::onednn_product", reference)


def onednn_unavailable() -> str | None:
    if not torch.backends.mkldnn.is_available():
        return "this torch has no oneDNN"
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return "this torch does not offer oneDNN's fp32 products"
    return None


def _onednn_refuses(x: torch.Tensor, weight: torch.Tensor) -> str | None:
    if x.dtype != torch.float32:
        return f"it is for float32, and x is {x.dtype}"
    if x.dim() < 2 or 0 in (*x.shape, *weight.shape):
        return f"x {tuple(x.shape)} with weight {tuple(weight.shape)} is no matrix product"
    return None


registry.register("linear", "reference", registry.Backend(reference))
registry.register("linear", "onednn", registry.Backend(onednn, onednn_unavailable, _onednn_refuses))
