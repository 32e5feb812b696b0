// Matrix products of warps on tiles in shared memory: mma.sync m16n8k16 fed by ldmatrix.

#pragma once

#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"

namespace megafm::cuda {

// rows x cols of 16-bit elements. Chunks of 16 bytes are permuted within a row by its number, so
// that the 8 rows that ldmatrix or a store touches at once lie in different banks.
template <typename T, int rows_, int cols_>
struct Tile {
  static constexpr int rows = rows_;
  static constexpr int cols = cols_;
  static_assert(sizeof(T) == 2 && cols % 32 == 0);

  uint32_t begin;  // in the block's shared memory, bytes
  Shared<T> data = shared_memory<T>(begin);

  __device__ uint32_t end() const { return begin + rows * cols * 2; }

  __device__ Shared<T> at(int row, int col) const {
    constexpr int run = cols % 64 == 0 ? 8 : 4;  // chunks that change places
    const int flip = run == 8 ? row & 7 : (row >> 1) & 3;
    const int chunk = col >> 3, place = ((chunk & (run - 1)) ^ flip) + (chunk & ~(run - 1));
    return data + (row * cols + place * 8 + (col & 7));
  }
};

// Which chunks of a tile a thread moves: those of `col`, col + 8 * across, ... of the rows `row`,
// row + step, ...: a run of 64 or 128 bytes of a row by neighbours.
template <int num_threads, int cols>
struct Chunks {
  static constexpr int across = cols % 64 == 0 ? 8 : 4;
  static constexpr int step = num_threads / across;
  int row;
  int col;
  __device__ explicit Chunks(int thread) : row(thread / across), col(thread % across * 8) {}
};

// Rows [first, first + rows) of a matrix, asynchronously; zeros from row `end` and column `dim` on.
template <int num_threads, typename T, int rows, int cols>
__device__ __forceinline__ void copy_tile_async(Tile<T, rows, cols> to, const T* from,
                                                int64_t row_stride, int first, int end, int dim) {
  using Own = Chunks<num_threads, cols>;
  static_assert(rows % Own::step == 0);
  const Own own(threadIdx.x);
  const T* source = from + (first + own.row) * row_stride + own.col;
#pragma unroll
  for (int row = 0; row < rows; row += Own::step) {
    const bool row_there = first + own.row + row < end;
#pragma unroll
    for (int col = 0; col < cols; col += Own::across * 8) {
      const bool there = row_there && own.col + col < dim;
      cp_async<16>(shared_address(to.at(own.row + row, own.col + col)),
                   there ? source + col : from, there ? 16 : 0);
    }
    source += Own::step * row_stride;
  }
}

// `num_rows` rows of the tile, from `row_begin` on, to rows first + row_begin, ... of a matrix, but
// not to `end` and beyond; by the threads that are numbered here.
template <int num_threads, int num_rows, typename T, int rows, int cols>
__device__ __forceinline__ void store_tile(Tile<T, rows, cols> from, int row_begin, T* to,
                                           int64_t row_stride, int first, int end, int dim,
                                           int thread) {
  using Own = Chunks<num_threads, cols>;
  static_assert(num_rows % Own::step == 0);
  const Own own(thread);
  for (int row = row_begin + own.row; row < row_begin + num_rows; row += Own::step) {
    for (int col = own.col; col < cols; col += Own::across * 8) {
      if (first + row < end && col < dim) {
        store_vec(to + (first + row) * row_stride + col, load_vec<8>(from.at(row, col)));
      }
    }
  }
}

// A 16 x 16 block of an operand, as the product takes it: four blocks of 8 x 8.
struct Fragment {
  uint32_t word[4];
};

template <bool transposed, typename T>
__device__ __forceinline__ Fragment load_fragment(Shared<T> row) {
  Fragment fragment;
  ldmatrix<4, transposed>(fragment.word, shared_address(row));
  return fragment;
}

// How a matrix lies in its tile: as the product reads it, or with rows and columns exchanged.
enum class Lies { straight, transposed };

// The 16 x 16 block at (row, k) of the left operand: rows x k in memory when straight.
template <Lies lies, typename T, int rows, int cols>
__device__ __forceinline__ Fragment load_left(Tile<T, rows, cols> tile, int row, int k) {
  const int lane = threadIdx.x % 32;
  if constexpr (lies == Lies::straight) {
    return load_fragment<false, T>(tile.at(row + lane % 16, k + lane / 16 * 8));
  } else {
    return load_fragment<true, T>(tile.at(k + lane % 8 + lane / 16 * 8, row + lane / 8 % 2 * 8));
  }
}

// The 16 x 16 block at (k, col) of the right operand, as two of 8 columns: k x cols in memory when
// straight.
template <Lies lies, typename T, int rows, int cols>
__device__ __forceinline__ Fragment load_right(Tile<T, rows, cols> tile, int k, int col) {
  const int lane = threadIdx.x % 32;
  if constexpr (lies == Lies::straight) {
    return load_fragment<true, T>(tile.at(k + lane % 16, col + lane / 16 * 8));
  } else {
    return load_fragment<false, T>(tile.at(col + lane % 8 + lane / 16 * 8, k + lane / 8 % 2 * 8));
  }
}

// A warp's 16 m x 8 n block of a product. Element [i][j][2 h + e] of lane l is that at
// (16 i + 8 h + l / 4, 8 j + 2 (l % 4) + e).
template <int m, int n>
struct Sum {
  float at[m][n][4];

