"""The folders that the jobs hand to each other, as config groups: run, data, tokenizer."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunDir:
    """The run folder that a job writes. It has no time stamp: the same command resumes."""

    dir: str = "runs/quickstart"


@dataclass(frozen=True)
class SavedRun:
    """A run folder that a job reads; `step` picks a checkpoint, None the latest."""

    dir: str = "runs/quickstart"
    step: int | None = None


@dataclass(frozen=True)
class DataDir:
    """Token shards, documents and their manifest."""

    dir: str = "runs/quickstart/data"


@dataclass(frozen=True)
class TokenizerDir:
    """The folder of tokenizer.json."""

    dir: str = "runs/quickstart/tokenizer"
