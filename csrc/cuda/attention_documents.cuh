// Keeps what is not finite in one document of a packed batch from the others. Their rows meet in
// tiles: the weight of what a row does not see is 0 there, but 0 * NaN is NaN. So on tiles that some
// row does not see whole, zeros take the place of what is not finite in the right operand of a
// product. The rows that see it are given it before, by an addition; or become NaN, by a NaN for
// their weight.

#pragma once

#include "cuda/attention_scores.cuh"
#include "cuda/warp_tile.cuh"

namespace megafm::cuda {

__device__ __forceinline__ bool is_finite(float x) {
  return fabsf(x) < INFINITY;
}

// Calls body(row, col) for the runs of 8 elements of a rows x cols matrix that are this thread's.
template <int num_threads, int rows, int cols, typename Body>
__device__ __forceinline__ void for_own_runs(int thread, const Body& body) {
#pragma unroll 1
  for (int run = thread; run < rows * cols / 8; run += num_threads) {
    body(run / (cols / 8), run % (cols / 8) * 8);
  }
}

// Whether all of this thread's elements are finite; `at` gives the address of (row, col).
template <int num_threads, int rows, int cols, typename At>
__device__ __forceinline__ bool finite_runs(const At& at, int thread) {
  bool finite = true;
  for_own_runs<num_threads, rows, cols>(thread, [&](int row, int col) {
    const auto run = load_vec<8>(at(row, col));
#pragma unroll
    for (int i = 0; i < 8; ++i) finite = finite && is_finite(float(run[i]));
  });
  return finite;
}

template <int num_threads, int rows, int cols, typename At>
__device__ __forceinline__ void zero_what_is_not_finite(const At& at, int thread) {
  for_own_runs<num_threads, rows, cols>(thread, [&](int row, int col) {
    auto run = load_vec<8>(at(row, col));
    using T = std::remove_reference_t<decltype(run[0])>;
#pragma unroll
    for (int i = 0; i < 8; ++i) run[i] = is_finite(float(run[i])) ? run[i] : T(0.0f);
    store_vec(at(row, col), run);
  });
}

// Adds, to row `row` of a sum whose columns are those from `col` of the right operand, what is not
// finite in the rows of that which seen(row) says.
template <int depth, int m, int n, typename At, typename Rows>
__device__ __forceinline__ void add_what_is_not_finite(Sum<m, n>& sum, const At& at, int row,
                                                       int col, const Rows& seen) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < m; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const Interval rows = seen(row + 16 * i + 8 * h + lane / 4);
#pragma unroll 1
      for (int k = max(rows.first, 0); k < min(rows.last, depth); ++k) {
#pragma unroll
        for (int j = 0; j < n; ++j) {
          const auto pair = load_vec<2>(at(k, col + 8 * j + lane % 4 * 2));
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float x = float(pair[e]);
            if (!is_finite(x)) sum.at[i][j][2 * h + e] += x;
          }
        }
      }
    }
  }
}

// All of this for a tile, by all threads of the block, before they take the product with it.
template <int num_threads, typename T, int rows, int cols, int m, int n, typename Rows>
__device__ __forceinline__ void set_apart(Sum<m, n>& sum, Tile<T, rows, cols> right, int row,
                                          int col, const Rows& seen) {
  const auto at = [&](int r, int c) { return right.at(r, c); };
  const int thread = threadIdx.x;
  if (!__syncthreads_or(!finite_runs<num_threads, rows, cols>(at, thread))) return;
  add_what_is_not_finite<rows>(sum, at, row, col, seen);
  __syncthreads();
  zero_what_is_not_finite<num_threads, rows, cols>(at, thread);
  __syncthreads();
}

// The same where the left operand lies in shared memory too: rows that see a row k of the right one
// which is not finite get NaN for a weight of it, left_at(i, k) for i of seen(k). No register is held
// for it, which accumulators need all. Whether there was any.
template <int num_threads, int left_rows, typename T, int rows, int cols, typename At, typename Rows>
__device__ __forceinline__ bool set_apart_by_weights(const At& left_at, Tile<T, rows, cols> right,
                                                     const Rows& seen) {
  const auto at = [&](int r, int c) { return right.at(r, c); };
  if (!__syncthreads_or(!finite_runs<num_threads, rows, cols>(at, threadIdx.x))) return false;
#pragma unroll 1
  for (int k = threadIdx.x; k < rows; k += num_threads) {
    bool finite = true;
#pragma unroll 1
    for (int col = 0; col < cols; ++col) {
      const T x = *right.at(k, col);
      if (is_finite(float(x))) continue;
      finite = false;
      *right.at(k, col) = T(0.0f);
    }
    if (finite) continue;
    const Interval visible = seen(k);
#pragma unroll 1
    for (int i = max(visible.first, 0); i < min(visible.last, left_rows); ++i) {
      *left_at(i, k) = T(NAN);
    }
  }
  __syncthreads();
  return true;
}

// What a row of a tile sees of another: `position` in its sequence, what that sees, from `first` on.
__device__ __forceinline__ Interval keys_in_tile(const AttentionShape& shape, int row, int first) {
  if (row >= num_rows(shape)) return {0, 0};
  const Interval keys = keys_of_row(shape, row);
  return {keys.first - first, keys.last - first};
}

__device__ __forceinline__ Interval queries_in_tile(const AttentionShape& shape, int key,
                                                    int first) {
  if (key >= shape.seq_k) return {0, 0};
  const Interval queries = queries_of_key(shape, key);
  return {queries.first - first, queries.last - first};
}

}  // namespace megafm::cuda
