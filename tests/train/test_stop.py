"""SIGTERM ends a run after the step in progress, saved; the next start goes on from there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megafm.checkpoint import latest
from megafm.checkpoint.info import CheckpointInfo
from megafm.config import to_dict
from megafm.train.stop import StopSignal
from tests.corpus import train_job


def flattened(values: dict[str, object], prefix: str = "") -> list[str]:
    overrides = []
    for key, value in values.items():
        if isinstance(value, dict):
            overrides += flattened(value, f"{prefix}{key}.")
        elif key != "what":
            overrides.append(f"{prefix}{key}={json.dumps(value)}")
    return overrides


def test_sigterm_saves_and_exits(corpus: Path, tmp_path: Path) -> None:
    job = to_dict(train_job(corpus, tmp_path))
    job["train"]["steps"] = 100_000
    job["train"]["eval_every"] = 0
    job["checkpoint"]["every"] = 100_000
    command = [sys.executable, "-m", "megafm.train", *flattened(job)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "metrics.jsonl"
    for _ in range(1200):
        if (metrics.exists() and metrics.stat().st_size > 0) or process.poll() is not None:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert "stopped by a signal" in out
    folder = latest(tmp_path)
    assert folder is not None
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert CheckpointInfo.read(folder).step == steps[-1] > 0


def test_the_second_signal_acts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    # A job in the background is started to ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.exit_code == 130
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_rank_that_others_stop_ends_as_by_sigterm() -> None:
    assert StopSignal().exit_code == 128 + signal.SIGTERM


def test_under_torchrun_a_scheduler_and_torchrun_signal_the_same_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with StopSignal() as stop:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        assert stop.received == signal.SIGINT