  // As wgmma takes its accumulators: with m = 1 the order is the same.
  __device__ __forceinline__ float (&flat())[4 * m * n] {
    return reinterpret_cast<float(&)[4 * m * n]>(at);
  }

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int i = 0; i < m; ++i) {
#pragma unroll
      for (int j = 0; j < n; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) at[i][j][e] = 0;
      }
    }
  }
};

// One step of 16 in k: left fragments of all rows times the right operand's block row.
template <typename T, Lies right_lies, int m, int n, int rows, int cols>
__device__ __forceinline__ void add_step(Sum<m, n>& sum, const Fragment (&left)[m],
                                         Tile<T, rows, cols> right, int k, int col) {
  static_assert(n % 2 == 0);
#pragma unroll
  for (int j = 0; j < n; j += 2) {
    const Fragment pair = load_right<right_lies>(right, k, col + 8 * j);
#pragma unroll
    for (int i = 0; i < m; ++i) {
      mma_m16n8k16<T>(sum.at[i][j], left[i].word, pair.word[0], pair.word[1]);
      mma_m16n8k16<T>(sum.at[i][j + 1], left[i].word, pair.word[2], pair.word[3]);
    }
  }
}

// sum += left[row.., 0..depth) x right[0..depth, col..).
template <int depth, Lies left_lies, Lies right_lies, typename T, int m, int n, typename Left,
          typename Right>
__device__ __forceinline__ void add_product(Sum<m, n>& sum, Left left, int row, Right right,
                                            int col) {
#pragma unroll 4  // one period of the permutation
  for (int k = 0; k < depth; k += 16) {
    Fragment block[m];
#pragma unroll
    for (int i = 0; i < m; ++i) {
      block[i] = load_left<left_lies>(left, row + 16 * i, k);
    }
    add_step<T, right_lies>(sum, block, right, k, col);
  }
}

// `factor` times the sum, rounded, to (row, col) of a tile.
template <typename T, int m, int n, int rows, int cols>
__device__ __forceinline__ void store_sum(const Sum<m, n>& sum, float factor,
                                          Tile<T, rows, cols> to, int row, int col) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < m; ++i) {
#pragma unroll
    for (int j = 0; j < n; ++j) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        store_vec(to.at(row + 16 * i + 8 * h + lane / 4, col + 8 * j + lane % 4 * 2),
                  Vec<T, 2>{T(factor * sum.at[i][j][2 * h]),
                            T(factor * sum.at[i][j][2 * h + 1])});
      }
    }
  }
}

}  // namespace megafm::cuda
