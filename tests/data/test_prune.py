from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from megafm.data.config import DataFolder, DataJob, Shuffle, Steps
from megafm.data.prepare import prepare
from megafm.data.prune import prune
from megafm.data.tokenization import tokenize
from megafm.files import only_writer
from tests.data.helpers import files_job, small_tokenizer
from tests.data.stages.helpers import corpus_with_copies, cut_small, digests, made


def silent(text: str) -> None:
    pass


def deleting(job: DataJob) -> DataJob:
    return dataclasses.replace(job, data=dataclasses.replace(job.data, delete=True))


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataJob:
    """Made once with a corpus step and two more files, then without."""
    cut_small(monkeypatch)
    corpus = corpus_with_copies(tmp_path / "corpus", 20)
    job = files_job(corpus, tmp_path / "data")
    job = dataclasses.replace(job, data=DataFolder(job.data.dir))
    prepare(dataclasses.replace(job, steps=Steps(corpus={"repeated_runs_v1": {}})), silent)
    tokenize(job.data.dir, small_tokenizer(), silent)
    for name in ("000.py", "001.py"):
        (corpus / name).unlink()
    prepare(job, silent)
    tokenize(job.data.dir, small_tokenizer(), silent)
    return job


def test_what_no_present_setting_names_goes_on_demand(job: DataJob, tmp_path: Path) -> None:
    root = tmp_path / "data" / "stages"
    killed = root / "sign" / "some.0123.partial"
    killed.mkdir()
    (killed / "keys.parts").write_bytes(bytes(1000))
    before, expected = made(tmp_path / "data"), digests(tmp_path / "data")
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    said: list[str] = []
    left_over = prune(job, said.append)
    assert said[-1] == f"{root}: {left_over:,} bytes are left over; to remove them, set " + (
        "data.delete=true"
    )
    assert {line.partition(":")[0] for line in said[:-1]} >= {
        *("keys_1", "repeated_1", "compared_1", "read", "sign")
    }
    assert made(tmp_path / "data") == before and killed.is_dir()

    assert prune(deleting(job), silent) == left_over > 1000
    after = made(tmp_path / "data")
    assert not {name for name in after if name.startswith("compared_1")} and not killed.exists()
    assert size - left_over == sum(p.stat().st_size for p in root.rglob("*") if p.is_file())
    assert prune(job, said.append) == 0
    (tmp_path / "data" / "manifest.json").unlink()
    prepare(job, silent)  # from the units that are left, of which none is made again
    tokenize(job.data.dir, small_tokenizer(), silent)
    assert made(tmp_path / "data") == after and digests(tmp_path / "data") == expected


def test_settings_that_did_not_make_the_folder_remove_nothing(job: DataJob, tmp_path: Path) -> None:
    before = made(tmp_path / "data")
    other = dataclasses.replace(job, shuffle=Shuffle(seed=5))
    with pytest.raises(ValueError, match="not what these settings make of their files.*last run"):
        prune(deleting(other), silent)
    lock = only_writer(tmp_path / "data" / ".lock", "data.dir=x")
    with lock, pytest.raises(ValueError, match="another run is writing to it"):
        prune(deleting(job), silent)
    (tmp_path / "corpus" / "new.py").write_text("a new file\n")
    with pytest.raises(ValueError, match="not what these settings make of their files"):
        prune(deleting(job), silent)
    assert made(tmp_path / "data") == before
