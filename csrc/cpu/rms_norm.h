// The loops of RMSNorm over contiguous rows; T stores activations, W the weight.

#pragma once

#include "cpu/isa.h"
#include "cpu/storage.h"

namespace megafm::cpu {

// y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps). With `residual`: total = x + residual
// (rounded to T) takes the place of x. rows x dim; rstd has one float per row.
template <typename T>
struct NormForward {
  const T* x;
  const T* residual;  // or null
  T* total;           // written where there is a residual
  T* y;
  float* rstd;
  int64_t dim;
  float eps;
  bool past_caches;  // how y is written: stream.h
};

// d_x, and d_weight summed into one row of floats that the caller has set to zero.
template <typename T>
struct NormBackward {
  const T* d_y;
  const T* d_total;  // the gradient that reaches x + residual on its own way, or null
  const T* x;
  const float* rstd;
  T* d_x;
  float* d_weight;
  int64_t dim;
  bool past_caches;  // how d_x is written: stream.h
};

#define MEGAFM_RMS_NORM                                                                    \
  template <typename T, typename W>                                                        \
  void norm_forward(const NormForward<T>&, const W* weight, int64_t begin, int64_t end);   \
  template <typename T, typename W>                                                        \
  void norm_backward(const NormBackward<T>&, const W* weight, int64_t begin, int64_t end); \
  template <typename W> /* out = sum of the rows; overwrites partial */                   \
  void sum_rows(float* partial, int64_t rows, int64_t dim, W* out);
MEGAFM_FOR_EACH_ISA(MEGAFM_RMS_NORM)
#undef MEGAFM_RMS_NORM

}  // namespace megafm::cpu
