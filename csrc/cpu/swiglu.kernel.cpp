// SwiGLU, the loops: compiled once per instruction set (isa.h), vectorised by the compiler.
//
// Forward moves 12 bytes per fp32 element, backward 20: it forms the sigmoid again from the gate.

#include "cpu/swiglu.h"

#include "cpu/stream.h"
#include "cpu/vector_math.h"

namespace megafm::cpu::MEGAFM_ISA {

template <bool past_caches, typename T>
static void forward_rows(const GateAndUp<T>& at, T* out, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* gate = at.gate + row * at.gate_stride;
    const T* up = at.up + row * at.up_stride;
    T* const y[] = {out + row * at.dim};
    write_rows<past_caches>(y, at.dim, [&](int64_t column, int64_t count, T* const (&to)[1]) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const float g = load(gate[column + i]);
        store(to[0][i], g / (1 + exp_of_normal(-g)) * load(up[column + i]));
      }
    });
  }
}

template <typename T>
void swiglu_forward(const GateAndUp<T>& at, T* out, int64_t begin, int64_t end) {
  if (at.past_caches) {
    forward_rows<true>(at, out, begin, end);
    end_stream();
  } else {
    forward_rows<false>(at, out, begin, end);
  }
}

// With s = sigmoid(gate):
//   d_gate = d_out * up * s * (1 + gate * (1 - s)),   d_up = d_out * gate * s
template <bool past_caches, typename T>
static void backward_rows(const GateAndUp<T>& at, const T* d_out, int64_t d_out_stride, T* d_gate,
                          T* d_up, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const T* gate = at.gate + row * at.gate_stride;
    const T* up = at.up + row * at.up_stride;
    const T* d_y = d_out + row * d_out_stride;
    T* const gradients[] = {d_gate + row * at.dim, d_up + row * at.dim};
    const auto form = [&](int64_t column, int64_t count, T* const (&to)[2]) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const float g = load(gate[column + i]), d = load(d_y[column + i]);
        const float s = 1 / (1 + exp_of_normal(-g));
        store(to[0][i], d * load(up[column + i]) * s * (1 + g * (1 - s)));
        store(to[1][i], d * (g * s));
      }
    };
    write_rows<past_caches>(gradients, at.dim, form);
  }
}

template <typename T>
void swiglu_backward(const GateAndUp<T>& at, const T* d_out, int64_t d_out_stride, T* d_gate,
                     T* d_up, int64_t begin, int64_t end) {
  if (at.past_caches) {
    backward_rows<true>(at, d_out, d_out_stride, d_gate, d_up, begin, end);
    end_stream();
  } else {
    backward_rows<false>(at, d_out, d_out_stride, d_gate, d_up, begin, end);
  }
}

#define MEGAFM_INSTANTIATE(T)                                                            \
  template void swiglu_forward(const GateAndUp<T>&, T*, int64_t, int64_t);               \
  template void swiglu_backward(const GateAndUp<T>&, const T*, int64_t, T*, T*, int64_t, \
                                int64_t);
MEGAFM_INSTANTIATE(float)
MEGAFM_INSTANTIATE(bf16)

}  // namespace megafm::cpu::MEGAFM_ISA
