"""Keep what `megafm plan` says of some layouts: benchmarks/results/plan/NAME.json.

    python -m benchmarks.plan [NAME ...]

Without names, of all of COMMANDS. Refuses a tree with local changes: its commit would not name what
was planned.
"""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks.machine import ROOT, provenance, write_result

BF16 = "train.precision=bf16 train.activation_checkpointing=full device_memory_gb=80"
TIMED = {"llama3_70b": (0, 8191)}  # ranks, beside that of the command
COMMANDS = {
    "llama3_70b": (
        "dry_run=true model=llama3_70b world_size=16384 rank=16383 parallel.tp=8 "
        "parallel.dp_shard=64",
        "train.seq_len=8192 train.global_batch_size=2048 train.micro_batch_size=1",
        f"{BF16} run.dir=runs/plan",
    ),
    "long_context": (
        "dry_run=true model=llama3_8b world_size=128 rank=77 parallel.cp=16 parallel.tp=8",
        "train.seq_len=262144 model.max_seq_len=262144 train.global_batch_size=1 "
        "train.micro_batch_size=1",
        f"{BF16} run.dir=runs/plan_long",
    ),
    "experts": (
        "dry_run=true model=qwen3_30b_a3b world_size=256 rank=255 parallel=experts parallel.ep=32 "
        "parallel.dp_replicate=2",
        "train.seq_len=4096 train.global_batch_size=1024 train.micro_batch_size=2",
        f"{BF16} run.dir=runs/plan_experts",
    ),
}


def collect(name: str) -> dict[str, Any]:
    """What a plan prints, of which commit, by which command, and how long it took, start of Python
    included."""
    result = provenance(torch.device("cpu"))
    if result["commit"].endswith("+dirty"):
        raise ValueError(f"commit {result['commit']}: commit what has changed, and run it again")
    arguments = [each for line in COMMANDS[name] for each in line.split()]
    own = next(each for each in arguments if each.startswith("rank="))
    seconds = {}
    for rank in (*(f"rank={rank}" for rank in TIMED.get(name, ())), own):
        of = [rank if each == own else each for each in arguments]
        command = [sys.executable, "-m", "megafm.plan", *of]
        started = time.perf_counter()
        planned = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        seconds[rank.removeprefix("rank=")] = round(time.perf_counter() - started, 1)
    lines = [line.rstrip() for line in planned.stdout.splitlines()]
    shown = ["megafm plan " + COMMANDS[name][0], *COMMANDS[name][1:]]
    return result | {"command": shown, "output": lines, "seconds": seconds}


def main() -> None:
    for name in sys.argv[1:] or COMMANDS:
        write_result(f"plan/{name}", collect(name))


if __name__ == "__main__":
    main()
