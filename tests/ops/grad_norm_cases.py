"""Lists of gradients whose norm a backend is held to."""

from __future__ import annotations

import torch

from megafm import ops

F32, F16 = torch.float32, torch.float16
# (shape, dtype) of each tensor; 16384 elements are a chunk of the Triton kernel.
LISTS = {
    "one": [((239, 7), F32)],
    "empty among others": [((0,), F32), ((3,), F32), ((4, 0, 2), F32)],
    "all empty": [((0,), F32)],
    "scalars": [((), F32)] * 5,
    "chunks": [((16384,), F32), ((16385,), F32), ((40_000,), F32), ((1,), F32)],
    "half": [((1023, 3), F16), ((16_400,), F16)],
    "mixed": [((239,), F32), ((799,), F16), ((1023,), torch.bfloat16), ((70_001,), F32)],
}

# Elements whose squares, or the sums of those, are beyond what float32 holds.
EXTREMES = (1e-40, 1e-25, 1e-12, 3e17, 3e19, 3e35)


def random_lists(name: str, device: torch.device) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [
        torch.randn(shape, generator=generator).to(device, dtype) for shape, dtype in LISTS[name]
    ]


def assert_norm(tensors: list[torch.Tensor]) -> None:
    norm = ops.grad_norm(tensors)
    right = sum(x.double().square().sum().item() for x in tensors) ** 0.5
    assert norm.dtype == torch.float32 and norm.shape == ()
    assert abs(norm.item() - right) <= 2e-6 * right
    turned = [x.reshape(-1, 1).expand(-1, 2)[:, 0].flip(0) if x.dim() else x for x in tensors]
    assert abs(ops.grad_norm(turned).item() - right) <= 2e-6 * right


def assert_norm_of_extremes(size: float, dtype: torch.dtype, device: torch.device) -> None:
    """Alone, beside nothing but zeros, and beside ones, which a small one does not move."""
    x = torch.randn(16_999, generator=torch.Generator().manual_seed(2)).mul_(size).to(device, dtype)
    assert_norm([x])
    assert_norm([torch.zeros(40_000, device=device), x, x[:3]])
    assert_norm([torch.ones(40_000, device=device), x])
