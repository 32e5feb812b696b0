#include "emulator/memory.h"

#include <cstdio>
#include <map>
#include <mutex>

namespace megafm::emulator {
namespace {

std::mutex lock;
std::multimap<uintptr_t, size_t> ranges;  // begin to bytes
std::atomic<bool> has_ranges = false;

uintptr_t address(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer);
}

// Ranges may overlap (views of one tensor), so that the nearest before is not always the one.
bool is_registered(uintptr_t begin, size_t bytes) {
  const std::lock_guard guard(lock);
  for (auto range = ranges.upper_bound(begin); range != ranges.begin();) {
    --range;
    if (begin + bytes <= range->first + range->second) return true;
  }
  return false;
}

}  // namespace

void register_memory(const void* begin, size_t bytes) {
  const std::lock_guard guard(lock);
  ranges.emplace(address(begin), bytes);
  has_ranges = true;
}

void unregister_memory(const void* begin, size_t bytes) {
  const std::lock_guard guard(lock);
  const auto [first, last] = ranges.equal_range(address(begin));
  for (auto range = first; range != last; ++range) {
    if (range->second != bytes) continue;
    ranges.erase(range);
    break;
  }
  has_ranges = !ranges.empty();
}

void check_global(const void* pointer, size_t bytes, size_t alignment) {
  const bool aligned = address(pointer) % alignment == 0;
  if (aligned && (!has_ranges || is_registered(address(pointer), bytes))) return;
  char text[160];
  if (!aligned) {
    std::snprintf(text, sizeof text, "global address %p is not a multiple of %zu", pointer,
                  alignment);
  } else {
    std::snprintf(text, sizeof text, "%zu bytes at %p lie in no registered range", bytes, pointer);
  }
  current->block->fail(text);
}

}  // namespace megafm::emulator
