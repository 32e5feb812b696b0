"""Where a run's numbers go: metrics.jsonl, TensorBoard, and the terminal. Rank 0 only."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from megafm.train.config import LoggingConfig


class MetricsLog:
    """Appends a line per step to metrics.jsonl and shows live progress.

    Args:
        start_step: where the run goes on; lines after it (of a run that died between two
            checkpoints) are dropped, since those steps are taken again.
        peak_flops: of all ranks together, FLOP/s; None where unknown.
    """

    def __init__(
        self,
        run_dir: Path,
        start_step: int,
        total_steps: int,
        peak_flops: float | None,
        config: LoggingConfig,
    ) -> None:
        self.config = config
        self.total_steps = total_steps
        self.peak_flops = peak_flops
        self.console = Console()
        self.file = _reopen(run_dir / "metrics.jsonl", start_step)
        self.tensorboard = None
        if config.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            first_step = start_step + 1  # what TensorBoard has from there on, it hides
            self.tensorboard = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step)
        self.progress = Progress(
            TextColumn("[bold]train"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.task = self.progress.add_task(
            "train", total=total_steps, completed=start_step, status=""
        )

    def __enter__(self) -> MetricsLog:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.progress.stop()
        self.file.close()
        if self.tensorboard:
            self.tensorboard.close()

    def training(self, step: int, values: dict[str, float]) -> None:
        """One optimizer step: loss, grad_norm, lr, tokens, tokens_per_s, flops_per_s."""
        self._record(step, values)
        share = f"{values['flops_per_s'] / self.peak_flops:.1%}" if self.peak_flops else "n/a"
        status = (
            f"loss {values['loss']:.3f}  {values['tokens_per_s']:,.0f} tokens/s  "
            f"{_si(values['flops_per_s'])}FLOP/s  peak share {share}"
        )
        self.progress.update(self.task, completed=step, status=status)
        if not self.console.is_terminal and (
            step % self.config.every == 0 or step == self.total_steps
        ):
            left = (self.total_steps - step) * values["step_seconds"]
            self.say(f"step {step:>6}/{self.total_steps}  {status}  ETA {left:,.0f} s")

    def evaluation(self, step: int, values: dict[str, float]) -> None:
        """One evaluation: val_loss and bits_per_byte."""
        self._record(step, values)
        self.say(
            f"step {step:>6}/{self.total_steps}  validation loss {values['val_loss']:.4f}  "
            f"{values['bits_per_byte']:.4f} bits per byte"
        )

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)
        self.console.file.flush()  # a log file should not lag behind

    def _record(self, step: int, values: dict[str, float]) -> None:
        try:
            self.file.write(json.dumps({"step": step, **values}) + "\n")
            self.file.flush()
        except OSError as error:
            raise OSError(
                f"could not write {self.file.name} at step {step}: {error.strerror}; free disk "
                "space and run the same command again"
            ) from error
        if self.tensorboard:
            for name, value in values.items():
                self.tensorboard.add_scalar(name, value, step)


def read_metrics(run_dir: str | Path) -> list[dict[str, float]]:
    """The complete lines of a run's metrics.jsonl."""
    path = Path(run_dir) / "metrics.jsonl"
    if not path.exists():
        return []
    metrics = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        try:
            metrics.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: not JSON; delete this line") from error
    return metrics


def _reopen(path: Path, start_step: int) -> TextIO:
    kept = [line for line in read_metrics(path.parent) if line["step"] <= start_step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    os.replace(partial, path)
    return path.open("a", encoding="utf-8")


def _si(value: float) -> str:
    for scale, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G")):
        if value >= scale:
            return f"{value / scale:.1f} {prefix}"
    return f"{value / 1e6:.1f} M"
