"""The device of a job: which one, its precision, its peak rate, its threads and allocator."""

from __future__ import annotations

import ctypes
import platform
import re
from pathlib import Path

import torch

from megafm.cpus import num_cpus
from megafm.ops.processor import has_bf16_units
from megafm.parallel import world

# Dense peak rates in FLOP/s from the vendors' datasheets, by a part of the device's name.
PEAK_FLOPS = {
    "H100 PCIe": {torch.bfloat16: 756e12},
    "H100": {torch.bfloat16: 989e12},
    "H200": {torch.bfloat16: 989e12},
    "GH200": {torch.bfloat16: 989e12},
    "B200": {torch.bfloat16: 2250e12},
    "A100": {torch.bfloat16: 312e12},
    "L40S": {torch.bfloat16: 362e12},
    "L4": {torch.bfloat16: 121e12},
    "RTX 4090": {torch.bfloat16: 165e12},
}


def resolve_device(name: str) -> torch.device:
    """`auto` is this rank's CUDA device if there is one, else the CPU.

    Raises:
        ValueError: the named device is not there.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device={name}: set device=auto, device=cpu or device=cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device=cuda: torch sees no CUDA device here; set device=cpu")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if world.local_rank() >= torch.cuda.device_count():
        raise ValueError(
            f"device={name}: this is local rank {world.local_rank()} and the host has "
            f"{torch.cuda.device_count()} CUDA devices; start "
            f"`torchrun --nproc-per-node {torch.cuda.device_count()}`"
        )
    device = torch.device("cuda", world.local_rank())
    torch.cuda.set_device(device)
    return device


def resolve_precision(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bf16 where the hardware multiplies bf16 matrices faster than fp32, else fp32."""
    if name not in ("auto", "fp32", "bf16"):
        raise ValueError(
            f"train.precision={name}: set train.precision=auto, train.precision=fp32 or "
            "train.precision=bf16"
        )
    if name == "auto":
        return torch.bfloat16 if has_bf16_matmul(device) else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32


def has_bf16_matmul(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return has_bf16_units()


def device_name(device: torch.device) -> str:
    """The vendor's name of the chip."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    name = found.group(1) if found else platform.processor() or platform.machine()
    return f"{name} ({num_cpus()} cores)"


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """The named dense peak of the device at `dtype` in FLOP/s; None where it is unknown."""
    name = device_name(device)
    for part, peaks in PEAK_FLOPS.items():
        if re.search(rf"\b{re.escape(part)}\b", name):
            return peaks.get(dtype)
    return None


def set_up_cpu() -> None:
    """Share the cores between the ranks of this host and keep freed memory for the next step."""
    torch.set_num_threads(max(1, num_cpus() // world.local_world_size()))
    keep_freed_memory()


def keep_freed_memory() -> None:
    """Tell glibc not to hand large freed blocks back to the kernel: a training step frees and asks
    for the same buffers again, and first touch of fresh pages is slower than the arithmetic."""
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    libc = ctypes.CDLL(None)
    libc.mallopt(mmap_threshold, 1 << 30)
    libc.mallopt(trim_threshold, 2**31 - 1)
