#include "index/similar.h"

#include <algorithm>
#include <mutex>
#include <stdexcept>

#include "index/hashing.h"
#include "index/parallel.h"

namespace megafm::index {
namespace {

// Rows with the hash of one band. Two bands that differ share a hash with a probability of 2**-64.
std::vector<Keyed> keyed_by_band(const Signatures& signatures, int64_t band) {
  const int64_t width = signatures.num_bands * signatures.band_rows;
  std::vector<Keyed> keyed(signatures.rows);
  for (int64_t row = 0; row < signatures.rows; ++row) {
    const uint32_t* values = signatures.values + row * width + band * signatures.band_rows;
    uint64_t key = 0;
    for (int64_t i = 0; i < signatures.band_rows; ++i) {
      key = mix(key ^ values[i]);
    }
    keyed[row] = {key, row};
  }
  return keyed;
}

}  // namespace

void merge_into(std::vector<Pair>& found, std::vector<Pair>& pairs) {
  std::sort(pairs.begin(), pairs.end());
  const auto middle = found.insert(found.end(), pairs.begin(), pairs.end());
  std::inplace_merge(found.begin(), middle, found.end());
  found.erase(std::unique(found.begin(), found.end()), found.end());
}

std::vector<Pair> candidates(const Signatures& signatures, int64_t max_bucket, int64_t threads) {
  std::vector<Pair> found;
  std::mutex merging;
  parallel_for(signatures.num_bands, threads, [&](int64_t begin, int64_t end) {
    for (int64_t band = begin; band < end; ++band) {
      std::vector<Keyed> keyed = keyed_by_band(signatures, band);
      std::vector<Pair> pairs =
          pairs_of_buckets(keyed, max_bucket, [](const Pair&) { return true; });
      const std::lock_guard lock(merging);
      merge_into(found, pairs);  // at once: most pairs agree in several bands
    }
  });
  return found;
}

int64_t overlap(const uint64_t* one, const uint64_t* one_end, const uint64_t* two,
                const uint64_t* two_end) {
  int64_t common = 0;
  while (one < one_end && two < two_end) {
    const uint64_t a = *one;
    const uint64_t b = *two;
    common += a == b;
    one += a <= b;
    two += b <= a;
  }
  return common;
}

void unite(int64_t* parent, const Pair* pairs, int64_t num_pairs) {
  const auto root = [&](int64_t row) {
    while (parent[row] != row) {
      if (parent[row] < 0 || parent[row] > row || parent[parent[row]] < 0) {
        throw std::invalid_argument("parent: each must be a row that is not above its own");
      }
      row = parent[row] = parent[parent[row]];
    }
    return row;
  };
  for (int64_t i = 0; i < num_pairs; ++i) {
    const int64_t one = root(pairs[i][0]);
    const int64_t two = root(pairs[i][1]);
    parent[std::max(one, two)] = std::min(one, two);
  }
}

void remove_similar(bool* removed, const Pair* pairs, int64_t num_pairs) {
  for (int64_t i = 0; i < num_pairs; ++i) {
    removed[pairs[i][1]] |= !removed[pairs[i][0]];
  }
}

}  // namespace megafm::index
