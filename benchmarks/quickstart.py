"""Keep the figures of a finished quickstart: benchmarks/results/quickstart/NAME.json.

    python -m benchmarks.quickstart RUN NAME COMMAND

COMMAND is the one that made RUN, such as "make quickstart". Refuses a run of a tree with local
changes: its commit would not name what was measured.
"""

from __future__ import annotations

import datetime
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from megafm.checkpoint import load_model
from megafm.data import Manifest
from megafm.device import device_name, has_bf16_matmul, num_cpus, resolve_device
from megafm.train.metrics import read_metrics

RESULTS = Path(__file__).parent / "results" / "quickstart"
PACKAGES = ("torch", "numpy", "tokenizers", "transformers", "hydra-core")


def collect(run_dir: Path, command: str) -> dict[str, Any]:
    """What was measured, on what, from which commit, by which command."""
    info = load_model(run_dir)[1]
    if info.git_commit is None or info.git_commit.endswith("+dirty"):
        raise ValueError(f"{run_dir}: trained at commit {info.git_commit}; commit and run it again")
    steps = [line for line in read_metrics(run_dir) if "loss" in line]
    manifest = Manifest.load(run_dir / "data")
    device = resolve_device("auto")
    return {
        "command": command,
        "commit": info.git_commit,
        "date": datetime.date.today().isoformat(),
        "hardware": {
            "device": device_name(device),
            "cpu_cores": num_cpus(),
            "bf16_matmul": has_bf16_matmul(device),
        },
        "versions": {"python": platform.python_version()} | {p: version(p) for p in PACKAGES},
        "corpus": manifest.corpus,
        "snapshot_id": manifest.snapshot_id,
        "train_bytes": manifest.splits["train"].bytes,
        "validation_bytes": manifest.splits["validation"].bytes,
        "training": {
            "steps": info.step,
            "tokens": info.tokens,
            "tokens_per_s_median": sorted(line["tokens_per_s"] for line in steps)[len(steps) // 2],
            "step_seconds_total": round(sum(line["step_seconds"] for line in steps), 1),
        },
        "evaluation": json.loads((run_dir / "evaluation.json").read_text(encoding="utf-8")),
        "quickstart": json.loads((run_dir / "quickstart.json").read_text(encoding="utf-8")),
    }


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    run_dir, name, command = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(collect(run_dir, command), indent=2) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
