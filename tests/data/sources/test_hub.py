"""Data sets of Hugging Face, by the library itself and without a network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from megafm.data.sources import Source, list_shards, read_shard
from megafm.data.sources.config import Fields
from tests.data.sources.helpers import documents, outcomes, results

datasets = pytest.importorskip("datasets", reason="the extra datasets is not installed")

TEXT = datasets.Value("string")
ROWS = [{"text": f"text {number}", "url": f"https://a.org/{number}"} for number in range(10)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = {"train": ROWS, "test": ROWS[:1]}
    saved = datasets.DatasetDict({n: datasets.Dataset.from_list(r) for n, r in rows.items()})
    saved.save_to_disk(tmp_path / "saved", num_shards={"train": 3, "test": 1})
    return tmp_path / "saved"


def test_a_saved_data_set_gives_the_rows_of_its_split(folder: Path) -> None:
    found = documents(folder, "datasets", split="train", fields=Fields(path="url"))
    assert [one.text for one in found] == [row["text"] for row in ROWS]
    assert [one.path for one in found] == [row["url"] for row in ROWS]
    assert len({one.id for one in found}) == 10
    again = documents(folder, "datasets", split="train")
    assert [one.id for one in again] == [one.id for one in found]
    assert [one.text for one in documents(folder, "datasets", split="test")] == ["text 0"]


def test_its_files_are_shards_that_may_be_read_apart(folder: Path) -> None:
    source = Source(kind="datasets", path=str(folder))
    shards = list_shards(source).shards
    assert [shard.part for shard in shards] == [0, 1, 2]
    texts = [[one.text for one in read_shard(source, shard)] for shard in shards]  # type: ignore[union-attr]
    assert sorted(map(len, texts)) == [3, 3, 4]
    assert [text for part in texts for text in part] == [row["text"] for row in ROWS]


def test_files_are_streamed_through_a_builder_of_the_library(tmp_path: Path) -> None:
    """As a data set of the hub is: a folder of Parquet files with an empty text and none."""
    rows = [*ROWS[:3], {"text": "", "url": "e"}, {"text": None, "url": "n"}]
    (tmp_path / "plain").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "plain" / "train-00000.parquet")
    found = outcomes(tmp_path / "plain", "datasets")
    assert found == ["text 0", "text 1", "text 2", "", "<no_text>"]


def test_a_split_or_column_that_is_not_there_names_the_setting(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"source.split=dev: .*; set source.split to one that it"):
        list_shards(Source(kind="datasets", path=str(folder), split="dev"))
    reasons = {one.reason for one in results(folder, "datasets", fields=Fields("body"))}  # type: ignore[union-attr]
    assert reasons == {"no_text"}


def test_without_the_library_its_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"pip install 'megafm\[datasets\]'"):
        list_shards(Source(kind="datasets", path=str(folder)))


def test_files_that_are_damaged_are_counted_and_the_rows_before_are_kept(tmp_path: Path) -> None:
    (tmp_path / "lines").mkdir()
    rows = "".join(f'{{"text": "{number}"}}\n' for number in range(3))
    (tmp_path / "lines" / "train-0.jsonl").write_text(rows)
    (tmp_path / "lines" / "train-1.jsonl").write_text('{"text": "a"}\n{"text": bro\n')
    assert outcomes(tmp_path / "lines", "datasets") == ["0", "1", "2", "<corrupt>"]
    (tmp_path / "lines" / "train-0.jsonl").unlink()
    (tmp_path / "lines" / "train-1.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"source.path=.*source.split=train"):
        list_shards(Source(kind="datasets", path=str(tmp_path / "lines")))


def test_a_saved_data_set_that_is_cut_off_names_the_setting(folder: Path) -> None:
    first = sorted((folder / "train").glob("*.arrow"))[0]
    first.write_bytes(first.read_bytes()[:300])
    with pytest.raises(ValueError, match=r"source.path=.*source.split=train"):
        list_shards(Source(kind="datasets", path=str(folder)))


def test_a_split_without_rows_is_counted(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    nothing = datasets.Dataset.from_dict({"text": []}, features=datasets.Features(text=TEXT))
    nothing.to_parquet(tmp_path / "none" / "train.parquet")
    assert outcomes(tmp_path / "none", "datasets") == ["<no_documents>"]
