"""action=verify: the files of a data folder against the hashes of its manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from megafm.data.document import documents_folder
from megafm.data.lines import find_shard, open_shard
from megafm.data.manifest import Manifest
from megafm.data.stages.stage import hash_file


def verify(data_dir: str, say: Callable[[str], None] = print) -> None:
    """Read all shards of documents and of tokens.

    Raises:
        ValueError: there is no manifest, or files are missing or of other contents; names them.
    """
    manifest = Manifest.load(data_dir)
    documents, tokens = [], []
    for name, file in manifest.files.items():
        split, number = name.split("/")
        path = find_shard(documents_folder(data_dir, split), number)
        if _hash(path, _hash_lines) != file.sha256:
            documents.append(path)
    for name, expected in manifest.token_files.items():
        path = Path(data_dir) / name
        if _hash(path, hash_file) != expected:
            tokens.append(path)
    if documents or tokens:  # shards of documents are links to what the stages hold
        remedy = f"remove {data_dir}, then prepare it again"
        if not documents:
            remedy = f"remove them, then run: megafm data action=tokenize data.dir={data_dir}"
        wrong = ", ".join(map(str, [*documents, *tokens]))
        raise ValueError(f"data.dir={data_dir}: not what the manifest says: {wrong}; {remedy}")
    say(
        f"{data_dir}: {len(manifest.files)} shards of documents and {len(manifest.token_files)} "
        "files of tokens are what the manifest says"
    )


def _hash(path: Path, of: Callable[[Path], str]) -> str | None:
    """None where it cannot be read."""
    try:
        return of(path)
    except (OSError, ValueError):
        return None


def _hash_lines(path: Path) -> str:
    """Of a shard, uncompressed."""
    found = hashlib.sha256()
    with open_shard(path) as lines:
        while piece := lines.read(1 << 20):
            found.update(piece)
    return found.hexdigest()
