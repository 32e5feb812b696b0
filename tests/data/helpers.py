"""Small documents, data folders and a tokenizer to test with."""

from __future__ import annotations

from pathlib import Path

from megafm.data.config import DataJob, NearDuplicates, Source, Split
from megafm.data.document import Document
from megafm.data.prepare import prepare
from megafm.paths import DataDir
from megafm.tokenizer import Tokenizer, train

WORDS = [
    "load",
    "save",
    "parse",
    "render",
    "index",
    "token",
    "layer",
    "batch",
    "merge",
    "split",
    "queue",
    "cache",
    "graph",
    "kernel",
]


def document(name: str, text: str) -> Document:
    metadata = {"package": "corpus", "version": "1.0"}
    return Document(name, text, "files", name, "MIT", metadata=metadata)


def program(number: int, functions: int = 12) -> str:
    """Python text that shares next to no run of five words with that of another number."""
    lines = []
    for i in range(functions):
        a, b = WORDS[(number + i) % len(WORDS)], WORDS[(number * 5 + i * 3) % len(WORDS)]
        lines.append(f"def {a}_{number}_{i}({b}_{number}, size_{i}):")
        lines.append(f"    total_{number} = {b}_{number} * {number + i} + size_{i}")
        lines.append(f"    return {a}_{number}(total_{number})\n")
    return "\n".join(lines)


def write_corpus(folder: Path, count: int = 40) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (folder / f"program_{number:03}.py").write_text(program(number))
    return folder


def files_job(source: Path, data_dir: Path, fraction: float = 0.1, **options: object) -> DataJob:
    return DataJob(
        data=DataDir(str(data_dir)),
        source=Source(kind="files", path=str(source), **options),  # type: ignore[arg-type]
        near_duplicates=NearDuplicates(),
        split=Split(validation_fraction=fraction),
    )


def data_folder(tmp_path: Path) -> Path:
    prepare(files_job(write_corpus(tmp_path / "corpus"), tmp_path / "data"), say=lambda text: None)
    return tmp_path / "data"


def contents(folder: Path) -> dict[Path, bytes]:
    """What the folder is read for: not the stages, which come on meanwhile."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in files if folder / "stages" not in path.parents}


def small_tokenizer(vocab_size: int = 300) -> Tokenizer:
    return train((program(number) for number in range(20)), vocab_size)
