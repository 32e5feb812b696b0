"""The job: score the validation split, measure the baselines, write evaluation.json."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

import megafm
from megafm import ops
from megafm.data import IndexedDataset, Manifest, check_tokenizer
from megafm.device import device_name, resolve_device, resolve_precision, set_up_cpu
from megafm.evaluate.baselines import Baseline, measure_baselines
from megafm.evaluate.config import EvaluateJob
from megafm.evaluate.score import check_windows, score_documents
from megafm.files import write_text
from megafm.infer.load import LoadedRun, load_run

EVALUATION_FILE = "evaluation.json"


def evaluate(config: EvaluateJob) -> dict[str, Any]:
    """Run the job; returns what it wrote to evaluation.json in the run folder.

    Raises:
        ValueError: run, data and tokenizer do not belong together, or a setting cannot work.
    """
    ops.configure(config.ops)
    device = resolve_device(config.device)
    if device.type == "cpu":
        set_up_cpu()
    manifest = Manifest.load(config.data.dir)
    loaded = load_run(config.run, device)
    console = Console(stderr=True)
    with _progress(console) as progress:
        model = score_model(config, loaded, manifest, device, progress)
        baselines = _measure_baselines(config, manifest, progress)
    result = {
        "corpus": manifest.corpus,
        "snapshot_id": manifest.snapshot_id,
        "trained_on": list(loaded.info.snapshots),
        "model": model,
        "baselines": {name: dataclasses.asdict(value) for name, value in baselines.items()},
        "margin_percent": {
            name: 100 * (1 - model["bits_per_byte"] / value.bits_per_byte)
            for name, value in baselines.items()
        },
        "tokenizer_hash": loaded.tokenizer.hash,
        "config_hash": loaded.info.config_hash,
        "git_commit": loaded.info.git_commit,
        "megafm_version": megafm.__version__,
        "torch_version": torch.__version__,
        "device": device_name(device),
    }
    write_json(Path(config.run.dir) / EVALUATION_FILE, result)
    show(result, Console())
    return result


def score_model(
    config: EvaluateJob,
    loaded: LoadedRun,
    manifest: Manifest,
    device: torch.device,
    progress: Progress,
) -> dict[str, Any]:
    """Loss (nats a token), perplexity and bits per byte over every validation document."""
    seq_len = config.seq_len or loaded.info.seq_len or loaded.model.config.max_seq_len
    stride = config.stride or max(1, seq_len // 2)
    check_windows(seq_len, stride, loaded.model.config.max_seq_len)
    documents = validation_documents(config.data.dir, loaded)
    num_tokens = sum(map(len, documents))
    num_bytes = int(sum(loaded.tokenizer.token_bytes()[document].sum() for document in documents))
    expected = manifest.splits["validation"].bytes
    if expected == 0:
        raise ValueError(
            f"data.dir={config.data.dir}: its validation split is empty; run megafm data again "
            "with split.validation_fraction=0.02"
        )
    if num_bytes != expected:
        raise ValueError(
            f"data.dir={config.data.dir}: the validation shard stands for {num_bytes} bytes, "
            f"the manifest says {expected}; run megafm data action=tokenize again"
        )
    precision = resolve_precision(config.precision, device)
    task = _begin(progress, "scoring the model", num_tokens)
    start = time.perf_counter()
    score = score_documents(
        loaded.model,
        documents,
        eod_id=loaded.tokenizer.eod_id,
        seq_len=seq_len,
        stride=stride,
        batch_tokens=config.batch_tokens,
        precision=precision,
        advance=lambda tokens: progress.advance(task, tokens),
    )
    loss = score.nats / score.tokens
    return {
        "step": loaded.info.step,
        "training_tokens": loaded.info.tokens,
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": score.nats / math.log(2) / num_bytes,
        "documents": len(documents),
        "tokens": score.tokens,
        "bytes": num_bytes,
        "seq_len": seq_len,
        "stride": stride,
        "precision": str(precision).removeprefix("torch."),
        "seconds": round(time.perf_counter() - start, 2),
    }


def validation_documents(data_dir: str | Path, loaded: LoadedRun) -> list[np.ndarray]:
    """Token ids (n,) of each validation document without the end of document, memory-mapped."""
    check_tokenizer(str(data_dir), loaded.tokenizer)
    shard = IndexedDataset(Path(data_dir) / "validation")
    eod_id = loaded.tokenizer.eod_id
    documents = [shard[index] for index in range(len(shard))]
    return [d[:-1] if len(d) and d[-1] == eod_id else d for d in documents]


def show(result: dict[str, Any], console: Console) -> None:
    """The table that the job prints."""
    model, baselines = result["model"], result["baselines"]
    console.print(
        f"{result['corpus']}: validation, {model['bytes'] / 1e6:.2f} MB",
        highlight=False,
        soft_wrap=True,
    )
    table = Table()
    for name, justify in (("", "left"), ("bits per byte", "right"), ("the model is", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_row(f"[bold]model, step {model['step']}", f"[bold]{model['bits_per_byte']:.4f}", "")
    for name, baseline in baselines.items():
        margin = result["margin_percent"][name]
        verdict = f"{abs(margin):.1f}% {'below' if margin > 0 else 'above'}"
        table.add_row(baseline["name"], f"{baseline['bits_per_byte']:.4f}", verdict)
    console.print(table)
    console.print(
        f"loss {model['loss']:.4f} nats per token, perplexity {model['perplexity']:.2f}, "
        f"{model['tokens']:,} tokens of {model['documents']:,} documents, {model['seconds']:.0f} s",
        highlight=False,
        soft_wrap=True,
    )
    others = [one[:12] for one in result["trained_on"] if one != result["snapshot_id"]]
    if others:
        console.print(
            f"the model was trained on snapshot {', '.join(others)}, this text is of "
            f"{result['snapshot_id'][:12]}: training may have seen it",
            highlight=False,
            soft_wrap=True,
        )


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write all of it or nothing."""
    write_text(path, json.dumps(values, indent=2) + "\n")


def _measure_baselines(
    config: EvaluateJob, manifest: Manifest, progress: Progress
) -> dict[str, Baseline]:
    tasks: dict[str, TaskID] = {}

    def advance(what: str, done: int) -> None:
        if what not in tasks:
            split = "train" if what.startswith("counting") else "validation"
            tasks[what] = _begin(progress, what, manifest.splits[split].bytes)
        progress.advance(tasks[what], done)

    return measure_baselines(config.data.dir, config.ngram_order, advance)


def _begin(progress: Progress, what: str, total: int) -> TaskID:
    """A bar on a terminal, elsewhere one line at the start."""
    if not progress.console.is_terminal:
        progress.console.print(what)
    return progress.add_task(what, total=total)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
