"""tools/gpu.py, tools/bundle.py and the summary, as far as they can be tried without a GPU."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tools"))
import bundle
import gpu

from benchmarks.gpu import summary
from benchmarks.ops import OPS

ROOT = Path(__file__).parent.parent
# What tools/gpu.py starts, and what of pytest's reach it.
IMPORTED = (
    "megafm.bench",
    "megafm.config",
    "benchmarks.ops.run",
    "benchmarks.ops.worker",
    "benchmarks.gpu.step",
    "benchmarks.gpu.summary",
    "tests.conftest",
    "tests.ops.cuda.conftest",
    "tests.csrc.emulator.conftest",
)


def say(text: str, seconds: float = 0, code: int = 0) -> list[str]:
    script = (
        f"import time; print({text!r}, flush=True); time.sleep({seconds}); raise SystemExit({code})"
    )
    return [sys.executable, "-c", script]


def test_a_slow_and_a_failing_part_leave_the_rest_its_time() -> None:
    todo = [
        gpu.Part("quick", 1, say("done")),
        gpu.Part("slow", 1, say("begun", seconds=60)),
        gpu.Part("failing", 1, say("bad kernel", code=3)),
        gpu.Part("last", 1, say("measured")),
    ]
    said: list[str] = []
    written: list[list[str]] = []
    began = time.monotonic()
    outcomes = gpu.run_all(
        todo,
        dict(os.environ),
        began + 4,
        lambda so_far: written.append([outcome.status for outcome in so_far]),
        said.append,
    )
    assert [o.status for o in outcomes] == ["ok", "out of time", "failed", "ok"]
    assert [o.last_lines for o in outcomes] == [["done"], ["begun"], ["bad kernel"], ["measured"]]
    assert time.monotonic() - began < 30 and "    bad kernel" in said
    statuses = [outcome.status for outcome in outcomes]
    assert written == [statuses[:count] for count in (1, 2, 3, 4)]


def test_the_end_of_it_all_ends_a_part_that_has_a_larger_budget() -> None:
    todo = [gpu.Part("long", 1000, say("begun", seconds=60)), gpu.Part("late", 1000, say("late"))]
    ends = time.monotonic() + 1002
    outcomes = gpu.run_all(todo, dict(os.environ), ends, lambda _: None, lambda _: None)
    assert [(o.status, o.limit) for o in outcomes] == [("out of time", 2), ("ok", 1000)]


def test_what_a_part_started_ends_with_it() -> None:
    """Else its output would stay open, and this would wait for it."""
    script = f"import subprocess; subprocess.run({say('nested', seconds=60)!r})"
    part = gpu.Part("nested", 1, [sys.executable, "-c", script])
    outcome = gpu.run(part, 1, dict(os.environ))
    assert outcome.status == "out of time" and outcome.seconds < 30


def test_what_holds_the_output_open_holds_up_nobody() -> None:
    """A child in a session of its own, which outlives its parent."""
    script = f"import subprocess; subprocess.Popen({say('', seconds=15)!r}, start_new_session=True)"
    outcome = gpu.run(gpu.Part("left", 1, [sys.executable, "-c", script]), 30, dict(os.environ))
    assert outcome.status == "ok" and outcome.seconds < 10


def test_what_a_part_leaves_running_ends() -> None:
    sleeper = say("", seconds=60)
    script = f"import subprocess; print(subprocess.Popen({sleeper!r}).pid)"
    outcome = gpu.run(gpu.Part("left", 1, [sys.executable, "-c", script]), 30, dict(os.environ))
    assert outcome.status == "ok"
    assert_gone(int(outcome.last_lines[0]))


def test_a_run_that_is_interrupted_ends_its_part(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    part = (
        f"import os, pathlib, time; pathlib.Path({str(told)!r}).write_text(f'{{os.getpid()}} ')\n"
        "time.sleep(60)"
    )
    script = (
        f"import os, sys; sys.path.insert(0, {str(ROOT / 'tools')!r}); import gpu\n"
        f"gpu.run(gpu.Part('part', 60, [sys.executable, '-c', {part!r}]), 60, dict(os.environ))"
    )
    run = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE)
    while not (told.exists() and told.read_text().endswith(" ")):
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    run.communicate()
    assert_gone(int(told.read_text()))


def assert_gone(pid: int) -> None:
    """Killed; whoever is its parent now may not have asked for it yet."""
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.05)
    pytest.fail(f"process {pid} still runs")


def test_all_parts_together_are_eight_minutes() -> None:
    todo = gpu.parts(Path("out"), rehearse=False)
    assert gpu.LIMIT == 8 * 60
    assert sum(part.budget for part in todo) <= gpu.LIMIT - gpu.SUMMARY
    assert set(gpu.OPS) == set(OPS) - {"linear"}  # torch's own product
    assert len({part.name for part in todo}) == len(todo)


def test_a_rehearsal_has_the_same_parts() -> None:
    real, tiny = (gpu.parts(Path("out"), rehearse) for rehearse in (False, True))
    assert [p.name for p in real if not p.name.startswith("step")] == [
        p.name for p in tiny if not p.name.startswith("step")
    ]
    assert len(real) == len(tiny)


def test_without_a_gpu_it_is_one_line() -> None:
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "tools" / "gpu.py")]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 1 and run.stdout == ""
    assert run.stderr.startswith("gpu: error: torch sees no CUDA device here")
    assert len(run.stderr.splitlines()) == 1


def test_the_bundle_holds_all_that_is_imported() -> None:
    """Beside what a machine with torch has: torch, triton, numpy and what torch needs."""
    script = (
        "import importlib, sys\n"
        "from importlib.machinery import PathFinder\n"
        "class Bare(PathFinder):\n"
        "    @classmethod\n"
        "    def find_spec(cls, name, path=None, target=None):\n"
        "        absent = name.partition('.')[0] in sys.argv[1:]\n"
        "        return None if absent else PathFinder.find_spec(name, path, target)\n"
        "sys.meta_path = [Bare if f is PathFinder else f for f in sys.meta_path]\n"
        f"for name in {IMPORTED}: importlib.import_module(name)\n"
    )
    of_torch = bundle.closure(["filelock", "sympy", "networkx", "jinja2", "fsspec", "setuptools"])
    there = {*bundle.closure(list(bundle.NEEDED)), *of_torch, *bundle.THERE, "megafm"}
    modules = importlib.metadata.packages_distributions()
    absent = {m for m, owners in modules.items() if not there & set(map(canonical, owners))}
    assert {"transformers", "tensorboard"} <= absent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tools")])}
    command = [sys.executable, "-c", script, *sorted(absent)]
    run = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr


def canonical(name: str) -> str:
    return name.lower().replace("_", "-")


def test_what_is_missing_without_a_bundle_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bundle, "missing", lambda: ["hydra-core"])
    monkeypatch.setattr(bundle, "ROOT", tmp_path)
    with pytest.raises(bundle.BundleError, match="no hydra-core here.*make bundle.*bring wheels"):
        bundle.install_missing(tmp_path / "wheels", tmp_path / "packages")
    monkeypatch.setattr(bundle, "missing", lambda: [])
    assert bundle.install_missing(tmp_path / "wheels", tmp_path / "packages") is None


def test_a_wheel_that_the_bundle_lacks_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    (wheels / "hydra_core-1.3.2-py3-none-any.whl").touch()
    monkeypatch.setattr(bundle, "ROOT", tmp_path)
    monkeypatch.setattr(bundle, "missing", lambda: ["hydra-core", "pyyaml"])
    with pytest.raises(bundle.BundleError, match="no wheel of pyyaml;.*make bundle.*bring wheels"):
        bundle.install_missing(wheels, tmp_path / "packages")


def test_a_wheel_that_does_not_fit_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is there, for another Python."""
    (tmp_path / "absent_here-1.0-cp27-cp27m-win32.whl").touch()
    monkeypatch.setattr(bundle, "missing", lambda: ["absent-here"])
    with pytest.raises(bundle.BundleError, match="wheel of absent_here is for Python 3.12.*pip"):
        bundle.install_missing(tmp_path, tmp_path / "packages")


