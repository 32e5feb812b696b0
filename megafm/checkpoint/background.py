"""Checkpoints that are written while training goes on."""

from __future__ import annotations

import contextlib
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from megafm.checkpoint.info import CheckpointInfo
from megafm.checkpoint.store import remove_old, save


class BackgroundSaver:
    """Context manager. Copies the tensors to host memory and writes the copies in a thread.

    One checkpoint is written at a time, whole or not at all, as `save` does it; the ones before it
    are removed after that. The copies take as much host memory as this rank's share of the state.

    Args:
        timeout_s: how long a rank waits for the others to have written.
    """

    def __init__(self, timeout_s: float) -> None:
        self._group = None  # training goes on in the other groups meanwhile
        if dist.is_initialized():
            timeout = timedelta(seconds=timeout_s)
            self._group = dist.new_group(backend="gloo", timeout=timeout)
        on_gpu = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=on_gpu,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=on_gpu,
            )
        )
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> BackgroundSaver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        """What is being written is completed; its error counts where there is no other one."""
        if kind is None or issubclass(kind, SystemExit):
            self.wait()
        else:
            with contextlib.suppress(Exception):
                self.wait()
        self._stager.close()

    def save(
        self, run_dir: str | Path, tensors: dict[str, torch.Tensor], info: CheckpointInfo, keep: int
    ) -> None:
        """Return when `tensors` may change. `keep` checkpoints stay, with this one.

        Raises:
            OSError: the checkpoint before this one could not be written.
        """
        self.wait()
        copies = cast(dict[str, torch.Tensor], self._stager.stage(tensors))
        arguments = (run_dir, copies, info, keep)
        self._thread = threading.Thread(target=self._write, args=arguments)
        self._thread.start()

    def wait(self) -> None:
        """Return when the last checkpoint is complete.

        Raises:
            OSError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _write(
        self, run_dir: str | Path, copies: dict[str, torch.Tensor], info: CheckpointInfo, keep: int
    ) -> None:
        try:
            save(run_dir, copies, info, group=self._group)
            remove_old(run_dir, keep)
        except BaseException as error:
            self._error = error
