// What the kernels of attention's backward for sm_90a share: p and d_s of a tile, between the products,
// in the registers in which wgmma leaves scores; and how a block's threads are divided.

#pragma once

#include "cuda/attention_documents.cuh"
#include "cuda/attention_maps.cuh"
#include "cuda/attention_softmax.cuh"
#include "cuda/tma_ring.cuh"

namespace megafm::cuda {

// One warpgroup brings, two consume. Registers together the 168 a thread that the block starts with.
struct BackwardThreads {
  static constexpr int consumers = 2;
  static constexpr int num_threads = 128 * (1 + consumers);
  static constexpr int producer_registers = 24;
  static constexpr int consumer_registers = 240;
};

constexpr int both_consumers = 1;  // a named barrier
constexpr int one_consumer = 2;    // that of the first; the second's is the next

// Zeros in place of a row that is not finite; whether it was. Shared memory begins at `block_begin`.
template <typename Tile>
__device__ __forceinline__ bool zero_unless_finite(uint32_t block_begin, Tile tile, int row) {
  using T = typename Tile::Element;
  const auto at = [&](int, int col) { return shared_memory<T>(tile.at(row, col) - block_begin); };
  if (finite_runs<1, 1, Tile::cols>(at, 0)) return true;
  for_own_runs<1, 1, Tile::cols>(0, [&](int, int col) { store_vec(at(row, col), Vec<T, 8>{}); });
  return false;
}

// A value of each query, by the element that a thread has in a run of 8 columns: where queries are the
// columns of the scores, or their rows.
struct ColumnValues {
  Shared<float> of_column;
  __device__ __forceinline__ Vec<float, 4> of_run(int j) const {
    const Vec<float, 2> pair = load_vec<2>(of_column + 8 * j + threadIdx.x % 4 * 2);
    return {pair[0], pair[1], pair[0], pair[1]};
  }
};

struct RowValues {
  float of_row[2];
  __device__ __forceinline__ Vec<float, 4> of_run(int) const {
    return {of_row[0], of_row[0], of_row[1], of_row[1]};
  }
};

template <int n, typename Values>
__device__ __forceinline__ void to_weights(Sum<1, n>& scores, const ScoreRule& rule,
                                           const Values& shifts) {
#pragma unroll
  for (int j = 0; j < n; ++j) {
    const Vec<float, 4> shift = shifts.of_run(j);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      scores.at[0][j][e] = exp2_approx(fmaf(scores.at[0][j][e], rule.to_log2, -shift[e]));
    }
  }
}

// p and d_s of products; those of d_weights are under way as the last group of wgmma. A shift is
// lse * log2(e), or what makes weights 0 or NaN.
template <int n, typename Values>
__device__ __forceinline__ void to_gradients(Sum<1, n>& scores, Sum<1, n>& d_weights,
                                             const ScoreRule& rule, const Values& shifts,
                                             const Values& deltas) {
  apply_rule(rule, scores);
  if (rule.plain) to_weights(scores, rule, shifts);
  wgmma_wait<0>();
  pin(d_weights.flat());
#pragma unroll
  for (int j = 0; j < n; ++j) {
    const Vec<float, 4> delta = deltas.of_run(j);
#pragma unroll
    for (int e = 0; e < 4; ++e) d_weights.at[0][j][e] -= delta[e];
  }
  if (!rule.plain) {
#pragma unroll
    for (int j = 0; j < n; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) d_weights.at[0][j][e] *= rule.slope(scores.at[0][j][e]);
    }
    to_weights(scores, rule, shifts);
  }
#pragma unroll
  for (int j = 0; j < n; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) d_weights.at[0][j][e] *= scores.at[0][j][e];
  }
}

template <typename T, int n, int steps>
__device__ __forceinline__ void round_all(const Sum<1, n>& sum, Fragment (&to)[steps][1]) {
#pragma unroll
  for (int step = 0; step < steps; ++step) round_columns<T>(sum, step, to[step]);
}

// A warp's 16 rows to a tile.
template <typename Tile, int steps>
__device__ __forceinline__ void store_rows(const Fragment (&rows)[steps][1], Tile to, int row,
                                           int col) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int step = 0; step < steps; ++step) {
    stmatrix<4>(to.at(row + lane % 16, col + 16 * step + lane / 16 * 8), rows[step][0].word);
  }
}

}  // namespace megafm::cuda
