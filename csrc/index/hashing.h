// The one hash of this module.

#pragma once

#include <algorithm>
#include <cstdint>
#include <string_view>

namespace megafm::index {

// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014), as in megafm/data/permutation.py.
inline uint64_t mix(uint64_t value) {
  value += 0x9E3779B97F4A7C15;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

// Eight bytes at a time, the first in the lowest place; the length tells trailing zeros apart.
inline uint64_t hash_bytes(std::string_view bytes) {
  uint64_t hash = mix(bytes.size());
  for (size_t first = 0; first < bytes.size(); first += 8) {
    uint64_t eight = 0;
    for (size_t i = first; i < std::min(first + 8, bytes.size()); ++i) {
      eight |= uint64_t{static_cast<uint8_t>(bytes[i])} << (8 * (i - first));
    }
    hash = mix(hash ^ eight);
  }
  return hash;
}

}  // namespace megafm::index
