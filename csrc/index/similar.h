// From signatures to clusters: candidate pairs, exact overlaps, connected components.

#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstdint>
#include <vector>

namespace megafm::index {

using Pair = std::array<int64_t, 2>;  // of rows, the smaller first

struct Keyed {
  uint64_t key;
  int64_t row;

  auto operator<=>(const Keyed&) const = default;
};

// Those pairs of rows of equal keys, which are sorted here, that `wanted(pair)` is true of. Of a
// bucket of more than `max_bucket` rows (boilerplate) every row is paired with the first max_bucket
// alone.
template <typename Wanted>
std::vector<Pair> pairs_of_buckets(std::vector<Keyed>& keyed, int64_t max_bucket,
                                   const Wanted& wanted) {
  std::sort(keyed.begin(), keyed.end());
  std::vector<Pair> pairs;
  for (size_t first = 0, row = 0; row < keyed.size(); ++row) {
    if (keyed[row].key != keyed[first].key) {
      first = row;
    }
    const size_t last = std::min<size_t>(row, first + max_bucket);
    for (size_t other = first; other < last; ++other) {
      const Pair pair = {keyed[other].row, keyed[row].row};
      if (wanted(pair)) {
        pairs.push_back(pair);
      }
    }
  }
  return pairs;
}

// Adds pairs, in any order, to those found before, which stay sorted and each once.
void merge_into(std::vector<Pair>& found, std::vector<Pair>& pairs);

struct Signatures {
  const uint32_t* values;  // rows x (num_bands * band_rows)
  int64_t rows;
  int64_t num_bands;
  int64_t band_rows;
};

// Pairs of rows that agree in all of a band, sorted, each once; of buckets see above.
std::vector<Pair> candidates(const Signatures& signatures, int64_t max_bucket, int64_t threads);

// The size of the intersection of two sets, each ascending without repeats.
int64_t overlap(const uint64_t* one, const uint64_t* one_end, const uint64_t* two,
                const uint64_t* two_end);

// Union-find: joins the sets of the rows of each pair. parent[row] is a smaller row of its set, or
// the row itself where it is the smallest; throws when it is neither.
void unite(int64_t* parent, const Pair* pairs, int64_t num_pairs);

// Marks the second row of each pair, one after the other, whose first is not marked.
void remove_similar(bool* removed, const Pair* pairs, int64_t num_pairs);

}  // namespace megafm::index
