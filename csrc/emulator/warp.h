// Warp collectives: __syncwarp, shuffles, votes, reductions. As in CUDA, every lane of the mask that
// has not exited must make the same call, and only __syncwarp orders memory.

#pragma once

#include <cstring>
#include <type_traits>

#include "emulator/block.h"

namespace megafm::emulator {

constexpr uint32_t all_lanes = 0xffffffff;

// Wait until all lanes of `mask` are here with the same operation; one of them runs it for all.
// `operand` is this lane's in and out, on its own stack.
void gather(WarpOperation operation, const char* name, uint32_t mask, void* operand);

// Run what only waited for a lane that has just exited.
void finish_gathers(Warp& warp);

void sync_warp(Warp& warp, uint32_t lanes);

// The same for an operation on one operand struct per lane: operation(operands, lanes), where
// operands[lane] is a pointer.
template <typename Operand, void (*operation)(Operand* const* operands, uint32_t lanes)>
void gather(const char* name, uint32_t mask, Operand& operand) {
  constexpr WarpOperation run = [](Warp& warp, uint32_t lanes) {
    operation(reinterpret_cast<Operand* const*>(warp.operand), lanes);
  };
  gather(run, name, mask, &operand);
}

struct Shuffle {
  uint64_t value;
  uint32_t source;  // lane
};
void shuffle(Shuffle* const* operands, uint32_t lanes);

template <typename T>
T shuffle_from(const char* name, uint32_t mask, T value, uint32_t source) {
  static_assert(sizeof(T) <= sizeof(uint64_t) && std::is_trivially_copyable_v<T>);
  Shuffle operand{0, source};
  std::memcpy(&operand.value, &value, sizeof value);
  gather<Shuffle, shuffle>(name, mask, operand);
  std::memcpy(&value, &operand.value, sizeof value);
  return value;
}

// The lane of the width-wide segment that a shuffle reads; outside it, its own.
inline uint32_t in_segment(int64_t source, int width) {
  const int64_t lane = current->lane, first = lane / width * width;
  return static_cast<uint32_t>(source < first || source >= first + width ? lane : source);
}

struct Vote {
  uint32_t value;
};
void ballot(Vote* const* operands, uint32_t lanes);

template <typename T>
struct Reduction {
  T value;
};

struct Add {
  template <typename T>
  static T of(T a, T b) { return a + b; }
};
struct Min {
  template <typename T>
  static T of(T a, T b) { return a < b ? a : b; }
};
struct Max {
  template <typename T>
  static T of(T a, T b) { return a < b ? b : a; }
};
struct And {
  template <typename T>
  static T of(T a, T b) { return a & b; }
};
struct Or {
  template <typename T>
  static T of(T a, T b) { return a | b; }
};
struct Xor {
  template <typename T>
  static T of(T a, T b) { return a ^ b; }
};

template <typename Op, typename T>
void reduce(Reduction<T>* const* operands, uint32_t lanes) {
  T total = operands[__builtin_ctz(lanes)]->value;
  for (uint32_t rest = lanes & (lanes - 1); rest != 0; rest &= rest - 1) {
    total = Op::of(total, operands[__builtin_ctz(rest)]->value);
  }
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    operands[__builtin_ctz(rest)]->value = total;
  }
}

template <typename Op, typename T>
T reduce_sync(const char* name, uint32_t mask, T value) {
  Reduction<T> operand{value};
  gather<Reduction<T>, reduce<Op, T>>(name, mask, operand);
  return operand.value;
}

}  // namespace megafm::emulator

constexpr int warpSize = 32;

inline void __syncwarp(unsigned mask = megafm::emulator::all_lanes) {
  using namespace megafm::emulator;
  gather(sync_warp, "__syncwarp", mask, nullptr);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = warpSize) {
  using namespace megafm::emulator;
  const uint32_t first = current->lane / width * width;
  return shuffle_from("__shfl_sync", mask, value, first + (source & (width - 1)));
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  using namespace megafm::emulator;
  return shuffle_from("__shfl_up_sync", mask, value,
                      in_segment(int64_t{current->lane} - delta, width));
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = warpSize) {
  using namespace megafm::emulator;
  return shuffle_from("__shfl_down_sync", mask, value,
                      in_segment(int64_t{current->lane} + delta, width));
}
// Lanes of lower segments may be read, those of higher ones not.
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = warpSize) {
  using namespace megafm::emulator;
  const uint32_t lane = current->lane, source = lane ^ lane_mask;
  const uint32_t end = lane / width * width + width;
  return shuffle_from("__shfl_xor_sync", mask, value, source < end ? source : lane);
}

inline unsigned __ballot_sync(unsigned mask, int predicate) {
  using namespace megafm::emulator;
  Vote vote{predicate != 0};
  gather<Vote, ballot>("__ballot_sync", mask, vote);
  return vote.value;
}
inline int __any_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, predicate) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return __ballot_sync(mask, !predicate) == 0;
}

#define MEGAFM_REDUCE(name, Op, T)                                                      \
  inline T name(unsigned mask, T value) {                                               \
    return megafm::emulator::reduce_sync<megafm::emulator::Op>(#name, mask, value);     \
  }
MEGAFM_REDUCE(__reduce_add_sync, Add, unsigned)
MEGAFM_REDUCE(__reduce_add_sync, Add, int)
MEGAFM_REDUCE(__reduce_min_sync, Min, unsigned)
MEGAFM_REDUCE(__reduce_min_sync, Min, int)
MEGAFM_REDUCE(__reduce_max_sync, Max, unsigned)
MEGAFM_REDUCE(__reduce_max_sync, Max, int)
MEGAFM_REDUCE(__reduce_and_sync, And, unsigned)
MEGAFM_REDUCE(__reduce_or_sync, Or, unsigned)
MEGAFM_REDUCE(__reduce_xor_sync, Xor, unsigned)
#undef MEGAFM_REDUCE
