// AdamW on CUDA: the launcher. Formulas in megafm/ops/adamw.py.

#pragma once

#include <cstdint>
#include <span>

#include "cuda/storage.h"

namespace megafm::cuda {

// One parameter; all its tensors are contiguous.
struct AdamwEntry {
  void* param;
  const void* grad;
  void* exp_avg;
  void* exp_avg_sq;
  void* master;  // float32, or null
  int64_t size;
};

// The numbers of a step, the same for all parameters.
struct AdamwStep {
  float beta1;
  float one_minus_beta1;  // rounded once: as 1 - beta1 in fp32 it would have lost digits
  float beta2;
  float one_minus_beta2;
  float decay;        // what is left of a parameter
  float step_size;    // lr / correction1
  float scale_root;   // 1 / sqrt(correction2)
  float eps;
  Storage storage;    // of parameters and gradients; with masters the moments are float32
  bool has_masters;
};

void adamw(std::span<const AdamwEntry> entries, const AdamwStep& step, void* stream);

}  // namespace megafm::cuda