def row(name: str, kind: str, seconds: float) -> dict[str, Any]:
    times = {"median_s": seconds, "q20_s": seconds, "q80_s": seconds}
    return {"name": name, "kind": kind, "malloc": "tuned", "rounds": 3} | times


def result(op: str, mode: str, shape: str, providers: list[dict[str, Any]]) -> dict[str, Any]:
    case = {"shape": shape, "dtype": "bf16", "threads": 1, "mode": mode, "sizes": {}}
    cell = case | {"bytes": 4e9, "flops": 0, "providers": providers}
    ceiling = {"threads": 1, "dtype": "bf16", "copy_bytes_per_s": 4e12, "matmul_flops_per_s": 8e14}
    head = {"hardware": {"device": "a GPU"}, "date": "today", "commit": "abc", "versions": {}}
    return head | {"op": op, "cells": [cell], "ceilings": [ceiling]}


def test_targets_are_met_and_missed() -> None:
    providers = [row("megafm cuda", "ours", 1e-3), row("megafm triton", "ours", 2e-3)]
    (met,) = summary.rows_of(result("swiglu", "bwd", "big", providers))
    assert met.met is True and met.own["cuda"] == (1e-3, 4000.0, 1.0)
    (missed,) = summary.rows_of(result("swiglu", "bwd", "big", [row("megafm cuda", "ours", 2e-3)]))
    assert missed.met is False
    peers = [row("cuDNN SDPA", "library", 1.5e-3), row("flash SDPA", "library", 0.5e-3)]
    (attention,) = summary.rows_of(result("attention", "fwd", "S1024 D128", providers + peers))
    assert attention.met is True and attention.peer is not None
    assert attention.peer[0] == "flash SDPA"
    (alone,) = summary.rows_of(result("attention", "fwd", "S1024 D128", providers))
    assert alone.met is None


