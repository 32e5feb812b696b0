// The emulated bodies of the functions in cuda/ptx.cuh.

#pragma once

#include "emulator/async.h"
#include "emulator/tensor_core.h"
#include "emulator/tma.h"

namespace megafm::emulator {

template <typename T>
uint32_t pack(float low, float high) {
  return T(low).bits | static_cast<uint32_t>(T(high).bits) << 16;
}

inline void named_barrier_sync(int id, int count) {
  current->block->barrier_arrive(static_cast<uint32_t>(id), static_cast<uint32_t>(count), true);
}

inline void named_barrier_arrive(int id, int count) {
  current->block->barrier_arrive(static_cast<uint32_t>(id), static_cast<uint32_t>(count), false);
}

// True on one lane of the warp, the same on every call.
inline bool elect_one() {
  return __ballot_sync(all_lanes, 1) != 0 && current->lane == 0;
}

}  // namespace megafm::emulator
