// Global memory: which ranges kernels may touch, and atomics on global and shared memory.

#pragma once

#include <atomic>
#include <type_traits>

#include "emulator/shared.h"
#include "emulator/warp.h"

namespace megafm::emulator {

// Once a range is registered, checked accesses outside all registered ranges end the launch.
// Ranges nest and repeat; unregister takes one registration of exactly this range away.
void register_memory(const void* begin, size_t bytes);
void unregister_memory(const void* begin, size_t bytes);

// Whether [pointer, pointer + bytes) is aligned and, where ranges are registered, within one.
void check_global(const void* pointer, size_t bytes, size_t alignment);

// Replace the value at `at` by update(old); the answer is the old one.
template <typename T, typename Update>
T update_global(T* at, Update update) {
  check_global(at, sizeof(T), sizeof(T));
  std::atomic_ref<T> cell(*at);
  T old = cell.load();
  while (!cell.compare_exchange_weak(old, update(old))) {
  }
  return old;
}

template <typename T, typename Update>
T update_shared(Shared<T> at, Update update) {
  Block& block = *current->block;
  block.check_shared(at.address(), sizeof(T), sizeof(T));
  block.write(at.address(), sizeof(T), Access::atomic);
  T old;
  std::memcpy(&old, block.shared(at.address()), sizeof old);
  const T next = update(old);
  std::memcpy(block.shared(at.address()), &next, sizeof next);
  return old;
}

}  // namespace megafm::emulator

#define MEGAFM_ATOMIC(name, expression)                                                       \
  template <typename T>                                                                       \
  T name(T* at, std::type_identity_t<T> x) {                                                  \
    return megafm::emulator::update_global(at, [x](T old) -> T { return expression; });       \
  }                                                                                           \
  template <typename T>                                                                       \
  T name(megafm::emulator::Shared<T> at, std::type_identity_t<T> x) {                         \
    return megafm::emulator::update_shared(at, [x](T old) -> T { return expression; });       \
  }
MEGAFM_ATOMIC(atomicAdd, old + x)
MEGAFM_ATOMIC(atomicSub, old - x)
MEGAFM_ATOMIC(atomicMin, x < old ? x : old)
MEGAFM_ATOMIC(atomicMax, old < x ? x : old)
MEGAFM_ATOMIC(atomicAnd, old & x)
MEGAFM_ATOMIC(atomicOr, old | x)
MEGAFM_ATOMIC(atomicExch, ((void)old, x))
MEGAFM_ATOMIC(atomicInc, old >= x ? 0 : old + 1)
#undef MEGAFM_ATOMIC

template <typename T>
T atomicCAS(T* at, std::type_identity_t<T> compare, std::type_identity_t<T> value) {
  return megafm::emulator::update_global(
      at, [=](T old) -> T { return old == compare ? value : old; });
}
template <typename T>
T atomicCAS(megafm::emulator::Shared<T> at, std::type_identity_t<T> compare,
            std::type_identity_t<T> value) {
  return megafm::emulator::update_shared(
      at, [=](T old) -> T { return old == compare ? value : old; });
}

inline void __threadfence() { std::atomic_thread_fence(std::memory_order_seq_cst); }
inline void __threadfence_block() { __threadfence(); }

inline void __syncthreads() { megafm::emulator::current->block->barrier_arrive(0, 0, true); }
inline int __syncthreads_count(int predicate) {
  megafm::emulator::Block& block = *megafm::emulator::current->block;
  block.barrier_arrive(0, 0, true, predicate != 0);
  return static_cast<int>(block.barrier_sum(0));
}
inline int __syncthreads_or(int predicate) { return __syncthreads_count(predicate) != 0; }
inline int __syncthreads_and(int predicate) { return __syncthreads_count(!predicate) == 0; }
inline void __nanosleep(unsigned) { megafm::emulator::current->block->yield(); }
[[noreturn]] inline void __trap() { megafm::emulator::current->block->fail("__trap()"); }
