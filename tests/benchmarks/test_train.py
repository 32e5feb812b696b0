"""The harness of benchmarks/train; nothing here asserts a time."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from benchmarks.train import profile, report
from benchmarks.train.providers import FULL, OURS, PROVIDERS, QUICK, make, missing
from benchmarks.train.run import run
from benchmarks.train.worker import Trainer
from megafm.bench import BenchJob
from megafm.model import num_parameters


def test_a_quick_run_writes_json_and_a_figure(tmp_path: Path) -> None:
    run(
        BenchJob(
            suite="train",
            only=(OURS,),
            threads=(1,),
            dtypes=("fp32",),
            quick=True,
            out=str(tmp_path),
        )
    )
    (path,) = tmp_path.glob("*.json")
    result = json.loads(path.read_text())
    (case,) = result["cases"]
    assert case["name"] == OURS and min(case["seconds"]) > 0
    kinds = case["profile"]["kinds_s"]
    assert kinds["matmul"] > 0 and kinds["attention"] > 0 and kinds["optimizer"] > 0
    assert path.with_suffix(".png").stat().st_size > 1000


@pytest.mark.parametrize("name", [name for name in PROVIDERS if not missing(name)])
def test_providers_train_one_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_THREADS", "1")
    trainer = Trainer()
    assert trainer.build(name, "fp32", quick=True) == num_parameters(QUICK.model)
    losses = [trainer.step()["loss"] for _ in range(20)]
    assert losses[0] == pytest.approx(4.16, abs=0.5)  # ln 64
    assert losses[-1] < losses[0] - 0.02


def test_the_plain_decoder_computes_what_ours_does() -> None:
    ours, plain = make(OURS, QUICK), make("nanoGPT-style", QUICK)
    decoder = ours.model
    with torch.no_grad():
        plain.embedding.weight.copy_(decoder.embedding.weight)
        plain.head.weight.copy_(decoder.head.weight)
        for mine, theirs in zip(decoder.blocks.values(), plain.blocks, strict=True):
            attention, ffn = mine.attention, mine.ffn
            theirs.qkv.weight.copy_(
                torch.cat([w.weight for w in (attention.wq, attention.wk, attention.wv)])
            )
            theirs.out.weight.copy_(attention.wo.weight)
            for to, of in ((theirs.gate, ffn.w_gate), (theirs.up, ffn.w_up)):
                to.weight.copy_(of.weight)
            theirs.down.weight.copy_(ffn.w_down.weight)
    tokens = torch.randint(64, (2, 17), generator=torch.Generator().manual_seed(0))
    batch = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    torch.testing.assert_close(ours(*batch), plain(*batch))


def test_the_model_is_that_of_the_bars() -> None:
    assert num_parameters(FULL.model) == 9_998_592
    assert FULL.seq_len * FULL.batch == 4096


def test_each_peer_counts_at_its_best_layout() -> None:
    def case(name: str, threads: int, ranks: int, seconds: list[float]) -> dict:
        layout = {"threads": threads, "ranks": ranks, "cores": 2, "dtype": "fp32"}
        return {"name": name, "seconds": seconds, "losses": [9.0] * len(seconds)} | layout

    result = {
        "hardware": {"device": "a CPU"},
        "tokens_per_step": 100,
        "missing": {"litgpt, 2 threads x 1 ranks, fp32": "litgpt is not installed"},
        "cases": [
            case(OURS, 2, 1, [2.0, 2.0, 9.0]),
            case(OURS, 1, 2, [1.0, 1.0, 9.0]),
            case("nanoGPT-style", 2, 1, [2.0]),
            case("nanoGPT-style", 1, 2, [4.0]),
        ],
    }
    result["bars"] = report.verdicts(result)
    (row,) = result["bars"]
    assert (row["ours"], row["peer"], row["ratio"], row["bar"]) == (100.0, 50.0, 2.0, 1.7)
    console = Console(record=True, width=160)
    report.show(result, console)
    shown = console.export_text()
    assert "2.00 times nanoGPT-style; bar 1.7: met" in shown
    assert "litgpt is not installed" in shown


def test_time_is_of_the_outermost_kind() -> None:
    def event(name: str, parent: SimpleNamespace | None = None) -> SimpleNamespace:
        return SimpleNamespace(name=name, cpu_parent=parent)

    loss = event("_SumBackward")
    assert (
        profile.kind_of(event("aten::mm", event("aten::matmul", loss))) == "output layer and loss"
    )
    assert profile.kind_of(event("aten::mm")) == "matmul"
    assert profile.kind_of(event("ProfilerStep")) == profile.REST
