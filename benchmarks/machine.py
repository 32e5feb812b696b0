"""What a result was measured on: hardware, versions, commit."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
import torch

from megafm.checkpoint.info import git_commit
from megafm.device import device_name, has_bf16_matmul, num_cpus

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "torch",
    "triton",
    "numpy",
    "transformers",
    "litgpt",
    "liger-kernel",
    "transformer-engine",
    "apex",
)


def provenance(device: torch.device) -> dict[str, Any]:
    """The head of every result file."""
    return {
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": git_commit(),
        "date": datetime.date.today().isoformat(),
        "hardware": _hardware(device),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "versions": {"python": platform.python_version()} | _versions(),
    }


def write_result(name: str, result: dict[str, Any]) -> None:
    """Write benchmarks/results/NAME.json and say so."""
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(path)


def slug(device: torch.device) -> str:
    """The device's name as a part of a file's name: "AMD EPYC (2 cores)" is amd_epyc_2_cores."""
    return re.sub(r"[^a-z0-9]+", "_", device_name(device).lower()).strip("_")


def _hardware(device: torch.device) -> dict[str, Any]:
    return {
        "device": device_name(device),
        "cpu_cores": num_cpus(),
        "caches": _caches(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "bf16_matmul": has_bf16_matmul(device),
    }


def _caches() -> dict[str, str]:
    """Size of each cache that core 0 sees, e.g. {"L2": "1024K"}; empty where Linux does not say."""
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (
            (folder / name).read_text().strip() for name in ("level", "type", "size")
        )
        if kind != "Instruction":
            found[f"L{level}"] = size
    return found


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
