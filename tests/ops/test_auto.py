"""The table that `auto` picks from."""

from __future__ import annotations

import pytest
import torch

from megafm.ops import auto


def test_a_rule_is_described_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = (
        auto.Rule("cpu", ("onednn", "cpu"), (torch.float32,), ("large",)),
        auto.Rule("cpu", ("cpu",)),
        auto.Rule("cuda", ("triton",)),
    )
    monkeypatch.setitem(auto.AUTO, "linear", rules)
    assert auto.described("linear", "cpu") == ["float32 large: onednn, cpu", "always: cpu"]
