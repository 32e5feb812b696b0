"""What kernels take from CUDA itself: warps, blocks, grids, atomics, 16-bit floats, launches."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tests.csrc.emulator.library import HERE, ROOT, Library, aligned


def test_warp_functions(kernels: Library) -> None:
    x = np.random.default_rng(3).integers(-1000, 1000, 32).astype(np.int32)
    out = np.empty((32, 19), np.int32)
    kernels("run_warp_functions", x, out)
    lane = np.arange(32)
    segment = lane // 8 * 8
    bits = x.view(np.uint32)

    def signed(value: int) -> int:
        return int(np.array(value, np.uint32).view(np.int32))

    expected = [
        x[5],
        x[(lane + 3) % 32],
        x[segment + 1],
        x[np.where(lane < 3, lane, lane - 3)],
        x[np.where(lane - 3 < segment, lane, lane - 3)],
        x[np.where(lane > 28, lane, lane + 3)],
        x[np.where(lane + 3 >= segment + 8, lane, lane + 3)],
        x[lane ^ 5],
        # A lane of a lower segment may be read, one of a higher segment not.
        x[np.where(lane ^ 12 < segment + 8, lane ^ 12, lane)],
        signed(sum(1 << i for i in lane if x[i] > 0)),
        1,
        0,
        x.sum(),
        x.min(),
        x.max(),
        signed(bits.max()),
        signed(np.bitwise_and.reduce(bits)),
        signed(np.bitwise_or.reduce(bits)),
        signed(np.bitwise_xor.reduce(bits)),
    ]
    for i, column in enumerate(expected):
        np.testing.assert_array_equal(out[:, i], np.broadcast_to(column, 32), err_msg=f"result {i}")


def test_atomics_on_global_and_shared_memory(kernels: Library) -> None:
    counters = np.array([100, 100, 100, 100, 100, -1, 100, 100], np.int32)
    total, shared = np.zeros(1, np.float32), np.empty(7, np.int32)
    kernels("run_atomics", counters, total, shared)
    threads = sum(range(96))
    of_block = [100 + threads, 100 - threads, -7, 950, 100 | 255, ~255, 42]
    np.testing.assert_array_equal(shared, of_block)
    np.testing.assert_array_equal(
        counters[:7], [100 + 4 * threads, 100 - 4 * threads, *of_block[2:]]
    )
    assert counters[7] > 100  # compare-and-swap: of 100, 101, ... in some order
    assert total[0] == 4 * 96 * 0.5


def test_block_votes(kernels: Library) -> None:
    out = np.empty(5, np.int32)
    kernels("run_block_votes", out)
    np.testing.assert_array_equal(out, [32, 1, 0, 1, 0])


def test_indices_of_grid_and_block(kernels: Library) -> None:
    out = np.empty((4, 3, 2, 2, 3, 5), np.int32)
    kernels("run_indices", out)
    z, y, x, thread_z, thread_y, thread_x = np.indices(out.shape)
    expected = x + 10 * y + 100 * z + 1000 * thread_x + 10000 * thread_y + 100000 * thread_z
    np.testing.assert_array_equal(out, expected)


def test_static_shared_arrays(kernels: Library) -> None:
    out = np.empty(3, np.int32)
    kernels("run_static_arrays", out)
    np.testing.assert_array_equal(out, 11264 + 1024)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_16_bit_float_is_widened(kernels: Library, dtype: torch.dtype) -> None:
    bits = aligned(np.arange(1 << 16, dtype=np.uint16))
    out = aligned(np.empty(1 << 16, np.float32))
    kernels("run_widen", int(dtype == torch.bfloat16), bits, out, len(bits))
    expected = torch.from_numpy(bits.view(np.int16)).view(dtype).float().numpy()
    np.testing.assert_array_equal(out, expected)  # NaN equals NaN


def order(library: Library) -> list[int]:
    """The threads of a block as they came to each of two places with a barrier between."""
    out = np.empty(128, np.int32)
    library("run_order", out)
    return out.tolist()


def test_threads_run_as_they_come(emulated: Library) -> None:
    assert order(emulated) == [*range(64), *range(64)]


def test_a_seed_gives_an_order_of_its_own(seeded: Library) -> None:
    once = order(seeded)
    assert once == order(seeded) and once[:64] != list(range(64)) != once[64:]
    assert sorted(once[:64]) == sorted(once[64:]) == list(range(64))


@pytest.mark.parametrize(
    ("blocks", "threads", "shared"), [(0, 32, 0), (1, 0, 0), (1, 1025, 0), (1, 32, 232449)]
)
def test_an_impossible_launch_is_refused(
    emulated: Library, blocks: int, threads: int, shared: int
) -> None:
    with pytest.raises(RuntimeError, match=f"invalid launch.*{threads} threads.*{shared} bytes"):
        emulated("run_nothing", blocks, threads, shared)


def test_every_ptx_function_has_a_case() -> None:
    ptx = "".join(path.read_text() for path in (ROOT / "csrc" / "cuda").glob("ptx*.cuh"))
    functions = set(re.findall(r"__device__ __forceinline__ \w+ (\w+)\(", ptx))
    assert len(functions) > 30
    cases = "".join(path.read_text() for path in HERE.glob("*_cases.cu"))
    assert functions <= set(re.findall(r"(\w+)(?:<[^;()]*>)?\(", cases))
