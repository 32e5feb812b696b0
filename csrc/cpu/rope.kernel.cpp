// Rotary position embedding, the loops: compiled once per instruction set (isa.h), vectorised by
// the compiler. Moves 8 bytes per fp32 element; a token's cos and sin stay in the first-level cache.

#include "cpu/rope.h"

#include "cpu/stream.h"

namespace megafm::cpu::MEGAFM_ISA {

template <typename T>
static inline void turn_halves(const T* x, T* y, const float* cos, const float* sin, float sign,
                               int64_t half) {
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const float first = load(x[i]), second = load(x[i + half]), s = sin[i] * sign;
    store(y[i], first * cos[i] - second * s);
    store(y[i + half], second * cos[i] + first * s);
  }
}

template <typename T>
static inline void turn_neighbours(const T* x, T* y, const float* cos, const float* sin, float sign,
                                   int64_t half) {
#pragma omp simd
  for (int64_t i = 0; i < half; ++i) {
    const float first = load(x[2 * i]), second = load(x[2 * i + 1]), s = sin[i] * sign;
    store(y[2 * i], first * cos[i] - second * s);
    store(y[2 * i + 1], second * cos[i] + first * s);
  }
}

template <typename T>
void rope_tokens(const Heads<T>& at, const Angles& angles, int64_t begin, int64_t end) {
  const int64_t half = angles.half;
  alignas(line_bytes) T turned[longest_streamed];
  for (int64_t token = begin; token < end; ++token) {
    const int64_t batch = token / angles.seq, step = token % angles.seq;
    const int64_t* positions = angles.positions;
    const int64_t position =
        positions == nullptr ? step : positions[batch * angles.positions_batch_stride + step];
    const float* cos = angles.cos + position * half;
    const float* sin = angles.sin + position * half;
    const T* x = at.from + batch * at.batch_stride + step * at.seq_stride;
    T* to = at.to + token * at.heads * 2 * half;
    for (int64_t head = 0; head < at.heads; ++head) {
      T* y = at.past_caches ? turned : to;
      if (at.past_caches) {
        prefetch_page_ahead(x, 2 * half);
      }
      if (angles.interleaved) {
        turn_neighbours(x, y, cos, sin, angles.sign, half);
      } else {
        turn_halves(x, y, cos, sin, angles.sign, half);
      }
      if (at.past_caches) {
        stream(turned, to, 2 * half);
      }
      x += at.head_stride;
      to += 2 * half;
    }
  }
  end_stream();
}

template void rope_tokens(const Heads<float>&, const Angles&, int64_t, int64_t);
template void rope_tokens(const Heads<bf16>&, const Angles&, int64_t, int64_t);

}  // namespace megafm::cpu::MEGAFM_ISA
