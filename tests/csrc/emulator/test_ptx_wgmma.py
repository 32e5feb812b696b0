"""wgmma against the PTX ISA's canonical layouts, descriptors and fragments."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from tests.csrc.emulator.library import Library, aligned, bits_of

SWIZZLES = {"none": 0, "b32": 1, "b64": 2, "b128": 3}
K = 32  # two instructions


class Image(NamedTuple):
    """A matrix of 16-bit elements, outer x K, as it lies in shared memory; offsets in bytes."""

    memory: np.ndarray
    leading: int
    stride: int
    advance: int  # by 16 along K


def image_of(matrix: np.ndarray, swizzle: int, transposed: bool) -> Image:
    """PTX ISA, "Canonical Layouts" of wgmma, in units of T = 8 elements or 16 bytes:

    K major:    ((8,m),(T,2k)):((1T,SBO),(1,LBO)), swizzled ((8,m),(T,2k)):((ST,SBO),(1,T))
    transposed: ((T,1,m),(8,k)):((1,T,SBO),(1T,LBO)), swizzled ((T,S,m),(8,k)):((1,T,LBO),(ST,SBO))

    with S = 2, 4, 8 chunks in a row for 32, 64, 128 bytes, under Swizzle<1, 2 or 3, 4, 3>.
    """
    outer = len(matrix)
    chunks = 1 << swizzle
    m, k = np.meshgrid(np.arange(outer), np.arange(K), indexing="ij")
    if not transposed and swizzle == 0:
        leading, stride, advance = 128, 128 * K // 8, 256
        at = m % 8 * 16 + m // 8 * stride + k % 8 * 2 + k // 8 * leading
    elif not transposed:
        # Rows narrower than K lie in several such matrices, one behind the other.
        width = 8 * chunks
        stride, whole = 128 * chunks, outer * 16 * chunks
        leading, advance = 0, 32 if width > 16 else whole
        at = m % 8 * 16 * chunks + m // 8 * stride + k % width * 2 + k // width * whole
    elif swizzle == 0:
        stride, leading = 128, 128 * outer // 8
        advance = 2 * leading
        at = m % 8 * 2 + m // 8 * stride + k % 8 * 16 + k // 8 * leading
    else:
        width = 8 * chunks
        stride, leading = 128 * chunks, 128 * chunks * K // 8
        advance = 2 * stride
        at = m % width * 2 + m // width * leading + k % 8 * 16 * chunks + k // 8 * stride
    at = at ^ ((at >> 7 & (chunks - 1)) << 4)
    memory = np.zeros((at.max() // 1024 + 1) * 512, np.uint16)
    memory[at // 2] = matrix
    return Image(aligned(memory), leading, stride, advance)


def matrices(n: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    a = torch.randn(64, K, generator=generator).to(dtype)
    return a, torch.randn(n, K, generator=generator).to(dtype)


def assert_product(sums: np.ndarray, a: torch.Tensor, b: torch.Tensor) -> None:
    """PTX ISA, "WGMMA .m64nNk16 register fragment layout for accumulator matrix D"."""
    n = len(b)
    thread, i = np.meshgrid(np.arange(128), np.arange(n // 2), indexing="ij")
    warp, lane = thread // 32, thread % 32
    row = 16 * warp + lane // 4 + 8 * (i // 2 % 2)
    column = 8 * (i // 4) + 2 * (lane % 4) + i % 2
    expected = (a.double() @ b.double().T).numpy()[row, column]
    np.testing.assert_allclose(sums, expected, rtol=0, atol=2e-5)


def arguments(swizzle: int, a: Image | None, b: Image) -> np.ndarray:
    values = [swizzle]
    for image in (a, b):
        values += (
            [image.memory.nbytes, image.leading, image.stride, image.advance] if image else [0] * 4
        )
    return np.array(values, np.int32)


@pytest.mark.parametrize("mode", SWIZZLES)
@pytest.mark.parametrize(("n", "transposed_a", "transposed_b"), [
    (32, 0, 0), (64, 0, 0), (96, 0, 0), (128, 0, 0), (192, 0, 0), (256, 0, 0),
    (64, 1, 0), (64, 0, 1), (64, 1, 1),
])  # fmt: skip
def test_wgmma_of_shared_memory(
    kernels_sm90: Library, n: int, transposed_a: int, transposed_b: int, mode: str
) -> None:
    a, b = matrices(n, torch.bfloat16)
    swizzle = SWIZZLES[mode]
    a_image = image_of(bits_of(a), swizzle, bool(transposed_a))
    b_image = image_of(bits_of(b), swizzle, bool(transposed_b))
    sums = np.empty((128, n // 2), np.float32)
    layout = arguments(swizzle, a_image, b_image)
    operands = layout, a_image.memory, b_image.memory, sums
    kernels_sm90("run_wgmma_shared", 1, n, transposed_a, transposed_b, *operands)
    assert_product(sums, a, b)


def test_wgmma_of_fp16(kernels_sm90: Library) -> None:
    a, b = matrices(128, torch.float16)
    a_image, b_image = image_of(bits_of(a), 3, False), image_of(bits_of(b), 3, False)
    sums = np.empty((128, 64), np.float32)
    layout = arguments(3, a_image, b_image)
    kernels_sm90("run_wgmma_shared", 0, 128, 0, 0, layout, a_image.memory, b_image.memory, sums)
    assert_product(sums, a, b)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("transposed_b", [0, 1])
@pytest.mark.parametrize("n", [64, 128])
def test_wgmma_of_registers(
    kernels_sm90: Library, n: int, transposed_b: int, dtype: torch.dtype
) -> None:
    a, b = matrices(n, dtype)
    b_image = image_of(bits_of(b), 3, bool(transposed_b))
    thread, step, i = np.meshgrid(np.arange(128), np.arange(2), np.arange(8), indexing="ij")
    warp, lane = thread // 32, thread % 32
    # PTX ISA, "WGMMA .m64k16 register fragment layout for matrix A".
    row = 16 * warp + lane // 4 + 8 * (i // 2 % 2)
    column = 16 * step + 2 * (lane % 4) + i % 2 + 8 * (i // 4)
    fragment = np.ascontiguousarray(bits_of(a)[row, column])
    sums = np.empty((128, n // 2), np.float32)
    layout = arguments(3, None, b_image)
    is_bf16 = int(dtype == torch.bfloat16)
    kernels_sm90(
        "run_wgmma_registers", is_bf16, n, transposed_b, layout, fragment, b_image.memory, sums
    )
    assert_product(sums, a, b)
