// Softmax over the vocabulary, the loops: compiled once per instruction set (isa.h), vectorised by
// the compiler. Forward reads the logits once, backward reads them once and writes the gradient.

#include "cpu/softmax.h"

#include "cpu/stream.h"
#include "cpu/vector_math.h"

namespace megafm::cpu::MEGAFM_ISA {

// Elements that are summed at a time: what has to be read again, where their largest is far above
// the largest before, is in the first-level cache, and a partial sum of so few loses little.
constexpr int64_t block = 4096;
constexpr int64_t first_look = 64;  // elements whose largest is the first shift
// Where the largest is less above the shift, e^-4 stands beside the 1 of the largest: log_total is
// no small number, whose digits the change of the shift could cost.
constexpr float far_above = 4;
constexpr int64_t ahead = 8192;  // bytes between what is summed and what is fetched from memory

template <typename T>
static inline float largest(const T* x, int64_t count) {
  float most = -__builtin_inff();
#pragma omp simd reduction(max : most)
  for (int64_t i = 0; i < count; ++i) {
    most = larger(load(x[i]), most);  // passes over a NaN, which the sum keeps
  }
  return most;
}

struct SumOfExp {
  float most;
  float total;
};

// The sum of exp(x - shift), and the largest x if it is above `most`, in one pass.
template <typename T>
static inline SumOfExp sum_of_exp(const T* x, int64_t count, float shift, float most) {
  constexpr int num_sums = 4;
  vec tops[num_sums], totals[num_sums] = {};
  for (vec& top : tops) {
    top = vec{} + most;
  }
  int64_t i = 0;
  for (; i + num_sums * vec_width <= count; i += num_sums * vec_width) {
#pragma GCC unroll 4
    for (int k = 0; k < num_sums; ++k) {
      const T* at = x + i + k * vec_width;
      if (k * vec_width * sizeof(T) % line_bytes == 0) {
        __builtin_prefetch(reinterpret_cast<const char*>(at) + ahead);
      }
      const vec value = load_vec(at);
      tops[k] = larger(value, tops[k]);
      totals[k] += exp_of_negative(value - shift);  // what is above e^88 is summed again
    }
  }
  const vec top = larger(larger(tops[0], tops[1]), larger(tops[2], tops[3]));
  const vec sums = (totals[0] + totals[1]) + (totals[2] + totals[3]);
  float total = 0;
#pragma omp simd reduction(max : most) reduction(+ : total)
  for (int64_t rest = i; rest < count; ++rest) {
    most = larger(load(x[rest]), most);
    total += exp_of_negative(load(x[rest]) - shift);
  }
  for (int64_t lane = 0; lane < vec_width; ++lane) {
    most = larger(top[lane], most);
    total += sums[lane];
  }
  return {most, total};
}

// top = max(logits), log_total = log(sum(exp(logits - top))), picked = logits[column] - top (0
// where there is no column). A row of -inf alone has top = log_total = -inf.
template <typename T>
void softmax_stats(const LogitRows<T>& at, const SoftmaxStats& to, int64_t begin, int64_t end) {
  constexpr float infinity = __builtin_inff();
  for (int64_t row = begin; row < end; ++row) {
    const T* logits = at.logits + row * at.stride;
    const float first = largest(logits, at.vocab < first_look ? at.vocab : first_look);
    float top = first, shift = first == -infinity ? 0 : first, total = 0;
    for (int64_t i = 0; i < at.vocab; i += block) {
      const int64_t count = at.vocab - i < block ? at.vocab - i : block;
      SumOfExp sum = sum_of_exp(logits + i, count, shift, top);
      if (sum.most > shift + far_above || (top == -infinity && sum.most > top)) {
        total *= sum.most > shift ? exp(shift - sum.most) : 1;  // else -inf was all there was
        shift = sum.most;
        sum.total = sum_of_exp(logits + i, count, shift, shift).total;
      }
      top = sum.most;
      total += sum.total;
    }
    const float origin = top == -infinity ? 0 : top;
    const int64_t column = at.columns[row];
    to.top[row] = top;
    to.log_total[row] = __builtin_logf(total * exp(shift - origin));
    to.picked[row] = column == no_column ? 0 : load(logits[column]) - origin;
  }
}

// d_logits = softmax * d_lse, and d_picked more at the column; where the logits are the output of
// a soft cap, softcap * tanh(x / softcap), times the slope of that. A row that no gradient reaches
// has zeros, whatever its logits are.
template <bool past_caches, typename T>
static void backward_rows(const LogitRows<T>& at, const SoftmaxGradient& from, T* d_logits,
                          int64_t begin, int64_t end) {
  const int64_t vocab = at.vocab;
  for (int64_t row = begin; row < end; ++row) {
    const T* logits = at.logits + row * at.stride;
    T* const d_row[] = {d_logits + row * vocab};
    // Writes value(logit) for each logit of the row.
    const auto write = [&](auto value) {
      write_rows<past_caches>(d_row, vocab, [&](int64_t first, int64_t count, T* const (&to)[1]) {
        const T* in = logits + first;
        if constexpr (past_caches) {
          prefetch_page_ahead(in, count);
        }
#pragma omp simd
        for (int64_t i = 0; i < count; ++i) {
          store(to[0][i], value(load(in[i])));
        }
      });
    };
    const float d_lse = from.d_lse[row], d_picked = from.d_picked[row];
    const int64_t column = at.columns[row];
    if (d_lse == 0 && (d_picked == 0 || column == no_column)) {
      write([](float) { return 0.0f; });
      continue;
    }
    const float top = from.top[row], log_total = from.log_total[row];
    const float softcap = from.softcap;
    const float scale = exp(-log_total) * d_lse;
    const auto gradient = [=](float x) { return exp_of_negative(x - top) * scale; };
    const auto slope = [=](float x) { return 1 - (x / softcap) * (x / softcap); };
    float at_column = 0;
    if (column != no_column) {
      const float x = load(logits[column]);
      at_column = (gradient(x) + d_picked) * (softcap == 0 ? 1 : slope(x));
    }
    if (softcap == 0) {
      write(gradient);
    } else {
      write([=](float x) { return gradient(x) * slope(x); });
    }
    if (column != no_column) {
      store(d_row[0][column], at_column);
    }
  }
}

template <typename T>
void softmax_backward(const LogitRows<T>& at, const SoftmaxGradient& from, T* d_logits,
                      int64_t begin, int64_t end) {
  if (from.past_caches) {
    backward_rows<true>(at, from, d_logits, begin, end);
    end_stream();
  } else {
    backward_rows<false>(at, from, d_logits, begin, end);
  }
}

#define MEGAFM_INSTANTIATE(T)                                                              \
  template void softmax_stats(const LogitRows<T>&, const SoftmaxStats&, int64_t, int64_t); \
  template void softmax_backward(const LogitRows<T>&, const SoftmaxGradient&, T*, int64_t, \
                                 int64_t);
MEGAFM_INSTANTIATE(float)
MEGAFM_INSTANTIATE(bf16)

}  // namespace megafm::cpu::MEGAFM_ISA
