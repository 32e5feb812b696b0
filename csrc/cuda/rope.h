// Rotary position embedding on CUDA: the launcher.

#pragma once

#include <cstdint>

#include "cuda/storage.h"

namespace megafm::cuda {

// The heads of every token, (batch, seq, heads, 2 * half), read at strides and written contiguous.
struct RopeHeads {
  const void* from;
  void* to;
  int64_t batch_stride;
  int64_t seq_stride;
  int64_t head_stride;
  int64_t heads;
};

// q and k turned by the angles of their positions. A position outside the cache gives NaN: nothing
// is read there.
struct RopeTurn {
  RopeHeads q;
  RopeHeads k;
  const float* cos;  // limit x half
  const float* sin;
  const int64_t* positions;  // or null: 0, 1, 2 ...
  int64_t positions_batch_stride;
  int64_t batch;
  int64_t seq;
  int64_t half;
  int64_t limit;
  float sign;  // -1 turns back
  bool interleaved;
  Storage storage;
};

void rope_turn(const RopeTurn& at, void* stream);

}  // namespace megafm::cuda
