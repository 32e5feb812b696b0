"""`megafm quickstart`: the real jobs, one after the other, from raw text to an exported model.

Each step is a command that you can type yourself; it is printed before it runs. A step that has
finished is quick to repeat, and training goes on from its last checkpoint, so after a failure the
same command continues.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from megafm.config import job, override
from megafm.paths import RunDir

PROMPTS = (
    "def read_text(path):\n",
    "import os\nimport sys\n\n\nclass ",
    '    """Return the ',
)


@dataclass(frozen=True)
class Extra:
    """Further overrides for a step, e.g. `"extra.train='train.steps=100 optim.lr=1e-3'"`."""

    data: str = ""
    tokenizer: str = ""
    train: str = ""
    evaluate: str = ""
    generate: str = ""


@dataclass(frozen=True)
class QuickstartJob:
    """
    Attributes:
        recipe: of the training step, a name of hydra_conf/experiment (`experiment=` of train).
        num_processes: ranks that torchrun starts on this host; None is one per core, at most 2.
        vocab_size: of the tokenizer and the model.
    """

    what: str = "raw text to a trained, evaluated, exported model, in one command"
    device: str = "auto"
    run: RunDir = field(default_factory=RunDir)
    recipe: str = "quickstart"
    num_processes: int | None = None
    vocab_size: int = 4096
    prompts: tuple[str, ...] = PROMPTS
    extra: Extra = field(default_factory=Extra)

    def __post_init__(self) -> None:
        if self.num_processes is not None and self.num_processes < 1:
            raise ValueError(f"num_processes={self.num_processes}: set num_processes=1 or more")


@job("quickstart")
def main(config: QuickstartJob) -> None:
    console = Console()
    run_dir = Path(config.run.dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    commands = dict(steps(config))
    seconds: dict[str, float] = {}
    with PeakMemory() as memory:
        for number, (name, command) in enumerate(commands.items(), start=1):
            shown = shlex.join(command).replace(sys.executable, "python")
            shown = shown.replace("python -m torch.distributed.run", "torchrun")
            console.rule(f"[bold]{number}/{len(commands)} {name}", align="left")
            console.print(f"$ {shown}", style="dim", markup=False, highlight=False, soft_wrap=True)
            started = time.monotonic()
            code = run_step(command)
            seconds[name] = round(time.monotonic() - started, 1)
            if code:
                print(
                    f"megafm quickstart: error: step {number} ({name}) ended with code "
                    f"{code}; mend what it says above and run the same command again: "
                    "what is finished is kept",
                    file=sys.stderr,
                )
                sys.exit(code if code > 0 else 1)
    summary = {"seconds": seconds, "total_seconds": round(sum(seconds.values()), 1)}
    summary |= {"peak_memory_bytes": memory.peak}
    (run_dir / "quickstart.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _report(run_dir)
    _close(console, run_dir, seconds, memory.peak)


def steps(config: QuickstartJob) -> Iterator[tuple[str, list[str]]]:
    """Name and command line of every step."""
    folder = config.run.dir
    run, data = override("run.dir", folder), override("data.dir", f"{folder}/data")
    tokenizer = override("tokenizer.dir", f"{folder}/tokenizer")
    vocab_size, device = config.vocab_size, f"device={config.device}"
    extra = config.extra
    python = [sys.executable, "-m"]
    yield (
        "read, deduplicate and split documents",
        [*python, "megafm.data", data, *shlex.split(extra.data)],
    )
    yield (
        "train a tokenizer",
        [*python, "megafm.tokenizer", data, tokenizer, f"tokenizer.vocab_size={vocab_size}"]
        + [*shlex.split(extra.tokenizer)],
    )
    yield (
        "write token shards",
        [*python, "megafm.data", "action=tokenize", data, tokenizer, *shlex.split(extra.data)],
    )
    ranks = config.num_processes or min(2, os.cpu_count() or 1)
    torchrun = [*python, "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    yield (
        "train",
        [*torchrun, "-m", "megafm.train", f"experiment={config.recipe}", run, data, tokenizer]
        + [f"model.vocab_size={vocab_size}", device, *shlex.split(extra.train)],
    )
    yield "evaluate", [*python, "megafm.evaluate", run, data, device, *shlex.split(extra.evaluate)]
    for number, prompt in enumerate(config.prompts, start=1):
        yield (
            f"generate sample {number}",
            [*python, "megafm.generate", run, override("prompt", prompt), f"seed={number}"]
            + ["save=true", device, *shlex.split(extra.generate)],
        )
    yield (
        "export to Hugging Face",
        [*python, "megafm.convert", "to=hf", run, override("output", f"{folder}/hf")],
    )


def run_step(command: list[str]) -> int:
    """Run a step to its end; returns its exit code.

    SIGTERM is passed on, Ctrl-C reaches it by itself, and then it is waited for: training saves a
    checkpoint before it ends, and must not outlive this process.
    """
    with subprocess.Popen(command, env=_environment()) as process:
        before = signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise
        finally:
            signal.signal(signal.SIGTERM, before)


class PeakMemory:
    """Context manager: the most memory that this process and its children held together.

    Attributes:
        peak: bytes, sampled twice a second; pages that processes share count for each.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        this = psutil.Process()
        while not self._done.wait(0.5):
            total = 0
            for process in [this, *this.children(recursive=True)]:
                try:
                    total += process.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak = max(self.peak, total)


def _environment() -> dict[str, str]:
    """One thread until a job says otherwise, which keeps torchrun from warning of the same."""
    return {"OMP_NUM_THREADS": "1", **os.environ}


def _report(run_dir: Path) -> None:
    from megafm.report import write_report

    write_report(run_dir, run_dir / "data")


def _close(console: Console, run_dir: Path, seconds: dict[str, float], peak: int) -> None:
    console.rule("[bold]done", align="left")
    table = Table("step", "seconds", box=None, pad_edge=False)
    for name, value in seconds.items():
        table.add_row(name, f"{value:,.1f}")
    table.add_row("[bold]all", f"[bold]{sum(seconds.values()):,.1f}")
    console.print(table)
    console.print(f"peak memory {peak / 2**30:.1f} GiB, all processes together")
    for path, what in (
        ("report.html", "the run in one page (and report.png)"),
        ("hf", "the model for transformers.AutoModelForCausalLM"),
        ("checkpoints", "what training goes on from"),
    ):
        console.print(f"{run_dir / path}  {what}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
