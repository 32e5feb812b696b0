// Sources: Charikar, Similarity estimation techniques from rounding algorithms (2002); Manku, Jain,
// Das Sarma, Detecting near-duplicates for web crawling (2007), for the search by blocks.

#include "index/fingerprints.h"

#include <bit>

namespace megafm::index {

uint64_t simhash(const std::vector<uint64_t>& hashes) {
  int64_t set[64] = {};
  for (const uint64_t hash : hashes) {
    for (int bit = 0; bit < 64; ++bit) {
      set[bit] += hash >> bit & 1;
    }
  }
  uint64_t fingerprint = 0;
  for (int bit = 0; bit < 64; ++bit) {
    const bool more = 2 * set[bit] > static_cast<int64_t>(hashes.size());
    fingerprint |= uint64_t{more} << bit;
  }
  return fingerprint;
}

std::vector<Pair> near_fingerprints(const uint64_t* fingerprints, int64_t rows, int64_t most,
                                    int64_t max_bucket) {
  std::vector<Pair> found;
  const int64_t num_blocks = most + 1;
  for (int64_t block = 0; block < num_blocks; ++block) {
    const int64_t begin = 64 * block / num_blocks;
    const int64_t length = 64 * (block + 1) / num_blocks - begin;
    const uint64_t mask = ~uint64_t{0} >> (64 - length) << begin;
    std::vector<Keyed> keyed(rows);
    for (int64_t row = 0; row < rows; ++row) {
      keyed[row] = {fingerprints[row] & mask, row};
    }
    std::vector<Pair> pairs = pairs_of_buckets(keyed, max_bucket, [&](const Pair& pair) {
      return std::popcount(fingerprints[pair[0]] ^ fingerprints[pair[1]]) <= most;
    });
    merge_into(found, pairs);
  }
  return found;
}

}  // namespace megafm::index
