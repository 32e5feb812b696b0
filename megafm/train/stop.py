"""SIGTERM and Ctrl-C end a run after the step in progress, with a checkpoint."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import Any

from megafm import errors


class StopSignal:
    """Context manager: notes the first SIGTERM or SIGINT; the second one acts at once.

    Under torchrun none does: it passes on what a terminal or a scheduler has already sent to every
    process, so two are one; and it kills by itself what does not end.
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, Any] = {}

    @property
    def exit_code(self) -> int:
        """Of this rank's signal, or of the SIGTERM that another rank has received."""
        return 128 + (self.received or signal.SIGTERM)

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            signal.signal(number, self._previous[number])
        elif number == signal.SIGTERM:
            errors.terminated.set()
