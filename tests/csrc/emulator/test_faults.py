"""Each class of mistake, planted in a kernel, is reported; the kernel without it runs."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from tests.csrc.emulator.library import Library

RACE = "race with thread .*nothing orders the two"
REPORTS = {
    "missing_barrier": f"reads shared word .*{RACE}",
    "missing_barrier_before_reuse": f"(reads|writes).*{RACE}",
    "missing_syncwarp": f"reads shared word .*{RACE}",
    "partial_named_barrier": f"reads shared word .*{RACE}",
    "shared_word": f"(reads|writes).*{RACE}",
    "atomics": f"(reads|updates|writes).*{RACE}",
    "uninitialised": "thread \\(7, 0, 0\\).*uninitialised, shared word 7 ",
    "uninitialised_byte": "uninitialised, shared word",
    "shared_out_of_bounds": "4 bytes at shared address 2048 are outside",
    "static_out_of_bounds": "outside",
    "shared_misaligned": "shared address 1028 is not a multiple of 8",
    "global_misaligned": "global address .* is not a multiple of 16",
    "global_out_of_bounds": "16 bytes at .* lie in no registered range",
    "atomic_out_of_bounds": "4 bytes at .* lie in no registered range",
    "deadlock": "deadlock.*warp 0, lanes 0 .*: __syncthreads\n.*warp 1.*named barrier 2 of 64",
    "part_of_a_warp": "deadlock.*lanes 0 .*30: __shfl_xor_sync.*lanes 31: __syncthreads",
    "different_collectives": "(__syncwarp|__ballot_sync) with mask ffffffff, while lanes",
    "mask_without_caller": "__reduce_add_sync: the mask lacks the caller",
    "shuffle_from_absent_lane": "lane 0 shuffles from lane 16, which does not take part",
    "arrival_left_over": "ended with 32 of 64 arrivals at named barrier 4",
    "different_counts": "barrier 5 was entered for 96 threads, now for 64",
    "copy_not_waited_for": "reads shared word 64 .*asynchronous copy to it is not waited for",
    "copy_without_barrier": "reads shared word",
    "copy_left_over": "ended with 1 cp.async of thread 0 not waited for",
    "copy_out_of_bounds": "16 bytes at .* lie in no registered range",
    "copy_over_what_is_read": f"(reads|writes).*{RACE}",
    "matrix_row_misaligned": "shared address 1032 is not a multiple of 16",
}


def run(library: Library, name: str, planted: bool) -> None:
    memory = np.zeros(68, np.float32)
    begin = -memory.ctypes.data % 16 // 4
    library("run_fault", ctypes.c_char_p(name.encode()), int(planted), memory[begin : begin + 64])


@pytest.mark.parametrize("name", REPORTS)
def test_a_planted_bug_is_reported(emulated: Library, name: str) -> None:
    with pytest.raises(RuntimeError, match=f"(?s){REPORTS[name]}"):
        run(emulated, name, planted=True)


@pytest.mark.parametrize("name", REPORTS)
def test_without_the_bug_nothing_is_reported(emulated: Library, name: str) -> None:
    run(emulated, name, planted=False)


def test_nor_in_another_order_of_threads(seeded: Library) -> None:
    for name in REPORTS:
        run(seeded, name, planted=False)
