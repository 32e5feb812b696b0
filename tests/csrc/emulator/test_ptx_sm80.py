"""Every function of csrc/cuda/ptx.cuh itself against the tables of the PTX ISA, chapter 9.7.

The same kernels run on the emulator and, where there is one, on a GPU.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.csrc.emulator.library import Library, aligned, bits_of

TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def test_approximations(kernels: Library) -> None:
    x = np.array([0.25, 1.0, 1.5, 2.0, 3.75, 1e-3, 100.0], np.float32)
    y = np.empty((len(x), 4), np.float32)
    kernels("run_approximations", x, y, len(x))
    expected = np.stack([np.exp2(x), np.log2(x), np.tanh(x), 1 / x], axis=1)
    # tanh.approx.f32: relative error 2^-11; the others are better.
    np.testing.assert_allclose(y, expected, rtol=2**-10.9, atol=1e-6)


@pytest.mark.parametrize("dtype", TYPES)
def test_pack_rounds_to_nearest_even(kernels: Library, dtype: str) -> None:
    special = [0.0, -0.0, np.inf, -np.inf, 65504, 65519.99, 65520, 1e-7, 6e-8, -3e-8, 2.0**-14]
    ties = [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-11, 1 + 3 * 2.0**-11, 2.0**-25, 3 * 2.0**-25]
    random = np.random.default_rng(0).standard_normal(1000) * np.exp2(np.arange(1000) % 60 - 30)
    x = np.array([*special, *ties, 3.4e38, *random], np.float32)
    pairs = np.empty(len(x) // 2, np.uint32)
    kernels("run_packs", int(dtype == "bf16"), x, pairs, len(pairs))
    np.testing.assert_array_equal(
        pairs.view(np.uint16), bits_of(torch.from_numpy(x[: 2 * len(pairs)]).to(TYPES[dtype]))
    )


def test_named_barriers(kernels: Library) -> None:
    x = np.arange(96, dtype=np.float32)
    y = np.empty(32, np.float32)
    kernels("run_hand_over", x, y)
    np.testing.assert_array_equal(y, x[32:64] + x[64:])


@pytest.mark.parametrize(
    ("size", "source"), [(4, 4), (4, 2), (8, 8), (8, 4), (16, 16), (16, 8), (16, 0)]
)
def test_cp_async_fills_with_zeros(kernels: Library, size: int, source: int) -> None:
    x = np.random.default_rng(1).integers(1, 127, (128, size), np.int8)
    x, y = aligned(x), np.empty_like(x)
    kernels("run_copy_groups", size, source, x, y)
    expected = x.copy()
    expected[:, source:] = 0
    np.testing.assert_array_equal(y, expected)


def matrix_fragment(n: int, transposed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where in 8 n rows of 8 the halves of each lane's registers lie: rows and columns (32, n, 2).

    PTX ISA, ldmatrix: register i of lane l holds row l / 4, columns 2 (l % 4) and the next, of
    matrix i. The test kernel's addresses go backwards in odd matrices.
    """
    lane, i, half = np.meshgrid(range(32), range(n), range(2), indexing="ij")
    row, column = lane // 4, 2 * (lane % 4) + half
    if transposed:
        row, column = column, row
    row = np.where(i % 2 == 1, 7 - row, row)
    return 8 * i + row, column


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_ldmatrix(kernels: Library, n: int, transposed: bool) -> None:
    tile = np.arange(64 * n, dtype=np.uint16).reshape(8 * n, 8)
    registers = np.empty((32, n), np.uint32)
    kernels("run_load_matrices", n, int(transposed), tile, registers)
    expected = tile[matrix_fragment(n, transposed)]
    np.testing.assert_array_equal(registers.view(np.uint16).reshape(32, n, 2), expected)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_stmatrix(kernels_sm90: Library, n: int, transposed: bool) -> None:
    registers = np.arange(64 * n, dtype=np.uint16).reshape(32, n, 2)
    tile = np.empty((8 * n, 8), np.uint16)
    kernels_sm90("run_store_matrices", n, int(transposed), registers, tile)
    expected = np.empty_like(tile)
    expected[matrix_fragment(n, transposed)] = registers
    np.testing.assert_array_equal(tile, expected)


@pytest.mark.parametrize("dtype", TYPES)
def test_mma_m16n8k16(kernels: Library, dtype: str) -> None:
    """PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type"."""
    generator = torch.Generator().manual_seed(2)
    a = torch.randn(16, 16, generator=generator).to(TYPES[dtype])
    b = torch.randn(16, 8, generator=generator).to(TYPES[dtype])
    c = torch.randn(16, 8, generator=generator)
    lane, i = np.meshgrid(range(32), range(8), indexing="ij")
    group, thread = lane // 4, lane % 4
    row = np.where((i < 2) | ((i >= 4) & (i < 6)), group, group + 8)
    a_fragment = bits_of(a)[row, thread * 2 + (i & 1) + np.where(i >= 4, 8, 0)]
    lane, i = np.meshgrid(range(32), range(4), indexing="ij")
    group, thread = lane // 4, lane % 4
    b_fragment = bits_of(b)[thread * 2 + (i & 1) + np.where(i >= 2, 8, 0), group]
    place = np.where(i < 2, group, group + 8), thread * 2 + (i & 1)
    sums = np.ascontiguousarray(c.numpy()[place])
    kernels(
        "run_multiply",
        int(dtype == "bf16"),
        np.ascontiguousarray(a_fragment),
        np.ascontiguousarray(b_fragment),
        sums,
    )
    expected = a.double() @ b.double() + c.double()
    np.testing.assert_allclose(sums, expected.numpy()[place], rtol=0, atol=1e-5)