def test_the_summary_tells_all_of_a_run(tmp_path: Path) -> None:
    providers = [row("megafm cuda", "ours", 1e-3), row("compiled F.silu", "compiled", 2e-3)]
    found = result("swiglu", "fwd", "16384x8192", providers)
    (tmp_path / "swiglu_gpu.json").write_text(json.dumps(found))
    step = {key: found[key] for key in ("hardware", "date", "commit", "versions")}
    step |= {"name": "megafm cuda", "parameters": 1.2e9, "tokens_per_s": 5e4, "mfu": 0.51}
    (tmp_path / "step_megafm_cuda.json").write_text(json.dumps(step | {"peak_memory_bytes": 2**36}))
    part = {"name": "tests", "status": "failed", "seconds": 3.0, "limit": 80}
    part |= {"last_lines": ["=== 2 failed, 300 passed in 2.9s ==="]}
    (tmp_path / "parts.json").write_text(json.dumps({"gpu": "a GPU", "parts": [part]}))
    text = summary.tables(tmp_path)
    assert "| `swiglu` | 16384x8192 | fwd | 1 ms, 4,000 GB/s, 100% |  |" in text
    assert "| 2.00 | 90% of the ceiling | yes |" in text
    assert "| megafm cuda | 1,200 M | 50,000 | 51.0% | 64.0 GiB | MFU 50% | yes |" in text
    assert "| tests: 2 failed, 300 passed in 2.9s | failed | 3.0 | 80 |" in text
    summary.draw(tmp_path)
    assert (tmp_path / summary.PICTURE).stat().st_size > 1000


def test_nothing_measured_is_said(tmp_path: Path) -> None:
    assert summary.tables(tmp_path) == "Nothing was measured."
