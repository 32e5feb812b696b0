// SimHash: texts that share most of their shingles differ in few bits.

#pragma once

#include <cstdint>
#include <vector>

#include "index/similar.h"

namespace megafm::index {

// Bit j is set if more than half of the hashes have it.
uint64_t simhash(const std::vector<uint64_t>& hashes);

// Pairs that differ in at most `most` bits, sorted: those agree in one of most + 1 blocks of bits.
// Of rows with one block in common each is compared with the first max_bucket alone.
std::vector<Pair> near_fingerprints(const uint64_t* fingerprints, int64_t rows, int64_t most,
                                    int64_t max_bucket);

}  // namespace megafm::index
