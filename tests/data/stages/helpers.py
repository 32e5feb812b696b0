"""A corpus of many small shards, and what a job makes of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from megafm.data import inputs
from tests.data.helpers import program


def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards and ranges of a few documents."""
    monkeypatch.setattr(inputs, "TARGET_BYTES", 6000)
    monkeypatch.setattr(inputs, "RANGE_BYTES", 20_000)


def corpus_with_copies(folder: Path, count: int = 60) -> Path:
    """Of every four documents one has an exact and one a near duplicate."""
    folder.mkdir(parents=True)
    for number in range(count):
        text = program(number)
        (folder / f"{number:03}.py").write_text(text)
        if number % 4 == 1:
            (folder / f"a{number}.py").write_text(text)
        if number % 4 == 2:
            (folder / f"b{number}.py").write_text(text + "\nprint('one more line')\n")
    return folder


def digests(data_dir: Path) -> dict[str, str]:
    """Everything that the data folder is read for."""
    files = [*(data_dir / "documents").rglob("*.jsonl*"), data_dir / "manifest.json"]
    return {
        path.relative_to(data_dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def made(data_dir: Path) -> dict[str, int]:
    """When each unit was committed."""
    done = (data_dir / "stages").glob("*/*/done.json")
    whole = (path for path in done if not path.parent.name.endswith(".partial"))
    return {f"{p.parts[-3]}/{p.parts[-2]}": p.stat().st_mtime_ns for p in whole}
