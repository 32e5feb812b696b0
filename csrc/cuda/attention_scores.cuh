// What attention's forward and backward share: who sees whom, and scores from products.

#pragma once

#include "cuda/attention.h"
#include "cuda/launch.cuh"
#include "cuda/ptx.cuh"

namespace megafm::cuda {

constexpr float log2_e = 1.4426950408889634f;

struct Interval {
  int first;
  int last;  // exclusive
};

// Neither end falls as the position rises, empty intervals included.
__device__ __forceinline__ Interval interval(const int32_t* table, int position, int length,
                                             int other_length, int before, int after) {
  if (table != nullptr) {
    return {table[position], table[length + position]};
  }
  const int own = position + other_length - length;
  return {min(max(own - before, 0), other_length), min(max(own + after + 1, 0), other_length)};
}

__device__ __forceinline__ Interval keys_of_query(const AttentionShape& shape, int query) {
  return interval(shape.keys_of_queries, query, shape.seq_q, shape.seq_k, shape.before,
                  shape.after);
}

__device__ __forceinline__ int num_rows(const AttentionShape& shape) {
  return shape.seq_q << shape.pack;
}

__device__ __forceinline__ Interval keys_of_row(const AttentionShape& shape, int row) {
  return keys_of_query(shape, row >> shape.pack);
}

__device__ __forceinline__ Interval queries_of_key(const AttentionShape& shape, int key) {
  return interval(shape.queries_of_keys, key, shape.seq_k, shape.seq_q, shape.after, shape.before);
}

// The keys that any, and that every, row of [first, first + count) sees; of a tile behind the last
// row, which nobody stores, those of that one.
struct Seen {
  Interval any;
  Interval every;
};

__device__ __forceinline__ Seen keys_of_tile(const AttentionShape& shape, int first, int count) {
  const int end = num_rows(shape);
  const Interval head = keys_of_row(shape, min(first, end - 1));
  const Interval tail = keys_of_row(shape, min(first + count, end) - 1);
  return {{head.first, tail.last}, {tail.first, head.last}};
}

// 1 - 2 / (e^2x + 1): right to 1e-7 absolutely, which is what a score needs.
__device__ __forceinline__ float tanh_of(float x) {
  return 1 - __fdividef(2, exp2_approx(2 * log2_e * x) + 1);
}

// A product q k becomes a score by one factor, which is left to the exponential; unless there is a
// cap, or the factor would turn the largest into the smallest.
struct ScoreRule {
  float scale;
  float softcap;
  bool plain;
  float to_log2;  // factor of what apply() leaves, to the exponent of 2

  __device__ explicit ScoreRule(const AttentionShape& shape)
      : scale(shape.scale),
        softcap(shape.softcap),
        plain(shape.softcap == 0 && shape.scale > 0),
        to_log2(plain ? shape.scale * log2_e : log2_e) {}

  // To be called where it is not plain.
  __device__ __forceinline__ float apply(float product) const {
    const float score = product * scale;
    return softcap == 0 ? score : softcap * tanh_of(score / softcap);
  }

  // d score / d (product * scale), of a score.
  __device__ __forceinline__ float slope(float score) const {
    return softcap == 0 ? 1.0f : 1 - (score / softcap) * (score / softcap);
  }
};

template <typename T>
__device__ __forceinline__ T* head_of(const Heads& heads, int batch, int head) {
  return static_cast<T*>(heads.data) + batch * heads.batch_stride + head * heads.head_stride;
}

}  // namespace megafm::cuda
