"""What a person sees of a rank's error under torchrun: its one line, first and last."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from pathlib import Path

from megafm.config import to_dict
from tests.corpus import train_job
from tests.train.test_stop import flattened


def test_an_error_of_one_rank_is_one_line_and_the_cause_that_torchrun_shows(
    corpus: Path, tmp_path: Path
) -> None:
    overrides = flattened(to_dict(train_job(corpus, tmp_path)))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *torchrun, "-m", "megafm.train", *overrides]
    with (tmp_path / ".lock").open("w") as lock:  # rank 0 alone misses it
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert result.returncode == 1
    cause = f"run.dir={tmp_path}: another run is writing to it"
    ours, _, torchruns = result.stderr.partition("ChildFailedError")
    assert f"megafm [rank 0]: error: {cause}" in ours
    assert "[rank1]: Traceback" not in ours, result.stderr
    assert cause in torchruns.rpartition("Root Cause")[2], result.stderr
