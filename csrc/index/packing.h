// Documents into rows of a training batch.

#pragma once

#include <cstdint>
#include <vector>

namespace megafm::index {

struct Packing {
  std::vector<int64_t> order;  // the documents, bin by bin
  std::vector<int64_t> ends;   // bin i holds order[ends[i]] to order[ends[i + 1] - 1]
};

// Best-fit-decreasing: the longest document first, each into the bin with the least room that
// holds it, or a new one. Of equal documents the first is taken first; of bins with equal room
// the one that was filled last. Lengths are in 1 .. capacity.
Packing pack(const int64_t* lengths, int64_t num_documents, int64_t capacity);

}  // namespace megafm::index
