// The minima, one permutation after the other over hashes in the first-level cache: a multiply, an
// add and a minimum per pair, 16 lanes each with AVX-512. One body, compiled for each instruction
// set by its attribute; cpuid picks.

#include "index/minhash.h"

namespace megafm::index {
namespace {

[[gnu::always_inline]] inline void minima_body(const uint32_t* hashes, int64_t num_hashes,
                                               const Permutations& permutations,
                                               uint32_t* signature) {
  for (int64_t p = 0; p < permutations.count; ++p) {
    const uint32_t a = permutations.a[p];
    const uint32_t b = permutations.b[p];
    uint32_t least = UINT32_MAX;
    for (int64_t i = 0; i < num_hashes; ++i) {
      const uint32_t value = a * hashes[i] + b;
      least = value < least ? value : least;
    }
    signature[p] = least;
  }
}

using Minima = void (*)(const uint32_t*, int64_t, const Permutations&, uint32_t*);

void minima_plain(const uint32_t* hashes, int64_t num_hashes, const Permutations& permutations,
                  uint32_t* signature) {
  minima_body(hashes, num_hashes, permutations, signature);
}

#if defined(__x86_64__)
[[gnu::target("avx2")]] void minima_avx2(const uint32_t* hashes, int64_t num_hashes,
                                         const Permutations& permutations, uint32_t* signature) {
  minima_body(hashes, num_hashes, permutations, signature);
}

[[gnu::target("avx512f")]] void minima_avx512(const uint32_t* hashes, int64_t num_hashes,
                                              const Permutations& permutations,
                                              uint32_t* signature) {
  minima_body(hashes, num_hashes, permutations, signature);
}
#endif

Minima best() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    return minima_avx512;
  }
  if (__builtin_cpu_supports("avx2")) {
    return minima_avx2;
  }
#endif
  return minima_plain;
}

}  // namespace

void minima(const std::vector<uint32_t>& hashes, const Permutations& permutations,
            uint32_t* signature) {
  static const Minima run = best();
  run(hashes.data(), hashes.size(), permutations, signature);
}

}  // namespace megafm::index
