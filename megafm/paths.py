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

    def __post_init__(self) -> None:
        if "://" in self.dir:
            raise ValueError(
                f"data.dir={self.dir}: shards are committed by a rename, on a file system of this "
                "machine; set data.dir=DIR, and copy it when it is done"
            )


@dataclass(frozen=True)
class TokenizerDir:
    """The folder of tokenizer.json."""

    dir: str = "runs/quickstart/tokenizer"
