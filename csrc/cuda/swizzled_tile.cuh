// Matrices of 16-bit elements in shared memory as bulk tensor copies bring them and wgmma reads them.

#pragma once

#include "cuda/ptx_wgmma.cuh"
#include "cuda/warp_tile.cuh"

namespace megafm::cuda {

// rows x cols: boxes of `box_cols` columns one after the other, each row of a box as long as the
// swizzle. `begin`, in shared memory, is a multiple of 1024 bytes.
template <typename T, int rows_, int cols_>
struct SwizzledTile {
  static constexpr int rows = rows_;
  static constexpr int cols = cols_;
  static constexpr int box_cols = cols % 64 == 0 ? 64 : 32;
  static constexpr Swizzle swizzle = box_cols == 64 ? Swizzle::b128 : Swizzle::b64;
  static constexpr uint32_t row_bytes = box_cols * 2;
  static constexpr uint32_t box_bytes = rows * row_bytes;
  static constexpr uint32_t bytes = rows * cols * 2;
  static_assert(sizeof(T) == 2 && cols % box_cols == 0 && box_bytes % 1024 == 0);

  uint32_t begin;

  // Rows from `row` on of a head; those and the columns that are not there become zeros.
  __device__ __forceinline__ void load(const CUtensorMap* map, uint32_t mbarrier, int row, int head,
                                       int batch) const {
#pragma unroll
    for (int box = 0; box < cols / box_cols; ++box) {
      tma_load(begin + box * box_bytes, map, mbarrier, {box * box_cols, row, head, batch});
    }
  }

  // The same way back; by one thread, whose group it joins.
  __device__ __forceinline__ void store(const CUtensorMap* map, int row, int head,
                                        int batch) const {
#pragma unroll
    for (int box = 0; box < cols / box_cols; ++box) {
      tma_store(map, begin + box * box_bytes, {box * box_cols, row, head, batch});
    }
  }

  // The matrix whose k goes along the columns, to advance by along_columns_step(k).
  __device__ __forceinline__ uint64_t along_columns() const {
    return wgmma_matrix(begin, 16, 8 * row_bytes, swizzle);  // the first stride is not looked at
  }
  __device__ static constexpr uint64_t along_columns_step(int k) {
    return (k / box_cols * box_bytes + k % box_cols * 2) >> 4;
  }

  // The matrix whose k goes along the rows.
  __device__ __forceinline__ uint64_t along_rows() const {
    return wgmma_matrix(begin, box_bytes, 8 * row_bytes, swizzle);
  }
  __device__ static constexpr uint64_t along_rows_step(int k) { return k * row_bytes >> 4; }

  // The address of 8 elements in a row.
  __device__ __forceinline__ uint32_t at(int row, int col) const {
    const uint32_t address =
        begin + col / box_cols * box_bytes + row * row_bytes + col % box_cols * 2;
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

}  // namespace megafm::cuda
