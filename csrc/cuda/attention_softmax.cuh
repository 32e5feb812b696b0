// The softmax of attention's forward, tile by tile of keys, on scores in registers: FlashAttention-2
// (Dao 2023, section 3.1). Rows lie as in Sum, which is how mma.sync and wgmma leave them.

#pragma once

#include "cuda/attention_scores.cuh"
#include "cuda/warp_tile.cuh"

namespace megafm::cuda {

// A value of each row that a thread holds, 16 i + 8 h + lane / 4.
template <int m>
struct RowFactors {
  float at[m][2];
};

// What a row's output is multiplied by in the end, and the natural log of its sum of exponentials.
struct RowEnd {
  float factor;
  float lse;
};

// The softmax of a warp's rows so far. A thread's `total` is over the columns that it has seen
// itself.
template <int m>
struct RunningSoftmax {
  float top[m][2];  // largest score, in the units of the products
  float total[m][2];

  __device__ __forceinline__ RunningSoftmax() {
#pragma unroll
    for (int i = 0; i < m; ++i) {
      top[i][0] = top[i][1] = -INFINITY;
      total[i][0] = total[i][1] = 0;
    }
  }

  // Scores to exponentials; the answer takes what was summed before to the new maximum.
  template <int n>
  __device__ __forceinline__ RowFactors<m> update(Sum<m, n>& scores, float to_log2) {
    RowFactors<m> shrinks;
#pragma unroll
    for (int i = 0; i < m; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float largest = top[i][h];
#pragma unroll
        for (int j = 0; j < n; ++j) {
          largest = fmaxf(largest, fmaxf(scores.at[i][j][2 * h], scores.at[i][j][2 * h + 1]));
        }
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 1));
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffff, largest, 2));
        const float shift = largest == -INFINITY ? 0.0f : largest * to_log2;
        const float shrink = exp2_approx(fmaf(top[i][h], to_log2, -shift));
        top[i][h] = largest;
        total[i][h] *= shrink;
        shrinks.at[i][h] = shrink;
#pragma unroll
        for (int j = 0; j < n; ++j) {
#pragma unroll
          for (int e = 2 * h; e < 2 * h + 2; ++e) {
            scores.at[i][j][e] = exp2_approx(fmaf(scores.at[i][j][e], to_log2, -shift));
            total[i][h] += scores.at[i][j][e];
          }
        }
      }
    }
    return shrinks;
  }

  // Of row (i, h), whose sink is a score times log2(e), or -inf.
  __device__ __forceinline__ RowEnd finish(int i, int h, float to_log2, float sink) const {
    float sum = total[i][h];
    sum += __shfl_xor_sync(0xffffffff, sum, 1);
    sum += __shfl_xor_sync(0xffffffff, sum, 2);
    const float own = top[i][h] * to_log2;
    const float largest = fmaxf(own, sink), shift = largest == -INFINITY ? 0.0f : largest;
    const float shrink = exp2_approx(own - shift);
    sum = fmaf(sum, shrink, exp2_approx(sink - shift));
    return {sum == 0 ? 0.0f : shrink / sum,
            sum == 0 ? -INFINITY : (shift + log2f(sum)) / log2_e};
  }
};

template <int m, int n>
__device__ __forceinline__ void scale_rows(Sum<m, n>& sum, const RowFactors<m>& factors) {
#pragma unroll
  for (int i = 0; i < m; ++i) {
#pragma unroll
    for (int j = 0; j < n; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum.at[i][j][e] *= factors.at[i][e / 2];
    }
  }
}

// The columns of scores [16 step, 16 step + 16) as left operand.
template <typename T, int m, int n>
__device__ __forceinline__ void round_columns(const Sum<m, n>& scores, int step,
                                              Fragment (&to)[m]) {
#pragma unroll
  for (int i = 0; i < m; ++i) {
#pragma unroll
    for (int word = 0; word < 4; ++word) {
      const float* pair = &scores.at[i][2 * step + word / 2][word % 2 * 2];
      to[i].word[word] = pack<T>(pair[0], pair[1]);
    }
  }
}

// -inf at the keys that a row does not see, `row` and `key` being those of the first element.
template <int m, int n>
__device__ __forceinline__ void mask_scores(const AttentionShape& shape, Sum<m, n>& scores,
                                            int row, int key) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < m; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int own = min(row + 16 * i + 8 * h + lane / 4, num_rows(shape) - 1);
      const Interval seen = keys_of_row(shape, own);
#pragma unroll
      for (int j = 0; j < n; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int at = key + 8 * j + lane % 4 * 2 + e;
          if (at < seen.first || at >= seen.last) scores.at[i][j][2 * h + e] = -INFINITY;
        }
      }
    }
  }
}

// Products to scores that the softmax takes.
template <int m, int n>
__device__ __forceinline__ void apply_rule(const ScoreRule& rule, Sum<m, n>& scores) {
  if (rule.plain) return;
#pragma unroll
  for (int i = 0; i < m; ++i) {
#pragma unroll
    for (int j = 0; j < n; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) scores.at[i][j][e] = rule.apply(scores.at[i][j][e]);
    }
  }
}

}  // namespace megafm::cuda
