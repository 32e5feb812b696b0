"""AdamW (Loshchilov and Hutter 2019): torch's own, on its fused multi-tensor kernel.

One pass over parameter, gradient and both moments: 28 bytes moved per fp32 parameter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

FUSED_DEVICES = ("cpu", "cuda")


class AdamW(torch.optim.AdamW):
    """`torch.optim.AdamW`, fused where all parameters are on devices with a fused kernel.

    Args:
        params: tensors, (name, tensor) pairs or parameter groups, as torch takes them.
        options: `betas`, `eps`, `weight_decay` ... of torch.optim.AdamW.
    """

    def __init__(self, params: Any, lr: float = 1e-3, **options: Any) -> None:
        if not isinstance(params, torch.Tensor):  # torch says what it takes instead
            params = [_with_list(item) for item in params]
            devices = {tensor.device.type for tensor in _tensors(params)}
            fusible = devices <= {*FUSED_DEVICES} and not options.get("foreach")
            options.setdefault("fused", fusible)
        super().__init__(params, lr=lr, **options)


def _with_list(item: Any) -> Any:
    """A parameter group with its parameters in a list: an iterator can be looked at only once."""
    if not isinstance(item, dict) or isinstance(item["params"], torch.Tensor):
        return item
    return {**item, "params": list(item["params"])}


def _tensors(items: Iterable[Any]) -> Iterator[torch.Tensor]:
    for item in items:
        if isinstance(item, torch.Tensor):
            yield item
        elif isinstance(item, tuple):  # (name, tensor)
            yield item[1]
        else:
            params = item["params"]
            yield from [params] if isinstance(params, torch.Tensor) else _tensors(params)
