// SwiGLU on CUDA: the launchers. Rows of `dim` elements, at a stride where they are read.

#pragma once

#include <cstdint>

#include "cuda/storage.h"

namespace megafm::cuda {

struct SwigluForward {
  const void* gate;
  const void* up;
  void* out;
  int64_t rows;
  int64_t dim;
  int64_t gate_stride;
  int64_t up_stride;
  Storage storage;
};

struct SwigluBackward {
  const void* d_out;
  const void* gate;
  const void* up;
  void* d_gate;
  void* d_up;
  int64_t rows;
  int64_t dim;
  int64_t d_out_stride;
  int64_t gate_stride;
  int64_t up_stride;
  Storage storage;
};

void swiglu_forward(SwigluForward at, void* stream);

void swiglu_backward(SwigluBackward at, void* stream);

}  // namespace megafm::cuda
