"""The table that `auto` picks from is the one that the committed benchmark results measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.ops import OPS
from benchmarks.ops.bars import NOT_SLOWER
from megafm.ops import auto

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "ops"
FILES = sorted(RESULTS.glob("*.json"))


def test_every_measured_op_has_a_result() -> None:
    assert {path.name.partition("_amd")[0] for path in FILES} >= set(OPS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_what_auto_picks_is_nowhere_slower_than_eager(path: Path) -> None:
    cases = json.loads(path.read_text(encoding="utf-8"))["bars"]
    slower = [case for case in cases if case["eager_ratio"] < NOT_SLOWER]
    assert cases and not slower


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_rule_is_newer_than_its_measurement(path: Path) -> None:
    result = json.loads(path.read_text(encoding="utf-8"))
    device = "cpu" if "EPYC" in result["hardware"]["device"] else "cuda"
    assert result["auto"] == auto.described(result["op"], device), (
        f"auto's table for {result['op']} changed: run megafm bench suite=ops only=[{result['op']}]"
    )
