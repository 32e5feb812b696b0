"""How a job says that it ends: one line on stderr, and the cause where torchrun looks for it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import NoReturn

QUIET_S = 5.0  # in which torchrun ends the other ranks of a host after the first has failed
terminated = threading.Event()  # torchrun has sent its SIGTERM


def say_error(message: str) -> None:
    """The one line, which names this rank if there are several."""
    rank = os.environ.get("RANK")
    where = "megafm" if rank is None else f"megafm [rank {rank}]"
    print(f"{where}: error: {message}", file=sys.stderr, flush=True)


def tell_torchrun(message: str) -> None:
    """Leave the line where torchrun looks for the cause it shows at its end."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        with contextlib.suppress(OSError):
            extra = {"timestamp": str(int(time.time()))}
            cause = {"message": {"message": message, "extraInfo": extra}}
            Path(path).write_text(json.dumps(cause), encoding="utf-8")


def end_quietly() -> NoReturn:
    """Leave the word to another rank, and the end to torchrun, which lists who ends by itself."""
    sys.stdout.flush()
    if terminated.is_set():
        os._exit(0)
    signal.signal(signal.SIGTERM, _exit_unlisted)
    time.sleep(QUIET_S)
    raise SystemExit(1)


def _exit_unlisted(number: int, frame: FrameType | None) -> None:
    os._exit(0)
