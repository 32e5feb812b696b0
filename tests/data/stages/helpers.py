"""A corpus of many small shards, and what a job makes of it."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megafm.config import to_dict
from megafm.data import inputs
from megafm.data.config import DataJob
from megafm.data.stages import columns
from tests.data.helpers import program


def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards, ranges, runs and blocks of a few documents."""
    monkeypatch.setattr(inputs, "TARGET_BYTES", 6000)
    monkeypatch.setattr(inputs, "RANGE_BYTES", 20_000)
    monkeypatch.setattr(columns, "RUN", 5)
    monkeypatch.setattr(columns, "BLOCK", 7)


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


SCRIPT = """
import json, sys
from megafm.config import from_dict
from megafm.data import inputs
from megafm.data.config import DataJob
from megafm.data.stages import columns
from megafm.data.prepare import prepare
if __name__ == "__main__":
    inputs.TARGET_BYTES, inputs.RANGE_BYTES = 6000, 20_000
    prepare(from_dict(DataJob, json.loads(sys.argv[1])))
"""


def kill_until_done(job: DataJob, rng: random.Random, units: tuple[int, int]) -> int:
    """Start a job again and again, and kill it after some number of units in this range, until it
    comes to its end; it makes no unit twice and leaves none half done. Returns how many kills."""
    data_dir = Path(job.data.dir)
    command = [sys.executable, "-c", SCRIPT, json.dumps(to_dict(job))]
    before: dict[str, int] = {}
    kills = 0
    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        goal = len(before) + rng.randint(*units)
        while process.poll() is None and len(made(data_dir)) < goal:
            time.sleep(0.005)
        over = process.poll() is not None
        process.kill()
        process.wait()
        after = made(data_dir)
        assert {name: after.get(name) for name in before} == before
        if over:
            break
        before = after
        kills += 1
    assert process.returncode == 0
    assert not list((data_dir / "stages").rglob("*.partial"))
    return kills
