"""A real run folder, made in a second: data, tokenizer, an untrained model, a few metrics."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import yaml

from megafm.checkpoint import CheckpointInfo, save_model
from megafm.config import to_dict
from megafm.data import Manifest, tokenize
from megafm.data.document import Document, write_documents
from megafm.data.manifest import FileSummary, SourceSummary, SplitSummary
from megafm.model import ModelConfig, build
from megafm.tokenizer import train

SEQ_LEN = 16
TRAIN = ["def f(x):\n    return x + 1\n" * 20, "import os\n\u00e9\u20ac <b>&\n" * 9]
VALIDATION = ["def g(y):\n    return y\n", "\u00e9t\u00e9 = 1\n", "x = [1, 2]\n" * 20]


def write_data(folder: Path, validation: list[str], snapshot_id: str = "a" * 64) -> Manifest:
    """A data folder of documents and manifest, not tokenized yet."""
    summaries, files = {}, {}
    for split, texts in {"train": TRAIN, "validation": validation}.items():
        documents = [
            Document(f"{split}/{i}", text, "files", f"{i}.py", "MIT")
            for i, text in enumerate(texts)
        ]
        write_documents(folder, split, documents)
        hashed = hashlib.sha256("".join(texts).encode()).hexdigest()
        size = sum(document.num_bytes for document in documents)
        files[f"{split}/00000"] = FileSummary(hashed, len(texts), size)
        summaries[split] = SplitSummary(len(texts), size)
    sources = (SourceSummary("package", "p<1>", "1", "MIT", 5, 900),)
    manifest = Manifest(
        "tests", snapshot_id, "", (), summaries, sources, {"near_duplicate": 3}, {}, files
    )
    manifest.save(folder)
    return manifest


def make_tiny_run(folder: Path) -> Path:
    """Fill `folder` with config.yaml, metrics.jsonl, tokenizer/, data/ and checkpoints/."""
    data_dir = folder / "data"
    manifest = write_data(data_dir, VALIDATION)
    tokenizer = train(iter(TRAIN), 280)
    tokenizer.save(folder / "tokenizer")
    tokenize(str(data_dir), tokenizer, say=lambda text: None)
    config = ModelConfig(
        vocab_size=288, dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, ffn_dim=24,
        max_seq_len=256, init_std=0.2,
    )  # fmt: skip
    info = CheckpointInfo(
        model=config,
        step=7,
        tokens=700,
        seq_len=SEQ_LEN,
        tokenizer_hash=tokenizer.hash,
        snapshot_id=manifest.snapshot_id,
        snapshots=(manifest.snapshot_id,),
    )
    save_model(folder, build(config, seed=4), info)
    written = {"data": {"dir": str(data_dir)}, "model": to_dict(config), "train": {"steps": 20}}
    (folder / "config.yaml").write_text(yaml.safe_dump(written))
    with (folder / "metrics.jsonl").open("w") as out:
        for step in range(1, 8):
            values = {"loss": 5 / step, "grad_norm": 1.0, "lr": 1e-3, "tokens_per_s": 50.0}
            values |= {"flops_per_s": 1e6, "step_seconds": 2.0}
            out.write(json.dumps({"step": step, "tokens": 100 * step, **values}) + "\n")
        evaluation = {"step": 7, "tokens": 700, "val_loss": 4.0, "bits_per_byte": 3.5}
        out.write(json.dumps(evaluation) + "\n")
    return folder
