from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
import torch
from rich.console import Console

from megafm.checkpoint import load_model
from megafm.config import compose
from megafm.data import Manifest, tokenize
from megafm.evaluate.config import EvaluateJob
from megafm.evaluate.job import evaluate, show
from megafm.paths import DataDir, SavedRun
from megafm.tokenizer import Tokenizer, train
from tests.tiny_run import SEQ_LEN, TRAIN, VALIDATION, make_tiny_run, write_data


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_run(tmp_path_factory.mktemp("run"))


def job(run_dir: Path, **changes: object) -> EvaluateJob:
    folders = {"run": SavedRun(str(run_dir)), "data": DataDir(str(run_dir / "data"))}
    return EvaluateJob(**{**folders, "precision": "fp32", "device": "cpu", **changes})  # type: ignore[arg-type]


@torch.no_grad()
def test_bits_per_byte_is_the_code_length_of_each_document_over_its_bytes(run_dir: Path) -> None:
    model, _ = load_model(run_dir)
    model = model.double()
    tokenizer = Tokenizer.load(run_dir / "tokenizer")
    nats, tokens = 0.0, 0
    for text in VALIDATION:
        ids = tokenizer.encode(text)
        logits = model(torch.tensor([[tokenizer.eod_id, *ids[:-1]]]))[0]
        nats += torch.nn.functional.cross_entropy(logits, torch.tensor(ids), reduction="sum").item()
        tokens += len(ids)
    size = sum(len(text.encode()) for text in VALIDATION)

    found = evaluate(job(run_dir, seq_len=256))["model"]
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert found["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-4)
    assert (found["tokens"], found["bytes"], found["documents"]) == (tokens, size, len(VALIDATION))


def test_the_result_names_what_it_was_measured_on(run_dir: Path) -> None:
    result = evaluate(job(run_dir))
    assert result == json.loads((run_dir / "evaluation.json").read_text())
    manifest = Manifest.load(run_dir / "data")
    assert result["snapshot_id"] == manifest.snapshot_id
    assert result["trained_on"] == [manifest.snapshot_id]
    assert result["corpus"] == "tests"
    assert result["model"]["step"] == 7
    assert (result["model"]["seq_len"], result["model"]["stride"]) == (SEQ_LEN, SEQ_LEN // 2)
    for name, baseline in result["baselines"].items():
        assert baseline["bytes"] == result["model"]["bytes"]
        ratio = result["model"]["bits_per_byte"] / baseline["bits_per_byte"]
        assert result["margin_percent"][name] == pytest.approx(100 * (1 - ratio))


def test_the_table_shows_model_baselines_and_margins(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = evaluate(job(run_dir))
    out = capsys.readouterr().out
    for text in ("model, step 7", "byte 5-gram", "xz", "% above"):
        assert text in out
    assert f"{result['model']['bits_per_byte']:.4f}" in out


def test_only_folders_that_were_not_split_with_this_text_are_warned_of(run_dir: Path) -> None:
    """A model of a blend has seen several; the text is of one of them."""
    result = evaluate(job(run_dir))
    own, other = result["snapshot_id"], "f" * 64

    def shown(*trained_on: str) -> str:
        out = io.StringIO()
        show({**result, "trained_on": list(trained_on)}, Console(file=out, width=200))
        return out.getvalue()

    warning = f"trained on snapshot {other[:12]}, this text is of {own[:12]}: training may have"
    assert "trained on" not in shown() + shown(own)
    assert warning in shown(other) and warning in shown(own, other)


def test_a_tokenizer_that_does_not_match_the_checkpoint_is_refused(tmp_path: Path) -> None:
    make_tiny_run(tmp_path)
    train(iter(TRAIN), 270).save(tmp_path / "tokenizer")
    with pytest.raises(ValueError, match=r"tokenizer has the hash .* checkpoint was trained with"):
        evaluate(job(tmp_path))


def test_documents_changed_after_tokenizing_are_refused(tmp_path: Path) -> None:
    make_tiny_run(tmp_path)
    before = Manifest.load(tmp_path / "data")
    write_data(tmp_path / "data", VALIDATION[:2]).with_tokens(
        {"train": 1, "validation": 1}, str(before.tokenizer_hash), before.token_files
    ).save(tmp_path / "data")
    with pytest.raises(ValueError, match=r"stands for \d+ bytes.*action=tokenize"):
        evaluate(job(tmp_path))


def test_a_missing_checkpoint_is_one_line(run_dir: Path) -> None:
    with pytest.raises(ValueError, match=r"run\.step=3: not saved; set run\.step to one of \[7\]"):
        evaluate(job(run_dir, run=SavedRun(str(run_dir), step=3)))


def test_hydra_composes_the_job() -> None:
    assert compose("evaluate", EvaluateJob, []) == EvaluateJob()
    assert compose("evaluate", EvaluateJob, ["stride=64", "run.step=5"]).stride == 64


@pytest.mark.parametrize("field", ["seq_len", "stride", "batch_tokens", "ngram_order"])
def test_a_size_below_one_is_named(field: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=0: must be at least 1"):
        compose("evaluate", EvaluateJob, [f"{field}=0"])


def test_a_data_folder_without_validation_documents_is_refused(
    run_dir: Path, tmp_path: Path
) -> None:
    write_data(tmp_path, [])
    tokenize(str(tmp_path), Tokenizer.load(run_dir / "tokenizer"), say=lambda text: None)
    with pytest.raises(ValueError, match="validation split is empty; .*validation_fraction="):
        evaluate(job(run_dir, data=DataDir(str(tmp_path))))
