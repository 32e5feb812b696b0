// The loops of attention over one kv head of one sequence; T stores the activations.
//
// The query heads that share a kv head are stacked: row = position * group + head in the group. A
// query sees the keys of one interval, which is what causality, windows and documents come to.

#pragma once

#include "cpu/isa.h"
#include "cpu/storage.h"

namespace megafm::cpu {

constexpr int64_t lane_count = 64;      // rows that are worked on together
constexpr int64_t key_block = 64;       // keys whose scores are formed at a time
constexpr int64_t groups_per_task = 4;  // of lane_count rows each, at most

// Query heads of a kv head that attention_decode takes; for more it pays to pack the keys.
template <typename T>
constexpr int64_t most_decode_rows = sizeof(T) == sizeof(float) ? 4 : 2;

// One head's (seq, dim), elements of dim side by side.
template <typename T>
struct HeadView {
  T* data;
  int64_t stride;  // between positions, in elements
};

// The query heads of one kv head, (seq, group, dim).
template <typename T>
struct RowsView {
  T* data;
  int64_t position;  // strides, in elements
  int64_t head;
};

struct AttentionShape {
  int64_t seq_q;
  int64_t seq_k;
  int64_t group;
  int64_t dim;
  int64_t dim_v;
  int64_t key_chunk;     // keys that are packed at a time, a multiple of key_block
  const int32_t* first;  // (seq_q,) the query at position i sees keys first[i] <= j < last[i]
  const int32_t* last;
  float scale;
  float softcap;  // 0: none
};

template <typename T>
struct AttentionForward {
  AttentionShape shape;
  RowsView<const T> q;
  HeadView<const T> k;
  HeadView<const T> v;
  const float* sinks;  // (group,) or null
  RowsView<T> out;
  float* lse;  // (group, seq_q)
};

template <typename T>
struct AttentionBackward {
  AttentionShape shape;
  RowsView<const T> q;
  HeadView<const T> k;
  HeadView<const T> v;
  RowsView<const T> d_out;
  const float* lse;    // (group, seq_q)
  const float* delta;  // (group, seq_q) sum of d_out * out, less the gradient of lse
  HeadView<T> d_k;
  HeadView<T> d_v;
};

// One query head, (seq, dim): what the backward needs of `out`.
template <typename T>
struct AttentionDelta {
  HeadView<const T> out;
  HeadView<const T> d_out;
  const float* d_lse;  // (seq,) or null
  const float* lse;
  float* delta;
  int64_t seq;
  int64_t dim_v;
};

#define MEGAFM_ATTENTION                                                             \
  /* How many floats `buffer` must hold. */                                          \
  template <typename T>                                                              \
  int64_t attention_buffer(const AttentionShape& shape);                             \
  /* Rows [begin, end), at most groups_per_task * lane_count of them. */             \
  template <typename T>                                                              \
  void attention_forward(const AttentionForward<T>&, int64_t begin, int64_t end, float* buffer); \
  /* All rows of one query: faster where these are few. */                            \
  int64_t attention_decode_buffer(const AttentionShape& shape);                      \
  template <typename T>                                                              \
  void attention_decode(const AttentionForward<T>&, float* buffer);                 \
  template <typename T>                                                              \
  int64_t attention_backward_buffer(const AttentionShape& shape);                    \
  /* d_k, d_v of the key_chunk keys from `key`; adds what they give to d_q, */       \
  /* (seq_q * group, dim rounded up to 16) floats aligned to vectors, short of the scale. */ \
  template <typename T>                                                              \
  void attention_backward(const AttentionBackward<T>&, int64_t key, float* d_q, float* buffer); \
  /* d_q = scale * the sum of `parts`, part_stride apart; overwrites the first part. */\
  template <typename T>                                                              \
  void attention_sum_parts(const AttentionShape& shape, float* parts, int64_t count, \
                           int64_t part_stride, const RowsView<T>& d_q, int64_t begin, int64_t end); \
  /* Fills delta; the answer is the gradient of the head's sink. */                  \
  template <typename T>                                                              \
  float attention_delta(const AttentionDelta<T>&, float sink);
MEGAFM_FOR_EACH_ISA(MEGAFM_ATTENTION)
#undef MEGAFM_ATTENTION

}  // namespace megafm::cpu
