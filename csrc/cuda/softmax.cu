// Softmax over the vocabulary on CUDA. Bytes per logit of 16 bits: statistics 2 (one read: maximum
// and sum are kept along the way), gradient 4 (read, write; in place too).
//
// gate stats<*>: registers 64, shared 256
// gate gradient<*>: registers 64
// gate stats<*, [48]>: LDG.E.128
// gate gradient<*, [48]>: LDG.E.128 STG.E.128

#include "cuda/softmax.h"

#include <algorithm>
#include <type_traits>

#include "cuda/storage.cuh"

namespace megafm::cuda {
namespace {

constexpr int most_threads = 512;  // of a row's block
constexpr int num_runs = 4;        // that a thread loads before it uses the first
constexpr int gradient_threads = 256;

// In 16 bits nothing is left of what the fast function loses.
template <typename T>
__device__ inline float exponential(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return expf(x);
  } else {
    return __expf(x);
  }
}

// The maximum of some logits and the sum of exp(logit - maximum).
struct Partial {
  float top, total;
};

// -inf - -inf would be NaN.
__device__ inline float shift_of(float top) {
  return top == -INFINITY ? 0 : top;
}

__device__ inline Partial merge(Partial a, Partial b) {
  const float top = fmaxf(a.top, b.top), shift = shift_of(top);
  return {top, a.total * expf(a.top - shift) + b.total * expf(b.top - shift)};
}

__device__ inline Partial warp_merge(Partial own) {
  for (int offset = 16; offset > 0; offset /= 2) {
    const Partial other{__shfl_xor_sync(0xffffffffu, own.top, offset),
                        __shfl_xor_sync(0xffffffffu, own.total, offset)};
    own = merge(own, other);
  }
  return own;
}

// One block per row. In each of its steps a thread finds the maximum of what it loaded, then adds
// exponentials; a NaN passes over the maximum and stays in the sum.
template <typename T, int N>
__global__ void __launch_bounds__(most_threads) stats(SoftmaxStats at) {
  const int64_t row = blockIdx.x;
  const int64_t step = int64_t{blockDim.x} * N;
  const T* logits = static_cast<const T*>(at.logits) + row * at.stride;
  Partial own{-INFINITY, 0};
  for (int64_t column = int64_t{threadIdx.x} * N; column < at.vocab; column += num_runs * step) {
    Run<T, N> run[num_runs];
    float most = own.top;
#pragma unroll
    for (int i = 0; i < num_runs; ++i) {
      if (column + i * step < at.vocab) {
        run[i] = load_run<N>(logits + column + i * step);
      } else {
#pragma unroll
        for (int j = 0; j < N; ++j) {
          run[i][j] = narrow<T>(-INFINITY);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < num_runs; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        most = fmaxf(most, widen(run[i][j]));
      }
    }
    const float shift = shift_of(most);
    own.total *= expf(own.top - shift);
    own.top = most;
#pragma unroll
    for (int i = 0; i < num_runs; ++i) {
      float sum = 0;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        sum += exponential<T>(widen(run[i][j]) - shift);
      }
      own.total += sum;
    }
  }
  own = warp_merge(own);
  MEGAFM_SHARED(float, tops, 32);
  MEGAFM_SHARED(float, totals, 32);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane == 0) {
    tops[warp] = own.top;
    totals[warp] = own.total;
  }
  __syncthreads();
  if (warp != 0) {
    return;
  }
  own = {-INFINITY, 0};
  if (lane < static_cast<int>(blockDim.x) / 32) {
    own = {tops[lane], totals[lane]};
  }
  own = warp_merge(own);
  if (lane != 0) {
    return;
  }
  const int64_t picked = at.columns[row];
  const bool inside = picked >= 0 && picked < at.vocab;
  const float at_column = inside ? widen(logits[picked]) - shift_of(own.top) : NAN;
  at.top[row] = own.top;
  at.log_total[row] = logf(own.total);
  at.picked[row] = picked == no_column ? 0 : at_column;
}

template <typename T, int N>
__global__ void __launch_bounds__(gradient_threads) gradient(SoftmaxBackward at) {
  constexpr int step = gradient_threads * N;
  const int64_t per_row = (at.vocab + num_runs * step - 1) / (num_runs * step);
  const int64_t row = blockIdx.x / per_row;
  const int64_t first = blockIdx.x % per_row * num_runs * step + threadIdx.x * N;
  const T* logits = static_cast<const T*>(at.logits) + row * at.stride + first;
  T* d_logits = static_cast<T*>(at.d_logits) + row * at.d_stride + first;
  const float d_lse = at.d_lse[row];
  const int64_t wanted = at.columns[row];
  const float d_picked = wanted == no_column ? 0 : at.d_picked[row];
  const bool reached = d_lse != 0 || d_picked != 0;
  const float top = at.top[row], log_total = at.log_total[row];
  Run<T, N> run[num_runs] = {};
#pragma unroll
  for (int i = 0; i < num_runs; ++i) {
    if (reached && first + i * step < at.vocab) {
      run[i] = load_run<N>(logits + i * step);
    }
  }
#pragma unroll
  for (int i = 0; i < num_runs; ++i) {
    if (first + i * step >= at.vocab) {
      break;
    }
    Run<T, N> slope;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float x = widen(run[i][j]);
      float own = 0;
      if (reached) {
        own = exponential<T>(x - top - log_total) * d_lse;
        own += first + i * step + j == wanted ? d_picked : 0;
        own *= at.softcap == 0 ? 1 : 1 - (x / at.softcap) * (x / at.softcap);
      }
      slope[j] = narrow<T>(own);
    }
    store_run(d_logits + i * step, slope);
  }
}

}  // namespace

void softmax_stats(const SoftmaxStats& at, void* stream) {
  if (at.rows == 0) {
    return;
  }
  for_storage(at.storage, [&](auto* storage) {
    using T = std::remove_pointer_t<decltype(storage)>;
    constexpr int N = vector_size<T>;
    const bool vectors = aligned(at.logits) && at.vocab % N == 0 && at.stride % N == 0;
    const int64_t warps = (at.vocab + 32 * N - 1) / (32 * N);
    const dim3 block(static_cast<unsigned>(std::clamp<int64_t>(warps, 1, most_threads / 32) * 32));
    launch(vectors ? stats<T, N> : stats<T, 1>, dim3(static_cast<unsigned>(at.rows)), block, 0,
           static_cast<cudaStream_t>(stream), at);
  });
}

void softmax_backward(const SoftmaxBackward& at, void* stream) {
  if (at.rows == 0 || at.vocab == 0) {
    return;
  }
  for_storage(at.storage, [&](auto* storage) {
    using T = std::remove_pointer_t<decltype(storage)>;
    constexpr int N = vector_size<T>;
    const bool vectors = aligned(at.logits, at.d_logits) && at.vocab % N == 0 &&
                         at.stride % N == 0 && at.d_stride % N == 0;
    const int64_t per_block = int64_t{gradient_threads} * num_runs * (vectors ? N : 1);
    const int64_t blocks = at.rows * ((at.vocab + per_block - 1) / per_block);
    launch(vectors ? gradient<T, N> : gradient<T, 1>, dim3(static_cast<unsigned>(blocks)),
           dim3(gradient_threads), 0, static_cast<cudaStream_t>(stream), at);
  });
}

}  // namespace megafm::cuda
