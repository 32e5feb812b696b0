// Softmax over the vocabulary on CUDA: the launchers. Rows of logits at a stride.

#pragma once

#include <cstdint>

#include "cuda/storage.h"

namespace megafm::cuda {

constexpr int64_t no_column = INT64_MIN;  // megafm.ops.cross_entropy.NO_COLUMN

// top = max(logits), log_total = log(sum(exp(logits - top))), picked = logits[column] - top (0
// where there is no column, NaN where it is outside the row). A row of -inf alone has top =
// log_total = -inf. One float per row each.
struct SoftmaxStats {
  const void* logits;
  const int64_t* columns;
  float* top;
  float* log_total;
  float* picked;
  int64_t rows;
  int64_t vocab;
  int64_t stride;
  Storage storage;
};

// d_logits = softmax * d_lse, and d_picked more at the column; with a soft cap, times the slope of
// softcap * tanh(x / softcap), whose outputs the logits are. Zeros where d_lse and d_picked are 0.
// d_logits may be the logits.
struct SoftmaxBackward {
  const void* logits;
  const int64_t* columns;
  const float* top;
  const float* log_total;
  const float* d_lse;
  const float* d_picked;
  void* d_logits;
  int64_t rows;
  int64_t vocab;
  int64_t stride;
  int64_t d_stride;
  float softcap;  // or 0
  Storage storage;
};

void softmax_stats(const SoftmaxStats& at, void* stream);

void softmax_backward(const SoftmaxBackward& at, void* stream);

}  // namespace megafm::cuda
