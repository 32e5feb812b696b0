// Which source each sample of a blend comes from.

#pragma once

#include <cstdint>
#include <vector>

namespace megafm::index {

// Source of each of the first sum(weights) samples, after which the order repeats: before every
// sample, each source's count is within one sample of its share. Weights are positive, at most
// 1,024 of them, with a sum of at most 2**24.
std::vector<int32_t> blend(const std::vector<int64_t>& weights);

}  // namespace megafm::index
