// The loops of rotary position embedding over tokens; T stores the elements.

#pragma once

#include "cpu/isa.h"
#include "cpu/storage.h"

namespace megafm::cpu {

constexpr int64_t longest_streamed = 256;  // elements of a head that goes past the caches

// Heads (batch, seq, heads, head_dim) to turn: read through strides, written contiguously.
template <typename T>
struct Heads {
  const T* from;
  T* to;
  int64_t batch_stride;
  int64_t seq_stride;
  int64_t head_stride;
  int64_t heads;
  bool past_caches;  // how heads are written: stream.h
};

// By which angles: pairs (i, i + half), or (2i, 2i + 1) if interleaved.
struct Angles {
  const float* cos;  // (max_seq_len, half)
  const float* sin;
  const int64_t* positions;        // rows of cos and sin, or null: 0, 1, 2 ...
  int64_t positions_batch_stride;  // 0 where the sequences share them
  int64_t seq;
  int64_t half;
  float sign;  // -1 turns back
  bool interleaved;
};

#define MEGAFM_ROPE     \
  template <typename T> \
  void rope_tokens(const Heads<T>&, const Angles&, int64_t begin, int64_t end);
MEGAFM_FOR_EACH_ISA(MEGAFM_ROPE)
#undef MEGAFM_ROPE

}  // namespace megafm::cpu
