from __future__ import annotations

from benchmarks.parallel.scaling import BATCH, SEQ, cases


def test_efficiency_is_against_one_rank_and_communication_against_ranks_apart() -> None:
    one, apart, ddp, tp = cases({"one": 2.0, "apart": 2.5, "ddp": 4.0, "tp": 1.6})
    assert (one["tokens_per_s"], one["efficiency"]) == (BATCH * SEQ / 2, 1.0)
    assert apart["efficiency"] == 0.8 and apart["communication_share"] is None
    assert ddp["tokens_per_s"] == 2 * BATCH * SEQ / 4
    assert (ddp["efficiency"], ddp["times_one_rank"]) == (0.5, 1.0)
    assert ddp["communication_share"] == 0.375
    assert (tp["times_one_rank"], tp["efficiency"]) == (1.25, 0.625)  # both on the same samples
    assert tp["communication_share"] == 0.219  # 1.25 of 1.6 seconds are half of apart's
