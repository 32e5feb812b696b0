from __future__ import annotations

from benchmarks.parallel.scaling import BATCH, SEQ, cases


def test_efficiency_is_against_one_rank_and_communication_against_ranks_apart() -> None:
    one, apart, ddp = cases({"one": 2.0, "apart": 2.5, "ddp": 4.0})
    assert (one["tokens_per_s"], one["weak_scaling_efficiency"]) == (BATCH * SEQ / 2, 1.0)
    assert apart["weak_scaling_efficiency"] == 0.8 and apart["communication_share"] is None
    assert ddp["tokens_per_s"] == 2 * BATCH * SEQ / 4
    assert ddp["weak_scaling_efficiency"] == 0.5
    assert ddp["communication_share"] == 0.375
