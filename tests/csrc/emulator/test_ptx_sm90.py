"""mbarriers and bulk copies of csrc/cuda/ptx_sm90.cuh against the PTX ISA."""

from __future__ import annotations

import numpy as np
import pytest

from tests.csrc.emulator.library import Library, aligned

# Rank, sizes, box, corner; dimension 0, the contiguous one, first. Boxes stick out at every side.
TILES = {
    "inside": ((64, 20), (32, 8), (32, 8)),
    "below": ((64, 20), (32, 8), (0, 16)),
    "left": ((64, 20), (32, 8), (-8, -3)),
    "right": ((44, 20), (32, 8), (32, 2)),
    "outside": ((64, 20), (32, 8), (64, 0)),
    "rank3": ((40, 6, 5), (32, 4, 2), (4, 3, 4)),
    "rank4": ((36, 3, 4, 3), (32, 2, 2, 2), (-1, 1, 3, 1)),
    "rank5": ((32, 2, 3, 2, 3), (32, 2, 2, 1, 2), (0, 1, 2, 1, -1)),
}
SWIZZLES = {"none": (0, 0), "b32": (1, 1), "b64": (2, 3), "b128": (3, 7)}


def box_of(tensor: np.ndarray, box: tuple[int, ...], corner: tuple[int, ...]) -> np.ndarray:
    """The box at `corner`, zeros outside the tensor; all with the contiguous dimension last."""
    out = np.zeros(box[::-1], tensor.dtype)
    for index in np.ndindex(*out.shape):
        at = [c + i for c, i in zip(corner[::-1], index, strict=True)]
        if all(0 <= a < size for a, size in zip(at, tensor.shape, strict=True)):
            out[index] = tensor[tuple(at)]
    return out


def swizzle(tile: np.ndarray, mask: int) -> np.ndarray:
    """Rows of floats as the copy engine lays them: chunk c of 16 bytes goes to c ^ (bits 7 up)."""
    chunks = tile.reshape(-1, 4)
    chunk = np.arange(len(chunks))
    out = np.empty_like(chunks)
    out[chunk ^ ((chunk >> 3) & mask)] = chunks
    return out.reshape(-1)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize("mode", SWIZZLES)
@pytest.mark.parametrize("name", TILES)
def test_tma_load(kernels_sm90: Library, name: str, mode: str) -> None:
    sizes, box, corner = TILES[name]
    value, mask = SWIZZLES[mode]
    if mode != "none":  # rows fill the swizzle's span
        box = (8 << (value - 1), *box[1:])
    tensor = aligned(np.arange(1, np.prod(sizes) + 1, dtype=np.float32).reshape(sizes[::-1]))
    image = np.empty(np.prod(box), np.float32)
    kernels_sm90(
        "run_load_tile", len(sizes), value, tensor, ints(*sizes), ints(*box), ints(*corner), image
    )
    np.testing.assert_array_equal(image, swizzle(box_of(tensor, box, corner), mask))


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("name", TILES)
def test_tma_store_and_reduce(kernels_sm90: Library, name: str, adds: bool) -> None:
    sizes, box, corner = TILES[name]
    value, mask = SWIZZLES["b128"]
    tensor = aligned(np.full(sizes[::-1], 0.5, np.float32))
    tile = np.arange(1, np.prod(box) + 1, dtype=np.float32).reshape(box[::-1])
    expected = tensor.copy()
    for index in np.ndindex(*tile.shape):
        at = tuple(c + i for c, i in zip(corner[::-1], index, strict=True))
        if all(0 <= a < size for a, size in zip(at, tensor.shape, strict=True)):
            expected[at] = tile[index] + (0.5 if adds else 0)
    image = swizzle(tile, mask)
    box_args = ints(*sizes), ints(*box), ints(*corner)
    kernels_sm90("run_store_tile", len(sizes), value, tensor, *box_args, image, int(adds))
    np.testing.assert_array_equal(tensor, expected)


def test_bulk_copies(kernels_sm90: Library) -> None:
    x, sums = aligned(np.arange(100, dtype=np.float32)), aligned(np.full(100, 0.5, np.float32))
    y = aligned(np.zeros(100, np.float32))
    kernels_sm90("run_copy_bulk", x, y, sums, len(x))
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(sums, x + 0.5)


def test_mbarriers_hand_slots_round(kernels_sm90: Library) -> None:
    x = np.arange(7 * 32, dtype=np.float32).reshape(7, 32)
    y = np.empty((7, 2, 32), np.float32)
    kernels_sm90("run_ring", x, y, len(x))
    np.testing.assert_array_equal(y, np.stack([x[:, ::-1]] * 2, axis=1))


def test_elect_one(kernels_sm90: Library) -> None:
    counts = np.zeros(3, np.int32)
    kernels_sm90("run_elections", counts)
    np.testing.assert_array_equal(counts, 1)


def test_setmaxnreg(kernels_sm90: Library) -> None:
    ids = np.zeros(384, np.int32)
    kernels_sm90("run_move_registers", ids)
    np.testing.assert_array_equal(ids, np.arange(384))
