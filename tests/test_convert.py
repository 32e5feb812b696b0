"""`megafm convert`: a run to Hugging Face and back, checked against transformers."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest
import torch

from megafm import tokenizer
from megafm.checkpoint import CheckpointInfo, load_model, save_model, store
from megafm.config import compose
from megafm.convert import ConvertJob, _overrides, export, import_run, verify
from megafm.infer.load import load_run
from megafm.model import ModelConfig, RopeScaling, build, from_hf, hf
from megafm.paths import SavedRun

SCALING = RopeScaling("llama3", 8.0, 64)
CONFIG = ModelConfig(vocab_size=257, num_layers=2, qk_norm=True, rope_scaling=SCALING)


@pytest.fixture
def run_dir(tmp_path):
    """A run with a checkpoint at step 5 and a tokenizer."""
    words = tokenizer.train(iter(["def f(x):\n    return x\n"]), 257)
    words.save(tmp_path / "run" / "tokenizer")
    model = build(CONFIG, seed=1)
    info = CheckpointInfo(model=CONFIG, step=5, tokenizer_hash=words.hash)
    save_model(tmp_path / "run", model, info)
    return tmp_path / "run"


def test_run_to_hugging_face_and_back_keeps_every_bit(run_dir, tmp_path, capsys):
    pytest.importorskip("transformers", reason="pip install 'megafm[hf]'")
    export(ConvertJob(run=SavedRun(str(run_dir))))
    assert "differ by at most" in capsys.readouterr().out
    new = SavedRun(str(tmp_path / "new"))
    import_run(ConvertJob(to="megafm", input=str(run_dir / "hf"), run=new))
    assert "differ by at most" in capsys.readouterr().out

    (before, _), loaded = load_model(run_dir), load_run(new)
    assert loaded.info.step == 0 and loaded.info.model == CONFIG
    assert loaded.info.tokenizer_hash == loaded.tokenizer.hash
    for name, parameter in before.named_parameters():
        assert torch.equal(loaded.model.get_parameter(name), parameter), name


def test_a_run_is_exported_a_file_at_a_time(run_dir, tmp_path, monkeypatch):
    at_once = []

    def load(folder, tensors):
        at_once.append(sum(tensor.nbytes for tensor in tensors.values()))
        load_tensors(folder, tensors)

    load_tensors = store.load_tensors
    monkeypatch.setattr(store, "load_tensors", load)
    monkeypatch.setattr(hf, "MAX_SHARD_BYTES", 600_000)
    export(ConvertJob(run=SavedRun(str(run_dir)), verify=False))
    assert len(at_once) == len(list((run_dir / "hf").glob("model-*.safetensors"))) > 2
    assert max(at_once) <= 600_000
    exported = from_hf(run_dir / "hf")
    for name, parameter in load_model(run_dir)[0].named_parameters():
        assert torch.equal(exported.get_parameter(name), parameter), name


def test_folder_that_computes_other_logits_fails_the_verification(run_dir, capsys):
    pytest.importorskip("transformers", reason="pip install 'megafm[hf]'")
    export(ConvertJob(run=SavedRun(str(run_dir)), verify=False))
    assert "verified" not in capsys.readouterr().out
    model = from_hf(run_dir / "hf")
    verify(model, run_dir / "hf")
    path = run_dir / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rms_norm_eps": 0.1}))
    with pytest.raises(ValueError, match="transformers computes other logits"):
        verify(model, run_dir / "hf")


def test_without_transformers_it_says_which_extra_is_missing(run_dir, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    export(ConvertJob(run=SavedRun(str(run_dir))))
    assert "not verified: transformers is missing; pip install 'megafm[hf]'" in (
        capsys.readouterr().out
    )


def test_half_precision_export_takes_half_the_bytes(run_dir):
    export(ConvertJob(run=SavedRun(str(run_dir)), dtype="bfloat16", verify=False))
    assert from_hf(run_dir / "hf").norm.weight.dtype == torch.bfloat16


def test_a_tokenizer_that_is_not_the_checkpoints_is_not_exported(run_dir):
    tokenizer.train(iter(["def f(x):\n    return x\n" * 2]), 259).save(run_dir / "tokenizer")
    with pytest.raises(ValueError, match="put that tokenizer.json back"):
        export(ConvertJob(run=SavedRun(str(run_dir)), verify=False))


def test_existing_run_is_never_overwritten(run_dir):
    export(ConvertJob(run=SavedRun(str(run_dir)), verify=False))
    job = ConvertJob(to="megafm", input=str(run_dir / "hf"), run=SavedRun(str(run_dir)))
    with pytest.raises(ValueError, match="holds step_00000005 already; set a new run.dir"):
        import_run(job)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"to": "megafm"}, "input=null: .*set input=DIR"),
        ({"input": "x"}, "input=x: to=hf reads run.dir"),
        ({"to": "megafm", "input": "x", "output": "y"}, "output=y: .*set run.dir=y"),
    ],
)
def test_contradicting_settings_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ConvertJob(**fields)


@pytest.mark.parametrize(
    "config",
    [CONFIG, dataclasses.replace(CONFIG, window=64, tie_embeddings=False, rope_base=5e5)],
)
def test_printed_overrides_name_the_same_model(config):
    import shlex

    from megafm.train.config import TrainJob

    overrides = shlex.split(_overrides(config))
    assert compose("train", TrainJob, overrides).model == config
