"""Everything that a run folder knows about its run, read once."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from megafm.checkpoint import CheckpointInfo, checkpoints
from megafm.data import Manifest
from megafm.train.metrics import read_metrics


@dataclass(frozen=True)
class Checkpoint:
    info: CheckpointInfo
    bytes: int


@dataclass(frozen=True)
class RunRecord:
    """What the report shows; None or empty is what the run does not have (yet).

    Attributes:
        training, validation: lines of metrics.jsonl, by kind.
        config: the resolved config of the run, `config_text` as it lies in the folder.
        evaluation: evaluation.json.
        samples: samples.json.
        quickstart: seconds a step and peak memory, when the whole job ran as one.
    """

    name: str
    training: list[dict[str, float]]
    validation: list[dict[str, float]]
    config: dict[str, Any]
    config_text: str
    checkpoints: list[Checkpoint]
    evaluation: dict[str, Any] | None
    samples: list[dict[str, Any]]
    manifest: Manifest | None
    quickstart: dict[str, Any] | None

    @property
    def seconds(self) -> float:
        """Time spent in training steps."""
        return sum(line["step_seconds"] for line in self.training)

    def median(self, name: str) -> float | None:
        values = [line[name] for line in self.training]
        return statistics.median(values) if values else None

    @property
    def latest(self) -> CheckpointInfo | None:
        return self.checkpoints[-1].info if self.checkpoints else None


def collect(run_dir: str | Path, data_dir: str | Path | None = None) -> RunRecord:
    """Read a run folder.

    Raises:
        ValueError: it is not one: neither config.yaml nor metrics.jsonl is there.
    """
    folder = Path(run_dir)
    config_path = folder / "config.yaml"
    metrics = read_metrics(folder)
    if not metrics and not config_path.exists():
        raise ValueError(f"run.dir={run_dir}: no config.yaml or metrics.jsonl; train it first")
    config_text = config_path.read_text(encoding="utf-8") if config_path.exists() else ""
    config = yaml.safe_load(config_text) or {}
    if data_dir is None:
        data_dir = config.get("data", {}).get("dir", folder / "data")
    return RunRecord(
        name=folder.resolve().name,
        training=[line for line in metrics if "loss" in line],
        validation=[line for line in metrics if "val_loss" in line],
        config=config,
        config_text=config_text,
        checkpoints=_checkpoints(folder),
        evaluation=_read_json(folder / "evaluation.json"),
        samples=_read_json(folder / "samples.json") or [],
        manifest=_manifest(data_dir),
        quickstart=_read_json(folder / "quickstart.json"),
    )


def _checkpoints(folder: Path) -> list[Checkpoint]:
    found = []
    for path in checkpoints(folder):
        try:
            info = CheckpointInfo.read(path)
        except ValueError:  # damaged: training says so, the report shows the others
            continue
        found.append(Checkpoint(info, sum(info.files.values())))
    return found


def _manifest(data_dir: str | Path) -> Manifest | None:
    try:
        return Manifest.load(data_dir)
    except ValueError:
        return None


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
