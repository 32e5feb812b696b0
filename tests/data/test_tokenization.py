from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from megafm.data import IndexedDataset, Manifest, check_tokenizer, read_documents, tokenize
from megafm.data.config import DataJob, Executor
from megafm.data.document import write_documents
from megafm.data.prepare import prepare
from megafm.data.stages.tokens import load
from megafm.data.tasks import stages_of
from megafm.data.tokenization import token_stage
from megafm.tokenizer import Recipe, train
from megafm.tokenizer.giga import Gigatoken
from tests.data.helpers import contents, data_folder, files_job, program, small_tokenizer

TOKENIZER = small_tokenizer()


def silent(text: str) -> None:
    pass


def test_shards_hold_every_document_closed_by_the_end_token(tmp_path: Path) -> None:
    folder = data_folder(tmp_path)
    manifest = tokenize(str(folder), TOKENIZER, silent)
    for split in ("train", "validation"):
        dataset = IndexedDataset(folder / split)
        assert dataset.dtype == np.uint16
        assert all(dataset[i][-1] == TOKENIZER.eod_id for i in range(len(dataset)))
        decoded = [TOKENIZER.decode(dataset[i][:-1].tolist()) for i in range(len(dataset))]
        texts = [document.text for document in read_documents(folder, split)]
        assert decoded == texts
        assert manifest.splits[split].tokens == dataset.num_tokens
        sizes = TOKENIZER.token_bytes()
        assert sizes[dataset.tokens].sum() == manifest.splits[split].bytes
    assert Manifest.load(folder) == manifest


def test_the_same_command_again_does_nothing_and_a_lost_shard_comes_back(tmp_path: Path) -> None:
    folder = data_folder(tmp_path)
    said: list[str] = []
    tokenize(str(folder), TOKENIZER, said.append)
    before = (folder / "train.bin").read_bytes()
    tokenize(str(folder), TOKENIZER, said.append)
    assert "up to date" not in said[0]
    assert "up to date" in said[1]
    (folder / "train.bin").write_bytes(before[:-4])
    tokenize(str(folder), TOKENIZER, silent)
    assert (folder / "train.bin").read_bytes() == before


def test_another_tokenizer_is_told_apart(tmp_path: Path) -> None:
    folder = data_folder(tmp_path)
    with pytest.raises(ValueError, match="not tokenized yet; run: megafm data action=tokenize"):
        check_tokenizer(str(folder), TOKENIZER)
    tokenize(str(folder), TOKENIZER, silent)
    check_tokenizer(str(folder), TOKENIZER)
    other = small_tokenizer(290)
    message = f"{TOKENIZER.hash[:12]}, this one is {other.hash[:12]}; run: megafm data action=token"
    with pytest.raises(ValueError, match=message):
        check_tokenizer(str(folder), other)


def test_the_faster_encoder_writes_the_same_shards(tmp_path: Path) -> None:
    pytest.importorskip("gigatoken", reason="the extra tokenizers is not installed")
    folder = data_folder(tmp_path)
    with pytest.raises(ValueError, match="encoder=gigatoken: it does not know this tokenizer"):
        tokenize(str(folder), TOKENIZER, silent, encoder="gigatoken")
    assert not (folder / "stages" / "tokenizer").exists()  # before any work
    texts = [document.text for document in read_documents(folder, "train")]
    other = train(iter(texts), 380, Recipe(cut="o200k_base"))
    tokenize(str(folder), other, silent)
    before = contents(folder)
    for unit in (folder / "stages" / "tokenize").iterdir():
        shutil.rmtree(unit)
    (folder / "train.bin").unlink()
    tokenize(str(folder), other, silent, encoder="gigatoken")
    assert contents(folder) == before
    stage = token_stage(str(folder), "gigatoken")
    assert isinstance(load(stage.tokenizer_dir, stage.tokenizer_hash, stage.encoder)[1], Gigatoken)


def test_the_encoder_reaches_the_tasks_of_slurm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gigatoken", reason="the extra tokenizers is not installed")
    folder = data_folder(tmp_path)
    texts = [document.text for document in read_documents(folder, "train")]
    submitted: list[DataJob] = []
    monkeypatch.setattr(
        "megafm.data.executors.slurm.submit", lambda job, *others: submitted.append(job)
    )
    executor = Executor(kind="slurm", workers=2, wait=False)
    other = train(iter(texts), 380, Recipe(cut="gpt2"))
    tokenize(str(folder), other, silent, executor, encoder="gigatoken")
    assert stages_of(submitted[0]) == (token_stage(str(folder), "gigatoken"),)


def test_a_full_disk_leaves_the_old_shards_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = data_folder(tmp_path)
    tokenize(str(folder), TOKENIZER, silent)
    before = contents(folder)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("megafm.data.tokenization.merge", full)
    with pytest.raises(OSError, match="No space left on device.*"):
        tokenize(str(folder), small_tokenizer(290), silent)
    assert contents(folder) == before


def test_new_documents_take_the_old_shards_away(tmp_path: Path) -> None:
    folder = data_folder(tmp_path)
    tokenized = tokenize(str(folder), TOKENIZER, silent)
    job = files_job(tmp_path / "corpus", folder)
    (tmp_path / "corpus" / "program_000.py").touch()
    assert prepare(job, silent).tokens == tokenized.tokens  # other times, same contents
    (tmp_path / "corpus" / "new.py").write_text(program(99))
    assert prepare(job, silent).tokenizer_hash is None
    left = {path.name for path in folder.iterdir()}
    assert left == {"README.md", "documents", "manifest.json", "stages", "statistics.json"}
    assert json.loads((folder / "manifest.json").read_text())["splits"]["train"]["tokens"] is None


def test_a_shard_with_fewer_documents_than_promised_is_refused(tmp_path: Path) -> None:
    folder = data_folder(tmp_path)
    documents = list(read_documents(folder, "train"))
    write_documents(folder, "train", documents[1:])
    with pytest.raises(ValueError, match=rf"{len(documents) - 1} documents, {len(documents)} in"):
        tokenize(str(folder), TOKENIZER, silent)
