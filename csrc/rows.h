// What the host side of every op needs, on any device: tensors as rows of stored elements.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <optional>

namespace megafm {

namespace stable = torch::stable;
using stable::Tensor;
using torch::headeronly::ScalarType;

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

inline std::optional<Tensor> contiguous(const std::optional<Tensor>& x) {
  return x ? std::optional(stable::contiguous(*x)) : std::nullopt;
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

}  // namespace megafm
