// SwiGLU, the loops: compiled once per instruction set (isa.h), vectorised by the compiler.
//
// Forward moves 12 bytes per fp32 element, backward 20: it forms the sigmoid again from the gate.

#include "cpu/swiglu.h"

#include "cpu/vector_math.h"

namespace megafm::cpu::MEGAFM_ISA {

template <typename T>
void swiglu_forward(const GateAndUp<T>& at, T* out, int64_t begin, int64_t end) {
  const int64_t dim = at.dim;
  for (int64_t row = begin; row < end; ++row) {
    const T* gate = at.gate + row * at.gate_stride;
    const T* up = at.up + row * at.up_stride;
    T* y = out + row * dim;
#pragma omp simd
    for (int64_t i = 0; i < dim; ++i) {
      const float g = load(gate[i]);
      store(y[i], g / (1 + exp_of_normal(-g)) * load(up[i]));
    }
  }
}

// With s = sigmoid(gate):
//   d_gate = d_out * up * s * (1 + gate * (1 - s)),   d_up = d_out * gate * s
template <typename T>
void swiglu_backward(const GateAndUp<T>& at, const T* d_out, int64_t d_out_stride, T* d_gate,
                     T* d_up, int64_t begin, int64_t end) {
  const int64_t dim = at.dim;
  for (int64_t row = begin; row < end; ++row) {
    const T* gate = at.gate + row * at.gate_stride;
    const T* up = at.up + row * at.up_stride;
    const T* d_y = d_out + row * d_out_stride;
    T* d_g = d_gate + row * dim;
    T* d_u = d_up + row * dim;
#pragma omp simd
    for (int64_t i = 0; i < dim; ++i) {
      const float g = load(gate[i]), d = load(d_y[i]);
      const float s = 1 / (1 + exp_of_normal(-g));
      store(d_g[i], d * load(up[i]) * s * (1 + g * (1 - s)));
      store(d_u[i], d * (g * s));
    }
  }
}

#define MEGAFM_INSTANTIATE(T)                                                            \
  template void swiglu_forward(const GateAndUp<T>&, T*, int64_t, int64_t);               \
  template void swiglu_backward(const GateAndUp<T>&, const T*, int64_t, T*, T*, int64_t, \
                                int64_t);
MEGAFM_INSTANTIATE(float)
MEGAFM_INSTANTIATE(bf16)

}  // namespace megafm::cpu::MEGAFM_ISA
