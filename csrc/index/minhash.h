// MinHash signatures: the smallest hash of a set under each of many permutations.

#pragma once

#include <cstdint>
#include <vector>

namespace megafm::index {

// Permutations h -> a * h + b modulo 2**32, a odd, of hashes that MurmurHash3's finaliser spread
// before: the scheme "affine32" of datasketch 2.0, bit for bit.
struct Permutations {
  const uint32_t* a;
  const uint32_t* b;
  int64_t count;
};

// signature[p] = the least value of permutation p over the hashes (`spread` before), 2**32 - 1 of
// none.
void minima(const std::vector<uint32_t>& hashes, const Permutations& permutations,
            uint32_t* signature);

// The finaliser of 32-bit MurmurHash3 (Appleby, 2011), a bijection.
inline uint32_t spread(uint32_t h) {
  h = (h ^ (h >> 16)) * 0x85EBCA6B;
  h = (h ^ (h >> 13)) * 0xC2B2AE35;
  return h ^ (h >> 16);
}

}  // namespace megafm::index
