"""metrics.jsonl and TensorBoard over restarts, torn lines and full disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from megafm.train.config import LoggingConfig
from megafm.train.metrics import MetricsLog, read_metrics

VALUES = {"loss": 2.0, "tokens_per_s": 100.0, "flops_per_s": 1e9, "step_seconds": 0.5}


def open_log(folder: Path, start_step: int = 0, tensorboard: bool = False) -> MetricsLog:
    config = LoggingConfig(every=1, tensorboard=tensorboard)
    return MetricsLog(folder, start_step, total_steps=10, peak_flops=4e9, config=config)


def record(folder: Path, steps: range, start_step: int = 0, tensorboard: bool = False) -> None:
    """Lines for `steps` whose loss also tells the start that wrote them."""
    with open_log(folder, start_step, tensorboard) as log:
        for step in steps:
            log.training(step, VALUES | {"loss": float(step + start_step)})


def test_steps_after_the_checkpoint_are_dropped_with_a_torn_line(tmp_path: Path) -> None:
    record(tmp_path, range(1, 6))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "lo')
    record(tmp_path, range(4, 6), start_step=3)
    losses = [(line["step"], line["loss"]) for line in read_metrics(tmp_path)]
    assert losses == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 7.0), (5, 8.0)]


def test_tensorboard_shows_the_same_steps_after_a_restart(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record(tmp_path, range(1, 6), tensorboard=True)
    record(tmp_path, range(4, 6), start_step=3, tensorboard=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("loss")]
    assert losses == [(line["step"], line["loss"]) for line in read_metrics(tmp_path)]


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    record(tmp_path, range(1, 3))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text().replace('{"step": 2', '{"step" 2'))
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: not JSON; delete this line"):
        read_metrics(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_said_with_the_file_and_a_remedy(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.file.close()
    log.file = Path("/dev/full").open("a")  # noqa: SIM115
    with pytest.raises(OSError, match="could not write /dev/full at step 1: No space .*; free"):
        log.training(1, VALUES)


def test_a_plain_line_has_throughput_share_of_the_peak_and_eta(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(tmp_path, range(1, 3))
    shown = capsys.readouterr().out.splitlines()[-1]
    for part in ("2/10", "loss 2.000", "100 tokens/s", "1.0 GFLOP/s", "share 25.0%", "ETA 4 s"):
        assert part in shown
