"""Write and read checkpoint folders: `RUN/checkpoints/step_XXXXXXXX/`.

The tensors are safetensors shards, one file a rank, through torch.distributed.checkpoint: any
layout reads what any other wrote, and nothing is pickled. A checkpoint is written beside its place
and renamed when it is complete, so a crash or a full disk leaves those before it untouched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from torch import nn

from megafm.checkpoint.info import FILE_NAME, CheckpointInfo
from megafm.model import build
from megafm.parallel import world

MODEL_PREFIX = "model."


def checkpoints(run_dir: str | Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    folders = (Path(run_dir) / "checkpoints").glob("step_*")
    return sorted(folder for folder in folders if (folder / FILE_NAME).is_file())


def latest(run_dir: str | Path) -> Path | None:
    found = checkpoints(run_dir)
    return found[-1] if found else None


def save(
    run_dir: str | Path,
    tensors: dict[str, torch.Tensor],
    info: CheckpointInfo,
    *,
    group: dist.ProcessGroup | None = None,
) -> Path:
    """Write a checkpoint from every rank; returns its folder.

    Args:
        tensors: by name; a DTensor is written as this rank's shard, a plain tensor once.
        group: of all ranks, that they meet in; None is the default one.

    Raises:
        OSError: the disk is full or not writable; the checkpoints before this one are untouched.
    """
    final = Path(run_dir) / "checkpoints" / f"step_{info.step:08d}"
    partial = final.with_name(f".{final.name}.partial")
    if world.rank() == 0:
        for left in final.parent.glob(".step_*.partial"):  # of runs that were killed while saving
            shutil.rmtree(left, ignore_errors=True)
        with _disk_errors(final, partial):
            partial.mkdir(parents=True)
    world.barrier(group)
    with _disk_errors(final, partial), _quiet():
        writer = dcp.HuggingFaceStorageWriter(str(partial), save_distributed=True)
        alone = not dist.is_initialized()
        dcp.save(tensors, storage_writer=writer, process_group=group, no_dist=alone)
    if world.rank() == 0:
        with _disk_errors(final, partial):
            info.with_files(partial).write(partial)
            _sync_folder(partial)  # the tensor files have been synced by their writers
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            _sync_folder(final.parent)
    world.barrier(group)
    return final


def load_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Fill `tensors` in place from a checkpoint, each rank its own shards.

    Raises:
        ValueError: a tensor is missing or has another shape; names it.
    """
    with _quiet():
        reader = dcp.HuggingFaceStorageReader(str(folder))
        try:
            saved = reader.read_metadata().state_dict_metadata
        except (SafetensorError, ValueError) as error:
            raise ValueError(
                f"checkpoint {folder}: damaged ({error}); delete this folder to go on from the "
                "checkpoint before it"
            ) from error
        for name, tensor in tensors.items():
            if name not in saved:
                raise ValueError(
                    f"checkpoint {folder}: has no tensor {name!r}; "
                    "set model.* and optim.name as in the run's config.yaml"
                )
            shape = tuple(saved[name].size)  # type: ignore[union-attr]
            if shape != tuple(tensor.shape):
                raise ValueError(
                    f"checkpoint {folder}: {name} has shape {shape}, this model wants "
                    f"{tuple(tensor.shape)}; set model.* as in the run's config.yaml"
                )
        dcp.load(tensors, storage_reader=reader, no_dist=not dist.is_initialized())


def remove_old(run_dir: str | Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints (rank 0 only)."""
    if world.rank() == 0:
        for folder in checkpoints(run_dir)[:-keep]:
            shutil.rmtree(folder)


def save_model(run_dir: str | Path, model: nn.Module, info: CheckpointInfo) -> Path:
    """Write a checkpoint of the parameters alone (no optimizer state), from one process."""
    return save(run_dir, model_tensors(model), info)


def model_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters (tied ones once) and the buffers that training changes, by the names they have in
    a checkpoint."""
    return {MODEL_PREFIX + name: tensor for name, tensor in model.state_dict().items()}


def load_model(
    path: str | Path, step: int | None = None, device: torch.device | str = "cpu"
) -> tuple[nn.Module, CheckpointInfo]:
    """The model of a run folder (at `step`, default the latest) or of a checkpoint folder.

    Raises:
        ValueError: there is no such checkpoint (names those there are), or it is damaged.
    """
    folder, info, model = open_model(path, step)
    model.to_empty(device=device)
    load_tensors(folder, model_tensors(model))
    return model.eval(), info


def open_model(path: str | Path, step: int | None = None) -> tuple[Path, CheckpointInfo, nn.Module]:
    """The checkpoint folder that `load_model` reads, what it says, and its model on meta."""
    folder = _find(Path(path), step)
    info = CheckpointInfo.read(folder)
    with torch.device("meta"):
        model = build(info.model)
    return folder, info, model


def read_parameters(folder: Path, model: nn.Module, names: Sequence[str]) -> list[torch.Tensor]:
    """Some parameters of a checkpoint, in CPU memory; `model`, on meta, says their shapes."""
    meta = model_tensors(model)
    tensors = {
        MODEL_PREFIX + name: torch.empty_like(meta[MODEL_PREFIX + name], device="cpu")
        for name in names
    }
    load_tensors(folder, tensors)
    return list(tensors.values())


def _find(path: Path, step: int | None) -> Path:
    if (path / FILE_NAME).is_file():
        return path
    found = checkpoints(path)
    if not found:
        raise ValueError(f"run.dir={path}: no checkpoint in {path / 'checkpoints'}; train it first")
    if step is None:
        return found[-1]
    by_step = {int(folder.name.removeprefix("step_")): folder for folder in found}
    if step not in by_step:
        raise ValueError(f"run.step={step}: not saved; set run.step to one of {sorted(by_step)}")
    return by_step[step]


def _sync_folder(folder: Path) -> None:
    """Return when the names in a folder are on the disk, and survive the loss of power."""
    opened = os.open(folder, os.O_RDONLY)
    with contextlib.suppress(OSError):  # a file system that cannot
        os.fsync(opened)
    os.close(opened)


@contextlib.contextmanager
def _disk_errors(final: Path, partial: Path) -> Iterator[None]:
    """Turn a failed write, here or on another rank, into one line that says what is safe, and give
    back the space that the incomplete checkpoint takes."""
    try:
        yield
    except (OSError, dcp.api.CheckpointException) as error:
        if world.rank() == 0:  # every rank has ended its part, or the write was rank 0's alone
            shutil.rmtree(partial, ignore_errors=True)
        before = latest(final.parent.parent)
        safe = f"{before.name} is complete" if before else "none was saved before"
        raise OSError(
            f"could not write checkpoint {final}: {_root_cause(error)} ({safe}; "
            "free disk space and run the same command again)"
        ) from error


def _root_cause(error: BaseException) -> str:
    if isinstance(error, dcp.api.CheckpointException):
        failures = error.failures
        rank, (cause, _) = next(iter(sorted(failures.items())))
        return f"rank {rank}: {_root_cause(cause)}"
    return " ".join(str(error).split())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """One process is a valid world of one: torch need not warn of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.distributed is disabled.*")
        yield
