"""A small tokenized corpus on disk, made by the real data jobs: what training tests train on."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

from megafm import tokenizer
from megafm.data import tokenize
from megafm.data.config import DataJob, Source, Split, TrainingData
from megafm.data.prepare import prepare
from megafm.model.config import ModelConfig
from megafm.paths import DataDir, RunDir, TokenizerDir
from megafm.train.config import (
    CheckpointConfig,
    LoggingConfig,
    OptimConfig,
    ScheduleConfig,
    TrainConfig,
    TrainJob,
)

VOCAB_SIZE = 300


def make_corpus(folder: Path, seed: int = 0) -> Path:
    """FOLDER/data and FOLDER/tokenizer from 40 documents of made-up words; returns FOLDER."""
    source = folder / "source"
    source.mkdir(parents=True)
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefgh", k=rng.randint(2, 6))) for _ in range(200)]
    for number in range(40):
        text = " ".join(rng.choices(words, k=200))
        (source / f"{number}.txt").write_text(text, encoding="utf-8")
    job = DataJob(
        data=DataDir(str(folder / "data")),
        source=Source(kind="files", path=str(source)),
        split=Split(validation_fraction=0.2),
    )
    prepare(job, say=lambda text: None)
    texts = (path.read_text(encoding="utf-8") for path in sorted(source.iterdir()))
    trained = tokenizer.train(texts, VOCAB_SIZE)
    trained.save(folder / "tokenizer")
    tokenize(job.data.dir, trained)
    return folder


def train_job(corpus: Path, run_dir: Path, **groups: object) -> TrainJob:
    """A run of a few seconds on one thread; `groups` replace whole groups of the job."""
    model = ModelConfig(
        vocab_size=VOCAB_SIZE,
        dim=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=8,
        ffn_dim=64,
        max_seq_len=64,
    )
    job = TrainJob(
        device="cpu",
        run=RunDir(str(run_dir)),
        data=TrainingData(str(corpus / "data")),
        tokenizer=TokenizerDir(str(corpus / "tokenizer")),
        model=model,
        train=TrainConfig(
            steps=6,
            seq_len=32,
            global_batch_size=8,
            micro_batch_size=4,
            precision="fp32",
            eval_every=3,
            eval_tokens=1000,
        ),
        optim=OptimConfig(lr=3e-3),
        schedule=ScheduleConfig(warmup_steps=2),
        checkpoint=CheckpointConfig(every=3, keep=2),
        logging=LoggingConfig(tensorboard=False),
    )
    return dataclasses.replace(job, **groups)  # type: ignore[arg-type]
