"""Opening a run: what does not belong together is refused, what changed is said and kept."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml

from megafm import tokenizer
from megafm.checkpoint import CheckpointInfo, checkpoints, save_model
from megafm.data import Manifest, TrainingData, tokenize
from megafm.model import ModelConfig, build
from megafm.paths import TokenizerDir
from megafm.train.loop import train
from megafm.train.metrics import read_metrics
from megafm.train.run import open_run
from tests.corpus import VOCAB_SIZE, make_corpus, train_job
from tests.train.test_loop import with_train


def test_a_tokenizer_that_does_not_match_the_shards_is_refused(
    corpus: Path, tmp_path: Path
) -> None:
    other = tokenizer.train(iter(["some other text entirely"] * 50), 260)
    other.save(tmp_path / "other")
    job = train_job(corpus, tmp_path / "run")
    job = dataclasses.replace(job, tokenizer=TokenizerDir(str(tmp_path / "other")))
    with pytest.raises(ValueError, match=f"{other.hash[:8]}.*action=tokenize"):
        train(job)


def test_a_tokenizer_or_data_that_the_checkpoint_did_not_see_is_refused(
    corpus: Path, tmp_path: Path
) -> None:
    job = with_train(train_job(corpus, tmp_path / "run"), steps=1)
    train(job)
    longer = with_train(job, steps=2)

    elsewhere = make_corpus(tmp_path / "elsewhere", seed=1)
    new_data = dataclasses.replace(
        longer,
        data=TrainingData(str(elsewhere / "data")),
        tokenizer=TokenizerDir(str(elsewhere / "tokenizer")),
    )
    with pytest.raises(ValueError, match="tokenizer.dir=.*was trained with; set run.dir"):
        train(new_data)

    tokenize(elsewhere / "data", tokenizer.Tokenizer.load(corpus / "tokenizer"))
    with pytest.raises(ValueError, match="data.dir=.*was trained on; set run.dir"):
        train(dataclasses.replace(longer, data=TrainingData(str(elsewhere / "data"))))
    assert [c.name for c in checkpoints(tmp_path / "run")] == ["step_00000001"]


def test_samples_made_in_another_way_are_refused(corpus: Path, tmp_path: Path) -> None:
    job = with_train(train_job(corpus, tmp_path / "run"), steps=1)
    packed = dataclasses.replace(job, data=dataclasses.replace(job.data, packing="best_fit"))
    train(packed)
    with pytest.raises(ValueError, match="data.packing=stream: .* with best_fit.*set it back"):
        train(with_train(job, steps=2))
    with pytest.raises(ValueError, match="train.seq_len=16: .*packing=best_fit.*set it back"):
        train(with_train(packed, steps=2, seq_len=16))
    train(with_train(packed, steps=2))
    assert CheckpointInfo.read(checkpoints(tmp_path / "run")[-1]).packing == "best_fit"


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(corpus: Path, tmp_path: Path) -> None:
    job = train_job(corpus, tmp_path)
    small = dataclasses.replace(job.model, vocab_size=VOCAB_SIZE - 1)
    with pytest.raises(ValueError, match=f"set model.vocab_size={VOCAB_SIZE}"):
        train(dataclasses.replace(job, model=small))


def test_a_truncated_shard_is_refused_before_training(corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus / "data", tmp_path / "data")
    shard = tmp_path / "data" / "train.bin"
    shard.write_bytes(shard.read_bytes()[:-100])
    job = train_job(corpus, tmp_path / "run")
    with pytest.raises(ValueError, match="train.bin"):
        train(dataclasses.replace(job, data=TrainingData(str(tmp_path / "data"))))


def test_a_changed_setting_is_said_and_the_old_config_is_kept(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = with_train(train_job(corpus, tmp_path), steps=1)
    train(job)
    train(with_train(job, steps=2))
    assert "config changed since the last start: train.steps: 1 -> 2" in capsys.readouterr().out
    kept = yaml.safe_load((tmp_path / "config.before_step_00000001.yaml").read_text())
    now = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert (kept["train"]["steps"], now["train"]["steps"]) == (1, 2)


def test_training_goes_on_from_a_converted_model(corpus: Path, tmp_path: Path) -> None:
    job = train_job(corpus, tmp_path)
    save_model(tmp_path, build(job.model, seed=5), CheckpointInfo(model=job.model))
    train(with_train(job, steps=2))
    assert [line["step"] for line in read_metrics(tmp_path) if "loss" in line] == [1, 2]


def test_a_warmup_that_outlasts_the_run_warns(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(with_train(train_job(corpus, tmp_path), steps=1))
    assert "warning: schedule.warmup_steps=2" in capsys.readouterr().out


def test_a_run_names_its_snapshot_and_model(corpus: Path, tmp_path: Path) -> None:
    train(with_train(train_job(corpus, tmp_path), steps=1))
    described = json.loads((checkpoints(tmp_path)[0] / "checkpoint.json").read_text())
    assert described["snapshot_id"] == Manifest.load(corpus / "data").snapshot_id
    assert ModelConfig(**described["model"]).dim == 32


def test_a_run_folder_that_cannot_be_written_is_named(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for run_dir in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match=f"run.dir={run_dir}: .*; set run.dir to"):
            train(train_job(corpus, run_dir))


def test_two_runs_in_one_folder_are_kept_apart(corpus: Path, tmp_path: Path) -> None:
    job = with_train(train_job(corpus, tmp_path), steps=1, eval_every=0)
    another = f"run.dir={tmp_path}: another run is writing"
    with open_run(job), pytest.raises(ValueError, match=another):
        train(job)
    train(job)
    assert [c.name for c in checkpoints(tmp_path)] == ["step_00000001"]
