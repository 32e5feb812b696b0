"""AdamW (Loshchilov and Hutter 2019): torch's own, on its fused multi-tensor kernel.

One pass over parameter, gradient and both moments: 28 bytes moved per fp32 parameter.
"""

from __future__ import annotations

from typing import Any

import torch

FUSED_DEVICES = ("cpu", "cuda")


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, fused where all parameters are on devices with a fused kernel.

    Args:
        params: tensors, (name, tensor) pairs or parameter groups, as torch takes them.
        options: `lr`, `betas`, `eps`, `weight_decay` ... of torch.optim.AdamW.
    """

    def __init__(self, params: Any, lr: float = 1e-3, **options: Any) -> None:
        params = list(params)
        fused = all(tensor.device.type in FUSED_DEVICES for tensor in _tensors(params))
        super().__init__(params, lr=lr, fused=fused, **options)


def _tensors(params: Any) -> list[torch.Tensor]:
    if isinstance(params, torch.Tensor):
        return [params]
    items = [item["params"] if isinstance(item, dict) else item for item in params]
    tensors: list[torch.Tensor] = []
    for item in items:
        if isinstance(item, torch.Tensor):
            tensors.append(item)
        elif isinstance(item, tuple) and isinstance(item[0], str):
            tensors.append(item[1])
        else:
            tensors.extend(_tensors(list(item)))
    return tensors
