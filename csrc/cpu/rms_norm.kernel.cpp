// RMSNorm, the loops: compiled once per instruction set (isa.h), vectorised by the compiler.
//
// Forward moves 8 bytes per fp32 element (16 with a residual), backward 12: a row is read from
// memory once and stays in the first-level cache for its second pass.

#include "cpu/rms_norm.h"

#include "cpu/stream.h"
#include "cpu/vectors.h"

namespace megafm::cpu::MEGAFM_ISA {

// The sum of term(at) over the columns of a row, where at(x) is a vector of columns of the row x, or
// one. Four sums: an addition waits four cycles for the one before.
template <typename Term>
static inline float sum_columns(int64_t dim, const Term& term) {
  constexpr int num_sums = 4;
  vec sums[num_sums] = {};
  int64_t column = 0;
  for (; column + num_sums * vec_width <= dim; column += num_sums * vec_width) {
#pragma GCC unroll 4
    for (int k = 0; k < num_sums; ++k) {
      sums[k] += term([=](const auto* x) { return load_vec(x + column + k * vec_width); });
    }
  }
  const vec sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  float total = 0;
  for (; column < dim; ++column) {
    total += term([=](const auto* x) { return load(x[column]); });
  }
  for (int64_t lane = 0; lane < vec_width; ++lane) {
    total += sum[lane];
  }
  return total;
}

template <bool past_caches, typename T, typename W>
static void norm_forward_rows(const NormForward<T>& at, const W* weight, int64_t begin,
                              int64_t end) {
  const int64_t dim = at.dim;
  for (int64_t row = begin; row < end; ++row) {
    const T* x = at.x + row * dim;
    float squares = 0;
    if (at.residual != nullptr) {
      const T* residual = at.residual + row * dim;
      T* total = at.total + row * dim;
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < dim; ++i) {
        store(total[i], load(x[i]) + load(residual[i]));
        const float rounded = load(total[i]);
        squares += rounded * rounded;
      }
      x = total;
    } else {
      squares = sum_columns(dim, [=](const auto& at) { return at(x) * at(x); });
    }
    const float rstd = 1 / __builtin_sqrtf(squares / static_cast<float>(dim) + at.eps);
    at.rstd[row] = rstd;
    T* const y[] = {at.y + row * dim};
    write_rows<past_caches>(y, dim, [&](int64_t column, int64_t count, T* const (&to)[1]) {
      const T* in = x + column;
      const W* scale = weight + column;
      if constexpr (past_caches) {
        prefetch_row_ahead(at.x + row * dim + column, dim);
      }
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        store(to[0][i], load(in[i]) * rstd * load(scale[i]));
      }
    });
  }
}

template <typename T, typename W>
void norm_forward(const NormForward<T>& at, const W* weight, int64_t begin, int64_t end) {
  if (at.past_caches) {
    norm_forward_rows<true>(at, weight, begin, end);
    end_stream();
  } else {
    norm_forward_rows<false>(at, weight, begin, end);
  }
}

// With n = x * rstd and g = d_y * weight:
//   d_x = rstd * (g - n * mean(g * n)) + d_total,   d_weight = sum over rows of d_y * n
template <bool past_caches, typename T, typename W>
static void norm_backward_rows(const NormBackward<T>& at, const W* weight, int64_t begin,
                               int64_t end) {
  const int64_t dim = at.dim;
  for (int64_t row = begin; row < end; ++row) {
    const T* d_y = at.d_y + row * dim;
    const T* x = at.x + row * dim;
    const float rstd = at.rstd[row];
    const float dot =
        sum_columns(dim, [=](const auto& at) { return at(d_y) * at(weight) * at(x); });
    const float along_x = dot * rstd * rstd * rstd / static_cast<float>(dim);
    const T* d_total = at.d_total == nullptr ? nullptr : at.d_total + row * dim;
    T* const d_x[] = {at.d_x + row * dim};
    write_rows<past_caches>(d_x, dim, [&](int64_t column, int64_t count, T* const (&to)[1]) {
      const T *d_out = d_y + column, *in = x + column;
      const T* further = d_total == nullptr ? nullptr : d_total + column;
      const W* scale = weight + column;
      float* d_weight = at.d_weight + column;
      if constexpr (past_caches) {
        prefetch_row_ahead(d_out, dim);
        prefetch_row_ahead(in, dim);
      }
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) {
        const float g = load(d_out[i]);
        const float own = g * load(scale[i]) * rstd - load(in[i]) * along_x;
        d_weight[i] += g * load(in[i]) * rstd;
        store(to[0][i], further == nullptr ? own : own + load(further[i]));
      }
    });
  }
}

template <typename T, typename W>
void norm_backward(const NormBackward<T>& at, const W* weight, int64_t begin, int64_t end) {
  if (at.past_caches) {
    norm_backward_rows<true>(at, weight, begin, end);
    end_stream();
  } else {
    norm_backward_rows<false>(at, weight, begin, end);
  }
}

template <typename W>
void sum_rows(float* partial, int64_t rows, int64_t dim, W* out) {
  for (int64_t row = 1; row < rows; ++row) {
    const float* addend = partial + row * dim;
#pragma omp simd
    for (int64_t i = 0; i < dim; ++i) {
      partial[i] += addend[i];
    }
  }
#pragma omp simd
  for (int64_t i = 0; i < dim; ++i) {
    store(out[i], partial[i]);
  }
}

#define MEGAFM_INSTANTIATE(T, W)                                                 \
  template void norm_forward(const NormForward<T>&, const W*, int64_t, int64_t); \
  template void norm_backward(const NormBackward<T>&, const W*, int64_t, int64_t);
MEGAFM_INSTANTIATE(float, float)
MEGAFM_INSTANTIATE(bf16, bf16)
MEGAFM_INSTANTIATE(bf16, float)
template void sum_rows(float*, int64_t, int64_t, float*);
template void sum_rows(float*, int64_t, int64_t, bf16*);

}  // namespace megafm::cpu::MEGAFM_ISA
