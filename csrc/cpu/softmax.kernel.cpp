// Softmax over the vocabulary, the loops: compiled once per instruction set (isa.h), vectorised by
// the compiler. Forward reads the logits once, backward reads them once and writes the gradient.

#include "cpu/softmax.h"

#include "cpu/vector_math.h"

namespace megafm::cpu::MEGAFM_ISA {

// Elements whose maximum is found before their exponentials are summed: they stay in the
// first-level cache between the two, and a partial sum of so few loses little.
constexpr int64_t block = 1024;

template <typename T>
static inline float largest(const T* x, int64_t count, float most) {
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < count; ++i) {
    const float value = load(x[i]);
    most = value > most ? value : most;  // passes over a NaN, which the sum keeps
  }
  return most;
}

template <typename T>
static inline float sum_of_exp(const T* x, int64_t count, float shift) {
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < count; ++i) {
    total += exp_of_normal(load(x[i]) - shift);
  }
  return total;
}

// top = max(logits), log_total = log(sum(exp(logits - top))), picked = logits[column] - top (0
// where there is no column). A row of -inf alone has top = log_total = -inf.
template <typename T>
void softmax_stats(const LogitRows<T>& at, const SoftmaxStats& to, int64_t begin, int64_t end) {
  constexpr float infinity = __builtin_inff();
  for (int64_t row = begin; row < end; ++row) {
    const T* logits = at.logits + row * at.stride;
    float top = -infinity, shift = 0, total = 0;
    for (int64_t i = 0; i < at.vocab; i += block) {
      const int64_t count = at.vocab - i < block ? at.vocab - i : block;
      const float most = largest(logits + i, count, top);
      if (most > top) {
        total *= exp(top - most);
        top = shift = most;
      }
      total += sum_of_exp(logits + i, count, shift);
    }
    const int64_t column = at.columns[row];
    to.top[row] = top;
    to.log_total[row] = __builtin_logf(total);
    to.picked[row] = column == no_column ? 0 : load(logits[column]) - shift;
  }
}

// d_logits = softmax * d_lse, and d_picked more at the column; where the logits are the output of
// a soft cap, softcap * tanh(x / softcap), times the slope of that. A row that no gradient reaches
// has zeros, whatever its logits are.
template <typename T>
void softmax_backward(const LogitRows<T>& at, const SoftmaxGradient& from, T* d_logits,
                      int64_t begin, int64_t end) {
  const int64_t vocab = at.vocab;
  for (int64_t row = begin; row < end; ++row) {
    const T* logits = at.logits + row * at.stride;
    T* d_row = d_logits + row * vocab;
    const float d_lse = from.d_lse[row], d_picked = from.d_picked[row];
    const int64_t column = at.columns[row];
    if (d_lse == 0 && (d_picked == 0 || column == no_column)) {
#pragma omp simd
      for (int64_t i = 0; i < vocab; ++i) {
        store(d_row[i], 0);
      }
      continue;
    }
    const float top = from.top[row], log_total = from.log_total[row];
    const float softcap = from.softcap;
    const auto gradient = [=](float x) { return exp_of_normal(x - top - log_total) * d_lse; };
    const auto slope = [=](float x) { return 1 - (x / softcap) * (x / softcap); };
    float at_column = 0;
    if (column != no_column) {
      const float x = load(logits[column]);
      at_column = (gradient(x) + d_picked) * (softcap == 0 ? 1 : slope(x));
    }
    if (softcap == 0) {
#pragma omp simd
      for (int64_t i = 0; i < vocab; ++i) {
        store(d_row[i], gradient(load(logits[i])));
      }
    } else {
#pragma omp simd
      for (int64_t i = 0; i < vocab; ++i) {
        const float x = load(logits[i]);
        store(d_row[i], gradient(x) * slope(x));
      }
    }
    if (column != no_column) {
      store(d_row[column], at_column);
    }
  }
}

#define MEGAFM_INSTANTIATE(T)                                                              \
  template void softmax_stats(const LogitRows<T>&, const SoftmaxStats&, int64_t, int64_t); \
  template void softmax_backward(const LogitRows<T>&, const SoftmaxGradient&, T*, int64_t, \
                                 int64_t);
MEGAFM_INSTANTIATE(float)
MEGAFM_INSTANTIATE(bf16)

}  // namespace megafm::cpu::MEGAFM_ISA
