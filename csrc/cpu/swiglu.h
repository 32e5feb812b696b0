// The loops of SwiGLU over rows; T stores the elements.

#pragma once

#include "cpu/isa.h"
#include "cpu/storage.h"

namespace megafm::cpu {

// Rows of gate and up, which may be slices of one wider row.
template <typename T>
struct GateAndUp {
  const T* gate;
  const T* up;
  int64_t gate_stride;
  int64_t up_stride;
  int64_t dim;
  bool past_caches;  // how results are written: stream.h
};

#define MEGAFM_SWIGLU                                                                         \
  template <typename T> /* out: rows x dim */                                                 \
  void swiglu_forward(const GateAndUp<T>&, T* out, int64_t begin, int64_t end);               \
  template <typename T> /* d_gate, d_up: rows x dim */                                        \
  void swiglu_backward(const GateAndUp<T>&, const T* d_out, int64_t d_out_stride, T* d_gate, \
                       T* d_up, int64_t begin, int64_t end);
MEGAFM_FOR_EACH_ISA(MEGAFM_SWIGLU)
#undef MEGAFM_SWIGLU

}  // namespace megafm::cpu
