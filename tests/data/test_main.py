from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

from megafm.config import compose
from megafm.data.config import DataJob
from megafm.data.inspection import inspect, sample, stats
from megafm.data.prepare import prepare
from megafm.data.sources.config import Kind
from megafm.data.steps import Pipeline, cleaning_steps
from megafm.data.tokenization import tokenize
from megafm.files import only_writer
from tests.data.helpers import data_folder, document, small_tokenizer, write_corpus


def run(*overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "megafm.data", *overrides], capture_output=True, text=True
    )


def test_prepare_from_the_command_line(tmp_path: Path) -> None:
    corpus = write_corpus(tmp_path / "corpus")
    done = run(f"data.dir={tmp_path}/data", "source=files", f"source.path={corpus}")
    assert done.returncode == 0, done.stderr
    assert "files of corpus: train 39 documents" in done.stdout
    assert done.stderr == ""


def test_a_book_in_one_file_is_one_document() -> None:
    job = compose("data", DataJob, ["source=files", "source.path=books"])
    assert job.source.max_document_bytes == 100_000_000
    assert compose("data", DataJob, []).source.max_document_bytes == 1_000_000


OF_CODE = {"code", "git", "python_installation"}


@pytest.mark.parametrize("kind", sorted(set(get_args(Kind)) - OF_CODE))
def test_prose_in_one_line_is_not_minified_code(kind: str) -> None:
    source = compose("data", DataJob, [f"source={kind}", "source.path=x"]).source
    text = document("a.txt", "We met on the bridge over the river. " * 80_000)
    assert Pipeline(tuple(cleaning_steps(source)), (), (), ()).clean(text) is text


def test_a_mistake_is_one_line_and_a_failing_exit_code(tmp_path: Path) -> None:
    done = run(f"data.dir={tmp_path}/data", "source=files", f"source.path={tmp_path}/missing")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("megafm: error: source.path=")


def test_a_second_job_on_a_folder_is_refused(tmp_path: Path) -> None:
    with only_writer(tmp_path / ".lock", "data.dir=x"):
        done = run(f"data.dir={tmp_path}")
    assert done.returncode == 1
    assert f"data.dir={tmp_path}: another run is writing to it; wait until" in done.stderr


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["source.kind=web"], "source.kind='web'"),
        (["source=files"], "source.path=null: source.kind=files reads a folder"),
        (["source.max_line_bytes=0"], "source.max_line_bytes=0: must be positive"),
        (["near_duplicates.remove_at=0.4"], "remove_at=0.4: need .* set cluster_at=0.5"),
        (["split.max_validation_bytes=0"], "split.max_validation_bytes=0.*set split.validation"),
    ],
)
def test_settings_that_cannot_work_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose("data", DataJob, overrides)


def test_packages_can_be_listed() -> None:
    assert compose("data", DataJob, []).source.packages == "required"
    job = compose("data", DataJob, ["source.packages=[numpy,torch]"])
    assert job.source.packages == ("numpy", "torch")


def test_inspect_shows_splits_sources_and_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data_folder(tmp_path)
    inspect(str(folder))
    shown = capsys.readouterr().out
    for piece in ("files of corpus", "none yet: action=tokenize", "unspecified", "train program_"):
        assert piece in shown
    manifest = tokenize(str(folder), small_tokenizer(), say=lambda text: None)
    inspect(str(folder))
    assert f"{manifest.splits['train'].tokens:,}" in capsys.readouterr().out


def test_stats_say_what_was_left_out_and_how_large_it_was(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    texts = {"a": "one of a kind " * 300, "b": "twice " * 2000, "c": "twice " * 2000, "d": "bin\0"}
    for name, text in texts.items():
        (tmp_path / "texts" / f"{name}.txt").write_text(text)
    folder = f"{tmp_path}/data"
    overrides = [f"data.dir={folder}", "source=files", f"source.path={tmp_path}/texts"]
    prepare(
        compose("data", DataJob, [*overrides, "source.max_line_bytes=50000"]), lambda text: None
    )
    shown = io.StringIO()
    stats(folder, Console(file=shown, width=100))
    lines = shown.getvalue().splitlines()
    rows = [[cell.strip() for cell in line.split("\u2502")[1:-1]] for line in lines]
    assert ["read", "", "4", ""] in rows
    assert ["exact", "exact_duplicate", "-1", "-0.012"] in rows
    assert ["read", "binary", "-1", ""] in rows
    assert ["left", "", "2", "0.016"] in rows
    shown = io.StringIO()
    sample(folder, "train", 5, Console(file=shown, width=100))
    assert "source files, path b.txt" in shown.getvalue() and "twice twice" in shown.getvalue()
