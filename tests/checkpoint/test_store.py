"""A checkpoint is whole or not there: full disks, truncated files and damaged ones are said so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from megafm import checkpoint
from megafm.checkpoint import CheckpointInfo
from megafm.model import ModelConfig, build
from megafm.train.loop import train
from megafm.train.metrics import read_metrics
from tests.corpus import train_job

CONFIG = ModelConfig(
    vocab_size=64, dim=16, num_layers=1, num_heads=2, num_kv_heads=1, head_dim=8, ffn_dim=32
)


def saved(run_dir: Path, step: int = 1, seed: int = 0) -> Path:
    model = build(CONFIG, seed=seed)
    return checkpoint.save_model(run_dir, model, CheckpointInfo(model=CONFIG, step=step))


def test_a_model_comes_back_bit_for_bit(tmp_path: Path) -> None:
    folder = saved(tmp_path, seed=3)
    for path in (tmp_path, folder):
        model, info = checkpoint.load_model(path)
        assert info.model == CONFIG
        for expected, found in zip(
            build(CONFIG, seed=3).parameters(), model.parameters(), strict=True
        ):
            assert torch.equal(expected, found)


def test_nothing_is_pickled(tmp_path: Path) -> None:
    names = {path.suffix for path in saved(tmp_path).iterdir()}
    assert names == {".safetensors", ".json"}


def test_all_of_it_is_on_the_disk_before_it_takes_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = set()
    fsync, rename = os.fsync, Path.rename

    def note(descriptor: int) -> None:
        fsync(descriptor)
        synced.add(os.fstat(descriptor).st_ino)

    def check(partial: Path, final: Path) -> Path:
        assert {path.stat().st_ino for path in (partial, *partial.iterdir())} <= synced
        return rename(partial, final)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "rename", check)
    folder = saved(tmp_path)
    assert folder.is_dir() and folder.parent.stat().st_ino in synced


def test_steps_are_picked_and_unknown_ones_named(tmp_path: Path) -> None:
    for step in (1, 2):
        saved(tmp_path, step, seed=step)
    assert checkpoint.load_model(tmp_path)[1].step == 2
    assert checkpoint.load_model(tmp_path, step=1)[1].step == 1
    with pytest.raises(ValueError, match=r"run.step=7: .*\[1, 2\]"):
        checkpoint.load_model(tmp_path, step=7)
    with pytest.raises(ValueError, match="no checkpoint in"):
        checkpoint.load_model(tmp_path / "nowhere")


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in range(1, 5):
        saved(tmp_path, step)
    checkpoint.remove_old(tmp_path, keep=2)
    names = [folder.name for folder in checkpoint.checkpoints(tmp_path)]
    assert names == ["step_00000003", "step_00000004"]


def test_what_a_killed_run_left_of_a_checkpoint_goes_with_the_next_one(tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".step_00000003.partial"
    left.mkdir(parents=True)
    (left / "shard-00001.safetensors").write_bytes(b"half")
    saved(tmp_path, step=4)
    assert not left.exists()


def test_a_truncated_tensor_file_is_named_with_its_sizes(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    path = next(folder.glob("*.safetensors"))
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[: size // 2])
    with pytest.raises(
        ValueError, match=f"{path.name} has {size // 2} bytes, was saved with {size}"
    ):
        checkpoint.load_model(tmp_path)


def test_a_damaged_header_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    path = next(saved(tmp_path).glob("*.safetensors"))
    with path.open("r+b") as file:
        file.seek(20)
        file.write(b"\xff\xff\xff")
    with pytest.raises(ValueError, match="step_00000001: damaged .*delete this folder"):
        checkpoint.load_model(tmp_path)


def test_a_damaged_description_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    (folder / "checkpoint.json").write_text('{"model": {')
    with pytest.raises(ValueError, match="cannot read checkpoint.json .*delete this folder"):
        checkpoint.load_model(tmp_path)


def test_a_missing_tensor_and_a_wrong_shape_are_named(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    with pytest.raises(ValueError, match="has no tensor 'model.absent'"):
        checkpoint.load_tensors(folder, {"model.absent": torch.zeros(2)})
    with pytest.raises(ValueError, match=r"model.norm.weight has shape \(16,\).*\(17,\)"):
        checkpoint.load_tensors(folder, {"model.norm.weight": torch.zeros(17)})


def test_a_full_disk_in_mid_checkpoint_loses_nothing_saved(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = train_job(corpus, tmp_path)
    real_write = torch.distributed.checkpoint.filesystem._write_item
    written = 0

    def write_item(*arguments: object, **keywords: object) -> object:
        nonlocal written
        written += bool(checkpoint.checkpoints(tmp_path))
        if written > 10:  # in the middle of the second checkpoint
            raise OSError(28, "No space left on device")
        return real_write(*arguments, **keywords)

    monkeypatch.setattr(torch.distributed.checkpoint.filesystem, "_write_item", write_item)
    with pytest.raises(OSError, match="step_00000006: .*No space left.*step_00000003 is complete"):
        train(job)
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.partial")), "what was half written takes no space"
    assert [f.name for f in checkpoint.checkpoints(tmp_path)] == ["step_00000003"]
    assert checkpoint.load_model(tmp_path)[1].step == 3
    train(job)  # the same command continues
    assert checkpoint.load_model(tmp_path)[1].step == 6
    assert [line["step"] for line in read_metrics(tmp_path) if "loss" in line] == [1, 2, 3, 4, 5, 6]


def test_a_checkpoint_says_what_it_was_made_from(corpus: Path, tmp_path: Path) -> None:
    job = train_job(corpus, tmp_path)
    train(job)
    info = checkpoint.load_model(tmp_path)[1]
    manifest = json.loads((corpus / "data" / "manifest.json").read_text())
    assert (info.step, info.samples, info.tokens) == (6, 48, 48 * 32)
    assert info.snapshot_id == manifest["snapshot_id"]
    assert info.tokenizer_hash == manifest["tokenizer_hash"]
    assert f"# sha256 {info.config_hash}" in (tmp_path / "config.yaml").read_text()
    assert info.torch_version == torch.__version__
