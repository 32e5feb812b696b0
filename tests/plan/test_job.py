from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from megafm.config import compose
from megafm.plan.config import PlanJob
from megafm.plan.job import plan
from megafm.plan.memory import CATEGORIES
from megafm.plan.report import size, verdict
from megafm.plan.step import Observed

SMALL = ["model.dim=32", "model.num_layers=2", "model.num_heads=4", "model.num_kv_heads=2"]
SMALL += ["model.head_dim=8", "model.ffn_dim=48", "model.vocab_size=64", "model.max_seq_len=64"]
SMALL += ["train.seq_len=64", "train.global_batch_size=8", "train.precision=fp32", "device=cpu"]


def run(tmp_path: Path, *overrides: str) -> None:
    plan(compose("plan", PlanJob, [*SMALL, f"run.dir={tmp_path}", *overrides]))


def test_two_ranks_as_json_with_a_picture_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tmp_path, "parallel=tensor", "world_size=4", "rank=[0,3]", "format=json")
    reports = json.loads(capsys.readouterr().out)["ranks"]
    assert [report["rank"] for report in reports] == [0, 3]
    assert reports[1]["place"] == {"dp_replicate": "1 of 2", "tp": "1 of 2"}
    for report in reports:
        assert sum(report["at_peak"].values()) == report["peak"]
        assert report["verdict"] is None
        assert Path(report["picture"]).stat().st_size > 10_000


def test_packing_has_no_effect_and_says_so(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="data.packing=best_fit has no effect in a plan"):
        run(tmp_path, "data.packing=best_fit", "format=json")


def test_table_and_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, "device_memory_gb=0.001")
    shown = capsys.readouterr().out
    assert shown.startswith("rank 0 of 1, cpu, float32\n")
    assert "activations" in shown and "traffic" not in shown
    assert "does not fit: " in shown and "set a smaller train.micro_batch_size" in shown


def test_how_tokens_went_to_experts_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(
        tmp_path,
        "+model.moe.num_experts=4",
        "world_size=2",
        "parallel=experts",
        "parallel.ep=2",
        "rank=1",
    )
    shown = capsys.readouterr().out
    assert shown.startswith("rank 1 of 2 (dp_shard 1 of 2, ep 1 of 2), cpu, float32\n")
    assert "routing: even, tokens x 2 / 4 for each expert" in shown


@pytest.mark.parametrize(
    ("gigabytes", "says"),
    [
        (4, "fits: 3.00 GB of 4 GB; 1.00 GB are left"),
        (3, "fits: "),
        (2.9, "does not fit: 3.00 GB of 2.9 GB, most of it optimizer; set more parallel.dp_shard"),
    ],
)
def test_verdict(gigabytes: float, says: str) -> None:
    alive = np.zeros((2, len(CATEGORIES)), dtype=np.int64)
    alive[1, :2] = int(1e9), int(2e9)  # parameters, optimizer
    assert verdict(Observed(alive, [], {}), gigabytes).startswith(says)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dry_run=false"], "dry_run=false: there is no other plan yet; set dry_run=true"),
        (["world_size=0"], "world_size=0: must be at least 1"),
        (["rank=2", "world_size=2"], "rank=2: the world has 2; set 0 to 1"),
        (["rank=[]"], "rank=[]: no rank"),
        (["device_memory_gb=0"], "device_memory_gb=0"),
        (["parallel.tp=3"], "parallel.tp=3: does not divide model.num_heads=4"),
        (["world_size=3"], "train.global_batch_size=8: not a multiple of the 3"),
    ],
)
def test_what_cannot_be_planned_is_refused(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError) as error:
        run(tmp_path, *overrides)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("num_bytes", "text"), [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (5e9, "5.00 GB")]
)
def test_sizes(num_bytes: float, text: str) -> None:
    assert size(num_bytes) == text
