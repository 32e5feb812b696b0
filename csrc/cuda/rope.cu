// Rotary position embedding on CUDA. Bytes per element of 16 bits: 4 (read, write). A thread keeps
// the cosines and sines of its pairs and turns the same pairs of several heads of q and of k.
//
// gate rope<*>: registers 80
// gate rope<*, [248], *>: LDG.E.128 STG.E.128

#include "cuda/rope.h"

#include <algorithm>
#include <type_traits>

#include "cuda/storage.cuh"

namespace megafm::cuda {
namespace {

constexpr int num_threads = 128;
constexpr int heads_per_thread = 4;

// The threads that share a token.
struct Lanes {
  int64_t per_head;  // threads that turn one head, P pairs each
  int64_t heads;     // heads turned at a time
};

// Pairs [pair, pair + P) of a head: (i, i + half), or (2i, 2i + 1).
template <typename T, int P, bool interleaved>
__device__ inline void turn(const T* from, T* to, int64_t pair, int64_t half,
                            const Run<float, P>& cos, const Run<float, P>& sin) {
  constexpr bool scalar = interleaved && P == 1;  // its neighbours have no common alignment
  Run<T, P> first, second;
  Run<T, 2 * P> both;
  if constexpr (scalar) {
    first[0] = from[2 * pair];
    second[0] = from[2 * pair + 1];
  } else if constexpr (interleaved) {
    both = load_run<2 * P>(from + 2 * pair);
  } else {
    first = load_run<P>(from + pair);
    second = load_run<P>(from + half + pair);
  }
#pragma unroll
  for (int j = 0; j < P; ++j) {
    const float a = widen(interleaved && !scalar ? both[2 * j] : first[j]);
    const float b = widen(interleaved && !scalar ? both[2 * j + 1] : second[j]);
    first[j] = narrow<T>(a * cos[j] - b * sin[j]);
    second[j] = narrow<T>(b * cos[j] + a * sin[j]);
    both[2 * j] = first[j];
    both[2 * j + 1] = second[j];
  }
  if constexpr (scalar) {
    to[2 * pair] = first[0];
    to[2 * pair + 1] = second[0];
  } else if constexpr (interleaved) {
    store_run(to + 2 * pair, both);
  } else {
    store_run(to + pair, first);
    store_run(to + half + pair, second);
  }
}

template <typename T, int P, bool interleaved>
__device__ inline void turn_heads(const RopeHeads& x, int64_t batch, int64_t step, int64_t token,
                                  int64_t lane, int64_t lanes, int64_t pair, int64_t half,
                                  const Run<float, P>& cos, const Run<float, P>& sin) {
  const T* from = static_cast<const T*>(x.from) + batch * x.batch_stride + step * x.seq_stride;
  T* to = static_cast<T*>(x.to) + token * x.heads * 2 * half;
#pragma unroll 2
  for (int64_t head = lane; head < x.heads; head += lanes) {
    turn<T, P, interleaved>(from + head * x.head_stride, to + head * 2 * half, pair, half, cos, sin);
  }
}

template <typename T, int P, bool interleaved>
__global__ void __launch_bounds__(num_threads) rope(RopeTurn at, Lanes lanes) {
  const int64_t thread = int64_t{blockIdx.x} * num_threads + threadIdx.x;
  const int64_t pair = thread % lanes.per_head * P;
  const int64_t lane = thread / lanes.per_head % lanes.heads;
  const int64_t token = thread / (lanes.per_head * lanes.heads);
  if (token >= at.batch * at.seq) {
    return;
  }
  const int64_t batch = token / at.seq, step = token % at.seq;
  const int64_t* positions = at.positions;
  const int64_t position =
      positions == nullptr ? step : positions[batch * at.positions_batch_stride + step];
  Run<float, P> cos, sin;
  if (position >= 0 && position < at.limit) {
    cos = load_run<P>(at.cos + position * at.half + pair);
    sin = load_run<P>(at.sin + position * at.half + pair);
  } else {
#pragma unroll
    for (int j = 0; j < P; ++j) {
      cos[j] = sin[j] = NAN;
    }
  }
#pragma unroll
  for (int j = 0; j < P; ++j) {
    sin[j] *= at.sign;
  }
  turn_heads<T, P, interleaved>(at.q, batch, step, token, lane, lanes.heads, pair, at.half, cos,
                                sin);
  turn_heads<T, P, interleaved>(at.k, batch, step, token, lane, lanes.heads, pair, at.half, cos,
                                sin);
}

// Whether every head begins where an access of n elements may.
bool fits(const RopeHeads& x, int64_t n) {
  return aligned(x.from, x.to) && x.batch_stride % n == 0 && x.seq_stride % n == 0 &&
         x.head_stride % n == 0;
}

template <typename T, int P, bool interleaved>
void launch_rope(const RopeTurn& at, cudaStream_t stream) {
  const int64_t most_heads = std::max(at.q.heads, at.k.heads);
  const Lanes lanes{at.half / P, (most_heads + heads_per_thread - 1) / heads_per_thread};
  const int64_t threads = at.batch * at.seq * lanes.per_head * lanes.heads;
  if (threads == 0) {
    return;
  }
  const dim3 grid(static_cast<unsigned>((threads + num_threads - 1) / num_threads));
  launch(rope<T, P, interleaved>, grid, dim3(num_threads), 0, stream, at, lanes);
}

}  // namespace

void rope_turn(const RopeTurn& at, void* stream_in) {
  const auto stream = static_cast<cudaStream_t>(stream_in);
  for_storage(at.storage, [&](auto* storage) {
    using T = std::remove_pointer_t<decltype(storage)>;
    constexpr int N = vector_size<T>;
    const bool vectors = aligned(at.cos, at.sin) && fits(at.q, N) && fits(at.k, N);
    if (at.interleaved) {
      if (vectors && at.half % (N / 2) == 0) {
        launch_rope<T, N / 2, true>(at, stream);
      } else {
        launch_rope<T, 1, true>(at, stream);
      }
    } else if (vectors && at.half % N == 0) {
      launch_rope<T, N, false>(at, stream);
    } else {
      launch_rope<T, 1, false>(at, stream);
    }
  });
}

}  // namespace megafm::cuda
