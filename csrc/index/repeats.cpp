// Exact-substring deduplication (Lee et al., Deduplicating Training Data Makes Language Models
// Better, 2022) without a suffix array: windows by a rolling hash, sorted; 16 bytes a token. The
// hash is a polynomial modulo 2**64: from 1,024 tokens on, any two values in the order of Thue and
// Morse make windows that share one (Pachocki, Radoszewski, 2013), so the binding takes at most 512.

#include "index/repeats.h"

#include <algorithm>
#include <vector>

#include "index/hashing.h"
#include "index/similar.h"

namespace megafm::index {

void repeats(const int64_t* tokens, const int64_t* ends, int64_t num_documents, int64_t width,
             bool* repeated) {
  constexpr uint64_t base = 0x9E3779B97F4A7C15;
  uint64_t leaving = 1;  // base ** width
  for (int64_t i = 0; i < width; ++i) {
    leaving *= base;
  }
  std::vector<Keyed> windows;  // by hash, and by place
  windows.reserve(ends[num_documents]);
  for (int64_t document = 0; document < num_documents; ++document) {
    uint64_t value = 0;
    for (int64_t i = ends[document]; i < ends[document + 1]; ++i) {
      value = value * base + mix(tokens[i]);
      const int64_t first = i + 1 - width;
      if (first > ends[document]) {
        value -= leaving * mix(tokens[first - 1]);
      }
      if (first >= ends[document]) {
        windows.push_back({mix(value), first});
      }
    }
  }
  std::sort(windows.begin(), windows.end());
  std::fill_n(repeated, ends[num_documents], false);
  for (size_t i = 1; i < windows.size(); ++i) {
    if (windows[i].key == windows[i - 1].key) {
      std::fill_n(repeated + windows[i].row, width, true);
    }
  }
}

}  // namespace megafm::index
