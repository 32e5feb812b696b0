"""The harness of benchmarks/ops; nothing here asserts a time."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from benchmarks.ops import OPS, load, report
from benchmarks.ops.bars import BARS, bar_of
from benchmarks.ops.op import (
    BACKWARD,
    BOTH,
    DTYPES,
    FORWARD,
    Inputs,
    Op,
    Work,
    autograd_runs,
    normal,
)
from benchmarks.ops.run import quantiles, run
from benchmarks.ops.worker import TOLERANCE, Bench, difference
from megafm.bench import BenchJob, choose, import_suite

CPU = torch.device("cpu")


def test_a_quick_run_writes_json_csv_and_a_figure(tmp_path: Path) -> None:
    run(
        BenchJob(
            only=("rms_norm",),
            providers=("megafm", "written out"),
            threads=(1,),
            dtypes=("fp32",),
            device="cpu",
            quick=True,
            out=str(tmp_path),
        )
    )
    (path,) = tmp_path.glob("rms_norm_*.json")
    result = json.loads(path.read_text())
    assert {"command", "commit", "date", "hardware", "versions", "load_average"} <= set(result)
    assert result["ceilings"][0]["copy_bytes_per_s"] > 0
    assert [cell["mode"] for cell in result["cells"]] == [FORWARD, BOTH]
    for cell in result["cells"]:
        rows = report.timed(cell)
        names = {(row["name"], row["malloc"]) for row in rows}
        wanted = {(n, m) for n in ("megafm", "written out") for m in ("default", "tuned")}
        assert wanted <= names
        assert all(0 < r["q20_s"] <= r["median_s"] <= r["q80_s"] for r in rows)
    assert {row["mode"] for row in result["bars"]} == {FORWARD, BOTH}
    with path.with_suffix(".csv").open() as file:
        flat = list(csv.DictReader(file))
    assert len(flat) == sum(len(cell["providers"]) for cell in result["cells"])
    assert path.with_suffix(".png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "dtype"), [(name, dtype) for name in OPS for dtype in load(name).dtypes]
)
def test_what_is_timed_computes_the_same(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    definition = load(name)
    (shape,) = definition.quick
    bench = make_bench(monkeypatch)
    wanted = ["megafm", *definition.eager]
    states = bench.prepare(name, shape, dtype, quick=True, wanted=wanted, check=True)
    wrong = {provider: s["error"] for provider, s in states.items() if s["error"]}
    assert not {p: e for p, e in wrong.items() if e.startswith("wrong")}
    assert {"megafm", *definition.eager} <= set(states) - set(wrong)
    for mode in definition.modes:
        assert set(bench.round(mode, ["megafm"])) == {"megafm"}
        sizes = definition.quick[shape]
        assert definition.work(sizes, DTYPES[dtype].itemsize, mode).bytes > 0


def make_bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setenv("BENCH_DEVICE", "cpu")
    monkeypatch.setenv("BENCH_THREADS", "1")
    return Bench()


def test_a_wrong_or_failing_provider_is_marked_and_not_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no such kernel\nsecond line")

    sizes = {"shape": {"rows": 4}}
    double = Op(
        name="double",
        shapes=sizes,
        gpu=sizes,
        quick=sizes,
        inputs=lambda sizes, dtype, device: Inputs(
            (normal(sizes["rows"], dtype=dtype, device=device),)
        ),
        ours=lambda x: 2 * x,
        eager={"triple": lambda x: 3 * x, "nan": lambda x: x * float("nan"), "failing": failing},
        compiled=(),
        exact=lambda x: 2 * x,
        work=lambda sizes, size, mode: Work(1),
    )
    monkeypatch.setattr("benchmarks.ops.worker.load", lambda name: double)
    bench = make_bench(monkeypatch)
    states = bench.prepare("double", "shape", "fp32", quick=True, wanted=[], check=True)
    assert states["megafm"] == {"kind": "ours", "error": None}
    assert states["triple"]["error"].startswith("wrong: value 0")
    assert states["nan"]["error"].startswith("wrong: value 0")
    assert states["failing"]["error"] == "RuntimeError: no such kernel"
    assert set(bench.round(FORWARD, list(states))) == {"megafm"}


def test_the_check_sees_a_wrong_gradient() -> None:
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, d_y):
            return d_y / 2

    inputs = Inputs((normal(8, dtype=torch.float32, device=CPU),))
    truth = list(autograd_runs(lambda x: x.clone(), inputs.doubled())[BOTH]())
    right = autograd_runs(lambda x: x.clone(), inputs)[BOTH]()
    wrong = autograd_runs(Halved.apply, inputs)[BOTH]()
    assert difference(right, truth, TOLERANCE["fp32"]) is None
    assert "value 1" in (difference(wrong, truth, TOLERANCE["fp32"]) or "")


def test_a_backward_alone_is_that_of_both_on_every_call() -> None:
    inputs = Inputs((normal(8, dtype=torch.float32, device=CPU),))
    runs = autograd_runs(lambda x: x.sin(), inputs)
    (gradient,) = runs[BACKWARD]()
    assert torch.equal(gradient, runs[BACKWARD]()[0]) and torch.equal(gradient, runs[BOTH]()[1])


@pytest.mark.parametrize("name", OPS)
def test_a_gpu_has_shapes_of_its_own_and_the_backward_alone(name: str) -> None:
    definition, gpu = load(name), torch.device("cuda")
    for shape, sizes in definition.shapes_on(gpu, quick=False).items():
        modes = definition.modes_of(shape, gpu)
        assert modes in {(FORWARD, BACKWARD, BOTH), ("step",)}
        work = {mode: definition.work_of(sizes, 2, mode) for mode in modes}
        assert all(w.bytes > 0 for w in work.values())
        if BACKWARD in modes:
            assert work[BACKWARD].flops == work[BOTH].flops - work[FORWARD].flops
        memory_bound = not any(w.flops for w in work.values())
        assert not memory_bound or max(w.bytes for w in work.values()) > 256 << 20


def test_rms_norm_with_a_residual_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    definition = load("rms_norm")
    monkeypatch.setitem(definition.quick, "sum", {"rows": 8, "dim": 32, "residual": 1})
    states = make_bench(monkeypatch).prepare(
        "rms_norm", "sum", "fp32", quick=True, wanted=["megafm", "F.rms"], check=True
    )
    assert states["megafm"]["error"] is None and states["F.rms_norm"]["error"] is None


def test_quantiles() -> None:
    assert quantiles([5.0, 1.0, 4.0, 2.0, 3.0, 6.0]) == (2.0, 3.5, 5.0)
    assert quantiles([7.0, 7.0]) == (7.0, 7.0, 7.0)


def row(name: str, kind: str, malloc: str, seconds: float) -> dict:
    times = {"median_s": seconds, "q20_s": seconds, "q80_s": seconds}
    return {"name": name, "kind": kind, "malloc": malloc, "rounds": 3} | times


def result_of(ours: float, peers: list[dict]) -> dict:
    case = {"shape": "4096x1024", "dtype": "fp32", "threads": 1, "mode": BOTH}
    providers = [row("megafm", "ours", "tuned", ours), row("megafm", "ours", "default", 0.1)]
    cell = case | {"sizes": {}, "bytes": 6e9, "flops": 0, "providers": providers + peers}
    ceiling = {"threads": 1, "dtype": "fp32", "copy_bytes_per_s": 6e9, "matmul_flops_per_s": 1e11}
    result = {"op": "rms_norm", "cells": [cell], "ceilings": [ceiling], "memory": None}
    return result | {"bars": report.verdicts(result), "hardware": {"device": "a CPU"}}


def test_the_best_peer_is_taken_over_both_allocators() -> None:
    peers = [
        row("F.rms_norm", "eager", "default", 9.0),
        row("F.rms_norm", "eager", "tuned", 6.0),
        row("compiled F.rms_norm", "compiled", "default", 5.0),
        {"name": "written out", "kind": "eager", "error": "wrong: value 0"},
    ]
    result = result_of(2.0, peers)
    (judged,) = result["bars"]
    assert (judged["best"], judged["ratio"], judged["eager_ratio"]) == (
        "compiled F.rms_norm",
        2.5,
        3.0,
    )
    assert judged["bar"] == 2.0 and judged["met"]
    assert judged["at_most"] == 5.0  # its 5 s over the second that 6 GB take at 6 GB/s
    assert report.rate(result, result["cells"][0], 2.0) == (3.0, "GB/s", 0.5)
    assert report.verdict(result) == "rms_norm: bars: 1 of 1 met"
    console = Console(record=True, width=200)
    report.show(result, console)
    shown = console.export_text()
    assert "2.50 of 2.0" in shown and "written out (fp32): not ranked: wrong" in shown


def test_a_missed_bar_and_a_case_slower_than_eager_are_said() -> None:
    verdict = report.verdict(result_of(2.0, [row("F.rms_norm", "eager", "tuned", 1.5)]))
    assert "0 of 1 met" in verdict and "fp32 1t 0.75 < 2.0" in verdict
    assert "slower than eager: 4096x1024" in verdict


def test_every_bar_is_of_a_benchmarked_case() -> None:
    for bar in BARS:
        definition = load(bar.op)
        assert bar.mode in definition.modes
        assert any(bar_of(bar.op, bar.dtype, bar.mode, shape) for shape in definition.shapes)


def test_without_a_checkout_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="suite=ops: benchmarks/ is not in the installed package"):
        import_suite("ops", tmp_path)


def test_the_cpu_clock_is_for_one_thread() -> None:
    with pytest.raises(ValueError, match="clock=cpu.*threads=\\[1\\]"):
        BenchJob(clock="cpu")
    assert BenchJob(clock="cpu", threads=(1,)).clock == "cpu"


def test_an_unknown_op_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean rms_norm"):
        choose(("rmsnorm",), OPS)
    assert choose((), OPS) == OPS
