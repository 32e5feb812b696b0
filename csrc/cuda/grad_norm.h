// Sums of squares of many tensors on CUDA: the launcher.

#pragma once

#include <cstdint>
#include <span>

#include "cuda/storage.h"

namespace megafm::cuda {

struct NormEntry {
  const void* x;  // contiguous
  int64_t size;
};

constexpr int64_t norm_chunk = 16384;  // elements of one sum; megafm.ops.cpp.grad_norm.CHUNK

// sums has one for each chunk of each tensor, one tensor after the other.
void square_sums(std::span<const NormEntry> entries, double* sums, Storage storage, void* stream);

}  // namespace megafm::cuda
