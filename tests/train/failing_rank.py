"""`megafm train` whose rank 1 fails in its third step: run by torchrun, FAILURE=throw or stall."""

from __future__ import annotations

import os
import time
from typing import Any

from megafm.parallel import world
from megafm.train import loop
from megafm.train.__main__ import main

train_step = loop.train_step


def failing_step(run: Any, stop: Any) -> dict[str, float]:
    if world.rank() == 1 and run.step == 2:
        if os.environ["FAILURE"] == "stall":
            read_slow_disk()
        raise RuntimeError("a fault of rank 1")
    return train_step(run, stop)


def read_slow_disk() -> None:
    time.sleep(600)


if __name__ == "__main__":
    loop.train_step = failing_step
    main()
