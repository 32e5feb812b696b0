"""Two launchers that meet at a port train as one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from megafm.config import to_dict
from megafm.train.loop import train
from tests.corpus import train_job
from tests.ranks import RankPool, free_port
from tests.train.test_loop import curve
from tests.train.test_stop import flattened

LAUNCH = Path(__file__).parent.parent.parent / "examples" / "launch" / "torchrun.sh"


def test_two_nodes_train_like_one(corpus: Path, tmp_path: Path, ranks: RankPool) -> None:
    ranks.run(train, 2, train_job(corpus, tmp_path / "one"))
    overrides = flattened(to_dict(train_job(corpus, tmp_path / "two")))
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HEAD": "localhost",
        "NODES": "2",
        "RANKS": "1",
        "PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    nodes = [
        subprocess.Popen(
            ["bash", str(LAUNCH), *overrides],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for _ in range(2)
    ]
    outputs = [node.communicate(timeout=200)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], outputs
    assert curve(tmp_path / "two") == curve(tmp_path / "one")
