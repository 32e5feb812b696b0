"""As test_faults.py, for mbarriers, bulk copies, wgmma and setmaxnreg."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from tests.csrc.emulator.library import Library, aligned

REPORTS = {
    "load_not_waited_for": "reads shared word 0 .*asynchronous copy to it is not waited for",
    "load_waited_for_by_another": "reads shared word 3[2-9] .*(asynchronous copy|did not wait on)",
    "load_over_what_is_read": "writes what was read before: .*race",
    "phase_missed": "two phases of the mbarrier at 9216 went by while it waited",
    "arrival_before_all_have_read": "writes what was read before: .*race",
    "too_many_bytes_expected": "deadlock.*mbarrier at 9216.*lacks 0 of 1 arrivals and 1024 b",
    "too_few_bytes_expected": "(deadlock|ended).*mbarrier at 9216: .* -512 bytes",
    "arrival_missing": "deadlock.*lacks 1 of 2 arrivals and 0 bytes",
    "too_many_arrivals": "arrives at the mbarrier at 9216 more often than its 64 times",
    "mbarrier_not_initialised": "arrival of the mbarrier at 9224, which is not initialised",
    "init_without_barrier": "nothing orders it behind the init by thread 0",
    "init_without_fence": "mbarrier at 9216, whose init no fence_mbarrier_init made visible",
    "write_over_mbarrier": "writes shared word 2049 .*an mbarrier lies there",
    "load_misaligned": "shared address 1088 is not a multiple of 128",
    "bulk_load_out_of_bounds": "32 bytes at .* lie in no registered range",
    "load_left_over": "ended with an mbarrier in use\n.*1 copies under way",
    "store_without_proxy_fence": "lets the async proxy read, without fence.proxy.async",
    "proxy_fence_too_late": "lets the async proxy read, without fence.proxy.async",
    "store_left_over": "ended with 1 bulk stores of thread 0 not waited for",
    "write_over_what_is_stored": "without fence.proxy.async|race",
    "wgmma_without_fence": "wgmma without wgmma_fence since the last wait",
    "wgmma_without_proxy_fence": "lets the async proxy read, without fence.proxy.async",
    "wgmma_left_over": "ended with wgmma of warp 0 not waited for",
    "wgmma_waited_for_too_early": "an accumulator was written while its wgmma was under way",
    "wgmma_operand_overwritten": "reads shared word .*race|without fence.proxy.async",
    "wgmma_differs_between_warps": "wgmma 0 differs from that of warp . of the warpgroup",
    "wgmma_of_three_warps": "ended with warps of a warpgroup that issued different numbers",
    "registers_beyond_the_budget": "deadlock.*setmaxnreg to 240, of 256 registers free",
    "registers_in_the_wrong_direction": "setmaxnreg from 168 to 128 registers",
}


def run(library: Library, name: str, planted: bool) -> np.ndarray:
    memory = aligned(np.ones((16, 32), np.float32))
    out = aligned(np.zeros(4096, np.float32))
    library("run_fault_sm90", ctypes.c_char_p(name.encode()), int(planted), memory, out)
    return out


@pytest.mark.parametrize("name", REPORTS)
def test_a_planted_bug_is_reported(emulated: Library, name: str) -> None:
    with pytest.raises(RuntimeError, match=f"(?s){REPORTS[name]}"):
        run(emulated, name, planted=True)


@pytest.mark.parametrize("name", [name for name in REPORTS if name != "wgmma_waited_for_too_early"])
def test_without_the_bug_nothing_is_reported(emulated: Library, name: str) -> None:
    run(emulated, name, planted=False)


def test_accumulators_are_nan_until_waited_for(emulated: Library) -> None:
    assert not np.isnan(run(emulated, "wgmma_waited_for_too_early", planted=False)).any()


def test_nor_in_another_order_of_threads(seeded: Library) -> None:
    for name in REPORTS:
        run(seeded, name, planted=False)
