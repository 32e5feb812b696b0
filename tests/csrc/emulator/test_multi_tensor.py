"""Which part of which tensor a block takes, at sizes that no test could allocate."""

from __future__ import annotations

import numpy as np

from tests.csrc.emulator.library import Library

CHUNK = 2048


def located(kernels: Library, sizes: list[int], blocks: list[int]) -> tuple[list[list[int]], int]:
    """[entry, start, count] of each block, and the blocks of all launches."""
    out = np.zeros(3 * len(blocks) + 1, np.int64)
    asked = np.array(blocks, np.int64)
    kernels("run_locate", np.array(sizes, np.int64), len(sizes), asked, len(blocks), out)
    return out[:-1].reshape(-1, 3).tolist(), int(out[-1])


def test_every_block_has_its_part(kernels: Library) -> None:
    sizes = [1, 0, 2048, 2049, 0, 5000]
    expected = [[0, 0, 1], [1, 0, 2048], [2, 0, 2048], [2, 2048, 1]]
    expected += [[3, 0, 2048], [3, 2048, 2048], [3, 4096, 904]]
    assert located(kernels, sizes, list(range(7))) == (expected, 7)


def test_indices_beyond_32_bits(kernels: Library) -> None:
    """A tensor of 2**40 elements between small ones."""
    blocks_of_it = 2**40 // CHUNK
    sizes = [5, 2**40 + 1, 7]
    asked = [1, 1 + 2**31 // CHUNK, blocks_of_it, 1 + blocks_of_it, 2 + blocks_of_it]
    found, total = located(kernels, sizes, asked)
    assert found == [
        [1, 0, CHUNK],
        [1, 2**31, CHUNK],
        [1, 2**40 - CHUNK, CHUNK],
        [1, 2**40, 1],
        [2, 0, 7],
    ]
    assert total == blocks_of_it + 3


def test_a_list_of_any_length_is_several_launches(kernels: Library) -> None:
    found, total = located(kernels, [3000] * 150, [0, 126, 127])
    assert found == [[0, 0, 2048], [63, 0, 2048], [63, 2048, 952]] and total == 300
