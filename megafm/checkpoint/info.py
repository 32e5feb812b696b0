"""What a checkpoint says of itself: `checkpoint.json` beside the tensors."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megafm.config import from_dict, to_dict
from megafm.model.config import ModelConfig

FILE_NAME = "checkpoint.json"


@dataclass(frozen=True)
class CheckpointInfo:
    """The position of a run and the identity of everything that led to it.

    Attributes:
        step: optimizer steps taken.
        samples: training samples consumed: the whole state of the data loader.
        tokens: training tokens consumed, with the padding of packed rows.
        seq_len: tokens of context that the model was trained with.
        packing: how documents were made into samples (data.packing).
        config_hash, tokenizer_hash, snapshot_id: sha256 of config, tokenizer.json and the data
            that was seen.
        snapshots: snapshot IDs of the folders that were trained on.
        git_commit: of the megafm checkout that trained it; None for an installed package.
        files: bytes of each tensor file, to tell a truncated one.
    """

    model: ModelConfig
    step: int = 0
    samples: int = 0
    tokens: int = 0
    seq_len: int = 0
    packing: str = "stream"
    config_hash: str | None = None
    tokenizer_hash: str | None = None
    snapshot_id: str | None = None
    snapshots: tuple[str, ...] = ()
    git_commit: str | None = None
    megafm_version: str | None = None
    torch_version: str | None = None
    files: dict[str, int] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Return when it is on the disk: the checkpoints before it may then be removed."""
        with (folder / FILE_NAME).open("w", encoding="utf-8") as file:
            file.write(json.dumps(to_dict(self), indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def read(cls, folder: Path) -> CheckpointInfo:
        """Read and check `folder`: every tensor file is there with the size it was written with.

        Raises:
            ValueError: the checkpoint is unreadable or a file of it is missing or truncated.
        """
        try:
            info = from_dict(cls, json.loads((folder / FILE_NAME).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ValueError(
                f"checkpoint {folder}: cannot read {FILE_NAME} ({error}); delete this folder to go "
                "on from the checkpoint before it"
            ) from error
        for name, size in info.files.items():
            path = folder / name
            found = path.stat().st_size if path.exists() else 0
            if found != size:
                raise ValueError(
                    f"checkpoint {folder}: {name} has {found} bytes, was saved with {size}; delete "
                    "this folder to go on from the checkpoint before it"
                )
        return info

    def with_files(self, folder: Path) -> CheckpointInfo:
        sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.safetensors"))}
        return dataclasses.replace(self, files=sizes)


@functools.cache
def git_commit() -> str | None:
    """The commit of this checkout, with `+dirty` for local changes; outside a checkout what
    MEGAFM_COMMIT says, or None."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return os.environ.get("MEGAFM_COMMIT")

    def git(*arguments: str) -> Any:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "HEAD")
        return commit + ("+dirty" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
