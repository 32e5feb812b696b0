// What the host side of every CPU op needs: tensors as rows of stored elements, rows as tasks.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "cpu/storage.h"

namespace megafm::cpu {

namespace stable = torch::stable;
using stable::Tensor;
using torch::headeronly::ScalarType;

constexpr int64_t elements_per_task = 1 << 15;  // below it a thread costs more than it does

inline int64_t rows_per_task(int64_t dim) {
  return std::max<int64_t>(1, elements_per_task / std::max<int64_t>(1, dim));
}

// Of a tensor (..., dim).
inline int64_t rows_of(const Tensor& x) {
  int64_t rows = 1;
  for (int64_t i = 0; i + 1 < x.dim(); ++i) {
    rows *= x.size(i);
  }
  return rows;
}

template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}

template <typename T>
T* mutable_data(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
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

inline void check_like(const char* op, const Tensor& tensor, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(
      tensor.scalar_type() == x.scalar_type() && std::ranges::equal(tensor.sizes(), x.sizes()), op,
      ": ", name, " must have the shape and dtype of the first tensor");
}

// Rows of a tensor (..., dim) at one distance from each other, elements side by side.
struct Rows {
  Tensor tensor;
  int64_t stride;
};

// The tensor itself where its rows lie so, as in a slice of the last dimension; else a copy.
inline Rows as_rows(const Tensor& x) {
  const int64_t last = x.dim() - 1;
  if (x.is_contiguous()) {
    return {x, x.size(last)};
  }
  bool regular = x.stride(last) == 1;
  for (int64_t i = 0; i + 1 < last; ++i) {
    regular = regular && x.stride(i) == x.stride(i + 1) * x.size(i + 1);
  }
  if (regular && last > 0) {
    return {x, x.stride(last - 1)};
  }
  return {stable::contiguous(x), x.size(last)};
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
