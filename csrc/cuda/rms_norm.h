// RMSNorm on CUDA: the launchers. Rows are contiguous; `storage` is that of activations.

#pragma once

#include <cstdint>

#include "cuda/storage.h"

namespace megafm::cuda {

// y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps). With `residual`: total = x + residual
// (rounded to the storage) takes the place of x. rows x dim; rstd has one float per row.
struct NormForward {
  const void* x;
  const void* residual;  // or null
  const void* weight;
  void* total;  // written where there is a residual
  void* y;
  float* rstd;
  int64_t rows;
  int64_t dim;
  float eps;
  Storage storage;
  Storage weight_storage;  // as `storage`, or fp32
};

struct NormBackward {
  const void* d_y;
  const void* d_total;  // the gradient that reaches x + residual on its own way, or null
  const void* x;
  const void* weight;
  const float* rstd;
  void* d_x;
  void* d_weight;
  float* partials;  // rms_norm_num_partials() x dim, overwritten
  int64_t rows;
  int64_t dim;
  Storage storage;
  Storage weight_storage;
};

void rms_norm_forward(const NormForward& at, void* stream);

void rms_norm_backward(const NormBackward& at, void* stream);

// Sums of the weight's gradient, each over some of the rows, that the backward adds up at the end:
// their number depends on the shape alone, so the bits do not depend on the device.
int64_t rms_norm_num_partials(int64_t rows, int64_t dim, Storage storage);

}  // namespace megafm::cuda
