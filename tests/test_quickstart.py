"""The main job from raw text to export, small: every step is the real one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from megafm.config import compose
from megafm.paths import RunDir
from megafm.quickstart import QuickstartJob, steps

SMALL = [
    "vocab_size=400",
    "num_processes=2",
    "prompts=['def ','x = \"a b\"']",
    "extra.train='model.dim=32 model.num_layers=2 model.num_heads=4 model.num_kv_heads=2 "
    "model.head_dim=8 model.ffn_dim=64 train.steps=6 train.seq_len=64 train.global_batch_size=4 "
    "train.micro_batch_size=2 train.eval_every=3 checkpoint.every=3 schedule.warmup_steps=2'",
    "extra.generate='max_new_tokens=8'",
]


def source(folder: Path) -> Path:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(300)]
    folder.mkdir()
    for number in range(30):
        lines = [f"def {rng.choice(words)}({rng.choice(words)}):" for _ in range(60)]
        (folder / f"module_{number}.py").write_text("\n    return 0\n".join(lines))
    return folder


def run(*overrides: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "megafm.quickstart", *overrides]
    return subprocess.run(command, capture_output=True, text=True, timeout=400)


def test_raw_text_to_an_exported_model_and_again(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    data = f"extra.data='source.kind=files source.path={source(tmp_path / 'source')}'"
    result = run(f"run.dir={run_dir}", data, *SMALL)
    assert result.returncode == 0, result.stdout + result.stderr

    for name in ("config.yaml", "metrics.jsonl", "report.html", "report.png", "evaluation.json"):
        assert (run_dir / name).stat().st_size > 0, name
    assert [f.name for f in sorted((run_dir / "checkpoints").iterdir())][-1] == "step_00000006"
    assert len(json.loads((run_dir / "samples.json").read_text())) == 2
    summary = json.loads((run_dir / "quickstart.json").read_text())
    assert len(summary["seconds"]) == 8
    assert summary["peak_memory_bytes"] > 2e8
    page = (run_dir / "report.html").read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "x = &quot;a b&quot;" in page

    from transformers import AutoModelForCausalLM, AutoTokenizer

    from megafm.checkpoint import load_model

    theirs = AutoModelForCausalLM.from_pretrained(run_dir / "hf", dtype=torch.float32)
    ours, info = load_model(run_dir)
    tokens = torch.randint(0, 400, (2, 64), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        difference = (theirs(tokens).logits - ours(tokens)).abs().max()
    assert difference < 1e-4
    tokenizer = AutoTokenizer.from_pretrained(run_dir / "hf")
    assert tokenizer.decode(tokenizer("def f(x):\n    y")["input_ids"]) == "def f(x):\n    y"

    before = (run_dir / "metrics.jsonl").read_bytes()
    again = run(f"run.dir={run_dir}", data, *SMALL)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "at step 6 of 6" in again.stdout
    assert (run_dir / "metrics.jsonl").read_bytes() == before
    assert len(json.loads((run_dir / "samples.json").read_text())) == 2
    assert info.step == 6


def test_a_failing_step_ends_the_job_with_its_error_and_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    data = f"extra.data='source.kind=files source.path={tmp_path / 'empty'}'"
    result = run(f"run.dir={tmp_path / 'run'}", data, *SMALL)
    assert result.returncode == 1
    assert "no document to learn from" in result.stderr
    assert "step 1 (read, deduplicate and split documents) ended with code 1" in result.stderr
    assert "Traceback" not in result.stderr


def test_every_step_is_a_command_of_its_own() -> None:
    commands = [command for _, command in steps(QuickstartJob(prompts=("it's",), num_processes=2))]
    modules = [next(word for word in c if word.startswith("megafm.")) for c in commands]
    assert modules == [
        "megafm.data",
        "megafm.tokenizer",
        "megafm.data",
        "megafm.train",
        "megafm.evaluate",
        "megafm.generate",
        "megafm.convert",
    ]
    assert r"prompt='it\'s'" in commands[5]


def test_the_recipe_is_the_experiment_of_the_training_step() -> None:
    config = compose("quickstart", QuickstartJob, ["recipe=one_hour"])
    assert "experiment=one_hour" in dict(steps(config))["train"]


def test_a_folder_of_any_name_reaches_every_step() -> None:
    config = QuickstartJob(run=RunDir("my (runs)/a=1,b"))
    for name, command in steps(config):
        folders = [word for word in command if "a=1,b" in word]
        assert folders and all(w.partition("=")[2].startswith("'my (") for w in folders), name


def test_no_process_is_no_run() -> None:
    with pytest.raises(ValueError, match="num_processes=0"):
        QuickstartJob(num_processes=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_quickstart_waits_for_its_step_to_save(number: int, tmp_path: Path) -> None:
    step = (
        "import pathlib, signal, time\n"
        "def save(number, frame):\n"
        "    time.sleep(1)\n"
        "    pathlib.Path('saved').write_text('')\n"
        "    raise SystemExit(3)\n"
        "for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, save)\n"
        "pathlib.Path('ready').write_text('')\n"
        "time.sleep(60)\n"
    )
    script = f"from megafm.quickstart import run_step; run_step({[sys.executable, '-c', step]!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    while not (tmp_path / "ready").exists() and process.poll() is None:
        time.sleep(0.05)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    process.communicate(timeout=60)
    assert (tmp_path / "saved").exists()
