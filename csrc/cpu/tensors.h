// What the host side of every CPU op needs: tensors as rows of stored elements, rows as tasks.

#pragma once

#include <algorithm>
#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "cpu/storage.h"
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

}  // namespace megafm::cpu
