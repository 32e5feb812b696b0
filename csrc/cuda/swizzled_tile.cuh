// Matrices in shared memory as bulk tensor copies move them, and products of those of 16-bit elements
// by wgmma.

#pragma once

#include "cuda/ptx_wgmma.cuh"
#include "cuda/warp_tile.cuh"

namespace megafm::cuda {

// rows x cols: boxes of `box_cols` columns one after the other, each row of a box as long as the
// swizzle. `begin`, in shared memory, is a multiple of 1024 bytes.
template <typename T, int rows_, int cols_,
          uint32_t row_bytes_ = cols_ * sizeof(T) % 128 == 0 ? 128 : 64>
struct SwizzledTile {
  using Element = T;
  static constexpr int rows = rows_;
  static constexpr int cols = cols_;
  static constexpr uint32_t row_bytes = row_bytes_;
  static constexpr Swizzle swizzle = row_bytes == 128 ? Swizzle::b128 : Swizzle::b64;
  static constexpr int box_cols = row_bytes / sizeof(T);
  static constexpr uint32_t box_bytes = rows * row_bytes;
  static constexpr uint32_t bytes = rows * cols * sizeof(T);
  static_assert(cols % box_cols == 0 && box_bytes % 1024 == 0);

  uint32_t begin;

  // From a tensor, whose first dimension is that of the columns; `corner` is in the others. What is not
  // there becomes zeros.
  template <typename... Corner>
  __device__ __forceinline__ void load(const CUtensorMap* map, uint32_t mbarrier,
                                       Corner... corner) const {
#pragma unroll
    for (int box = 0; box < cols / box_cols; ++box) {
      tma_load(begin + box * box_bytes, map, mbarrier, {box * box_cols, corner...});
    }
  }

  // The same way back, to columns from `col` on; by one thread, whose group it joins.
  template <typename... Corner>
  __device__ __forceinline__ void store(const CUtensorMap* map, int col, Corner... corner) const {
#pragma unroll
    for (int box = 0; box < cols / box_cols; ++box) {
      tma_store(map, begin + box * box_bytes, {col + box * box_cols, corner...});
    }
  }

  // The same, added to what is there.
  template <typename... Corner>
  __device__ __forceinline__ void add(const CUtensorMap* map, int col, Corner... corner) const {
#pragma unroll
    for (int box = 0; box < cols / box_cols; ++box) {
      tma_reduce_add(map, begin + box * box_bytes, {col + box * box_cols, corner...});
    }
  }

  // The matrix of the rows from `row` (a multiple of 8) on, whose k goes along the columns, to
  // advance by along_columns_step(k).
  __device__ __forceinline__ uint64_t along_columns(int row) const {
    // The first stride is not looked at.
    return wgmma_matrix(begin + row * row_bytes, 16, 8 * row_bytes, swizzle);
  }
  __device__ static constexpr uint64_t along_columns_step(int k) {
    return (k / box_cols * box_bytes + k % box_cols * sizeof(T)) >> 4;
  }

  // The matrix of the columns from `col` (a box's first) on, whose k goes along the rows.
  __device__ __forceinline__ uint64_t along_rows(int col) const {
    return wgmma_matrix(begin + col / box_cols * box_bytes, box_bytes, 8 * row_bytes, swizzle);
  }
  __device__ static constexpr uint64_t along_rows_step(int k) { return k * row_bytes >> 4; }

  // The address of up to 16 bytes of a row.
  __device__ __forceinline__ uint32_t at(int row, int col) const {
    const uint32_t address =
        begin + col / box_cols * box_bytes + row * row_bytes + col % box_cols * sizeof(T);
    return address ^ (address >> 7 & (row_bytes / 16 - 1)) << 4;
  }
};

// The map of (batch, seq, heads, dim) for tiles of that kind.
template <typename Tile, typename T>
CUtensorMap tile_map(const T* data, int64_t batch, int64_t seq, int64_t heads, int64_t dim,
                     const int64_t (&strides)[3]) {
  const auto bytes = [](int64_t elements) { return static_cast<uint64_t>(elements) * sizeof(T); };
  return make_tensor_map<T, 4>(data,
                               {static_cast<uint64_t>(dim), static_cast<uint64_t>(seq),
                                static_cast<uint64_t>(heads), static_cast<uint64_t>(batch)},
                               {bytes(strides[0]), bytes(strides[1]), bytes(strides[2])},
                               {Tile::box_cols, Tile::rows, 1, 1}, Tile::swizzle);
}

// What follows issues wgmma without a commit. Operands are parts of tiles, from a row or column on
// that is a multiple of 8, or the first of a box.

// sum = left right^T, both along their columns: 64 rows of the one, 8 n of the other.
template <typename Left, typename Right, int n>
__device__ __forceinline__ void multiply_rows(Sum<1, n>& sum, Left left, int left_row, Right right,
                                              int right_row) {
  static_assert(Left::cols == Right::cols);
  const uint64_t a = left.along_columns(left_row), b = right.along_columns(right_row);
#pragma unroll
  for (int k = 0; k < Left::cols; k += 16) {
    wgmma<8 * n, typename Left::Element>(sum.flat(), a + Left::along_columns_step(k),
                                         b + Right::along_columns_step(k), k > 0);
  }
}

// sum = left^T right, both along their rows: 64 columns of the one, 8 n of the other.
template <typename Left, typename Right, int n>
__device__ __forceinline__ void multiply_columns(Sum<1, n>& sum, Left left, int left_col,
                                                 Right right, int right_col) {
  static_assert(Left::rows == Right::rows);
  const uint64_t a = left.along_rows(left_col), b = right.along_rows(right_col);
#pragma unroll
  for (int k = 0; k < Left::rows; k += 16) {
    wgmma<8 * n, typename Left::Element, true, true>(
        sum.flat(), a + Left::along_rows_step(k), b + Right::along_rows_step(k), k > 0);
  }
}

// sum += left right: all 64 rows of the one, 8 n columns of the other.
template <typename Left, typename Right, int n>
__device__ __forceinline__ void add_product(Sum<1, n>& sum, Left left, Right right, int col) {
  static_assert(Left::rows == 64 && Left::cols == Right::rows);
  const uint64_t a = left.along_columns(0), b = right.along_rows(col);
#pragma unroll
  for (int k = 0; k < Left::cols; k += 16) {
    wgmma<8 * n, typename Left::Element, false, true>(
        sum.flat(), a + Left::along_columns_step(k), b + Right::along_rows_step(k), true);
  }
}

// The same with the left operand in registers.
template <typename Right, int n, int steps>
__device__ __forceinline__ void add_product(Sum<1, n>& sum, const Fragment (&left)[steps][1],
                                            Right right, int col) {
  static_assert(Right::rows == 16 * steps);
  const uint64_t b = right.along_rows(col);
#pragma unroll
  for (int step = 0; step < steps; ++step) {
    wgmma<8 * n, typename Right::Element, true>(sum.flat(), left[step][0].word,
                                                b + Right::along_rows_step(16 * step), true);
  }
}

}  // namespace megafm::cuda
