// What the host side of every CPU op needs: tensors as rows of stored elements, rows as tasks.

#pragma once

#include <algorithm>
#include <cstdint>
#include <initializer_list>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "cpu/storage.h"
#include "cpu/stream.h"
#include "rows.h"

namespace megafm::cpu {

constexpr int64_t elements_per_task = 1 << 15;  // below it a thread costs more than it does

inline int64_t rows_per_task(int64_t dim) {
  return std::max<int64_t>(1, elements_per_task / std::max<int64_t>(1, dim));
}

// Calls body with a null pointer of the type that x is stored in.
template <typename Body>
void for_storage(const char* op, const Tensor& x, const Body& body) {
  if (x.scalar_type() == ScalarType::Float) {
    body(static_cast<float*>(nullptr));
  } else if (x.scalar_type() == ScalarType::BFloat16) {
    body(static_cast<bf16*>(nullptr));
  } else {
    STD_TORCH_CHECK(false, op, ": activations must be float32 or bfloat16");
  }
}

// Contiguous and uninitialised, of the shape and dtype of x. Memory that the kernel has not handed
// out before is asked for in huge pages: in small ones its first touch costs more than the op.
inline Tensor new_output(const Tensor& x) {
  Tensor y = stable::new_empty(x, x.sizes());
#if defined(__linux__)
  constexpr uintptr_t huge = 2 << 20;
  const uintptr_t begin = reinterpret_cast<uintptr_t>(y.mutable_data_ptr());
  const uintptr_t first = (begin + huge - 1) / huge * huge;
  const uintptr_t last = (begin + y.numel() * y.element_size()) / huge * huge;
  if (first < last) {
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);  // advice: may fail
  }
#endif
  return y;
}

inline int64_t bytes_of(const Tensor& x) {
  return x.numel() * x.element_size();
}

// Whether an op that reads and writes `bytes` sends its results past the caches (stream.h), in runs
// of `run` elements. Where less is touched, the next op finds the results in a cache, and both
// together are faster without.
inline bool goes_past_caches(int64_t bytes, int64_t run, std::initializer_list<Tensor> results) {
  constexpr int64_t in_cache = 24 << 20;
  return bytes >= in_cache && std::ranges::all_of(results, [&](const Tensor& y) {
           return run * y.element_size() % line_bytes == 0 &&
                  reinterpret_cast<uintptr_t>(y.const_data_ptr()) % line_bytes == 0;
         });
}

}  // namespace megafm::cpu
