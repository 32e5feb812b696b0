// The loops of softmax and its gradient over rows of logits; T stores the logits.

#pragma once

#include "cpu/isa.h"
#include "cpu/storage.h"

namespace megafm::cpu {

constexpr int64_t no_column = INT64_MIN;  // megafm.ops.cross_entropy.NO_COLUMN

template <typename T>
struct LogitRows {
  const T* logits;
  int64_t stride;
  int64_t vocab;
  const int64_t* columns;  // one per row, or no_column
};

// One float per row each: see softmax.kernel.cpp.
struct SoftmaxStats {
  float* top;
  float* log_total;
  float* picked;
};

struct SoftmaxGradient {
  const float* top;
  const float* log_total;
  const float* d_lse;
  const float* d_picked;
  float softcap;     // or 0
  bool past_caches;  // how d_logits, which are not the logits, are written: stream.h
};

#define MEGAFM_SOFTMAX                                                                      \
  template <typename T>                                                                     \
  void softmax_stats(const LogitRows<T>&, const SoftmaxStats&, int64_t begin, int64_t end); \
  template <typename T> /* d_logits: rows x vocab; may be the logits */                     \
  void softmax_backward(const LogitRows<T>&, const SoftmaxGradient&, T* d_logits,           \
                        int64_t begin, int64_t end);
MEGAFM_FOR_EACH_ISA(MEGAFM_SOFTMAX)
#undef MEGAFM_SOFTMAX

}  // namespace megafm::cpu
