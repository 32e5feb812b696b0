// The chairman assignment problem: R. Tijdeman, Discrete Mathematics 32 (1980). Giving each sample
// to the source that lacks most drifts by more than one sample with many sources; his rule does
// not: of the sources that lack at least 1 / (2k - 2) of a sample, the one whose lack would reach
// 1 - 1 / (2k - 2) first. All in units of 1 / ((2k - 2) W) of a sample, W the sum of the weights:
// products stay below 4 k W**2 <= 2**60.

#include "index/blend.h"

#include <numeric>

namespace megafm::index {

std::vector<int32_t> blend(const std::vector<int64_t>& weights) {
  const int32_t num_sources = weights.size();
  const int64_t total = std::accumulate(weights.begin(), weights.end(), int64_t{0});
  const int64_t scale = num_sources > 1 ? 2 * num_sources - 2 : 1;
  std::vector<int64_t> lack(num_sources, 0);  // share less count
  std::vector<int32_t> order(total, 0);
  for (int32_t& sample : order) {
    int32_t best = -1;
    int64_t best_room = 0;
    for (int32_t i = 0; i < num_sources; ++i) {
      lack[i] += scale * weights[i];
      const int64_t room = (scale - 1) * total - lack[i];
      // room / weight is the time left; compared crosswise
      if (lack[i] >= total && (best < 0 || room * weights[best] < best_room * weights[i])) {
        best = i;
        best_room = room;
      }
    }
    sample = best;
    lack[best] -= scale * total;
  }
  return order;
}

}  // namespace megafm::index
