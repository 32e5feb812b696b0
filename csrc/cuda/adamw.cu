// AdamW on CUDA, over all parameters in a few launches. Bytes per parameter: 28 in fp32, and as many
// in 16 bits with an fp32 master (which is read where the parameter is only written); 14 without.
//
// gate adamw_kernel<*>: registers 64, LDG.E.128 STG.E.128

#include "cuda/adamw.h"

#include <type_traits>

#include "cuda/multi_tensor.cuh"

namespace megafm::cuda {
namespace {

constexpr int num_threads = 256;
constexpr int per_thread = 8;  // elements, loaded before the first is used
constexpr int chunk_size = num_threads * per_thread;

// Moves of memory: M is the type of moments and masters.
template <typename T, typename M>
struct Pointers {
  T* param;
  const T* grad;
  M *exp_avg, *exp_avg_sq, *master;
};

// Elements of a thread: runs of N side by side, the threads' runs beside each other.
template <int N, bool has_masters, typename T, typename M>
__device__ inline void update(const Pointers<T, M>& to, int count, const AdamwStep& step) {
  constexpr int num_runs = per_thread / N;
  Run<T, N> grad[num_runs];
  Run<M, N> x[num_runs], exp_avg[num_runs], exp_avg_sq[num_runs];
#pragma unroll
  for (int i = 0; i < num_runs; ++i) {
    const int at = (i * num_threads + threadIdx.x) * N;
    if (at < count) {
      grad[i] = load_run<N>(to.grad + at);
      x[i] = load_run<N>(to.master + at);
      exp_avg[i] = load_run<N>(to.exp_avg + at);
      exp_avg_sq[i] = load_run<N>(to.exp_avg_sq + at);
    }
  }
#pragma unroll
  for (int i = 0; i < num_runs; ++i) {
    const int at = (i * num_threads + threadIdx.x) * N;
    if (at >= count) {
      break;
    }
    Run<T, N> rounded;
#pragma unroll
    for (int j = 0; j < N; ++j) {
      const float g = widen(grad[i][j]);
      const float m = step.beta1 * widen(exp_avg[i][j]) + step.one_minus_beta1 * g;
      const float v = step.beta2 * widen(exp_avg_sq[i][j]) + step.one_minus_beta2 * g * g;
      const float direction = __fdiv_rn(m, __fsqrt_rn(v) * step.scale_root + step.eps);
      const float moved = widen(x[i][j]) * step.decay - step.step_size * direction;
      exp_avg[i][j] = narrow<M>(m);
      exp_avg_sq[i][j] = narrow<M>(v);
      x[i][j] = narrow<M>(moved);
      rounded[j] = narrow<T>(moved);
    }
    store_run(to.exp_avg + at, exp_avg[i]);
    store_run(to.exp_avg_sq + at, exp_avg_sq[i]);
    store_run(to.master + at, x[i]);
    if constexpr (has_masters) {
      store_run(to.param + at, rounded);
    }
  }
}

// Without masters the parameter takes their place.
template <typename T, typename M, bool has_masters>
__global__ void __launch_bounds__(num_threads)
    adamw_kernel(const __grid_constant__ Batch<AdamwEntry> batch, AdamwStep step) {
  constexpr int N = vector_size<M>;
  const Chunk chunk = chunk_of<chunk_size>(batch, blockIdx.x);
  const AdamwEntry& entry = batch.entries[chunk.entry];
  const Pointers<T, M> to{
      static_cast<T*>(entry.param) + chunk.start,
      static_cast<const T*>(entry.grad) + chunk.start,
      static_cast<M*>(entry.exp_avg) + chunk.start,
      static_cast<M*>(entry.exp_avg_sq) + chunk.start,
      static_cast<M*>(has_masters ? entry.master : entry.param) + chunk.start,
  };
  const bool vectors = chunk.count % N == 0 &&
                       aligned(to.param, to.grad, to.exp_avg, to.exp_avg_sq, to.master);
  if (vectors) {
    update<N, has_masters>(to, chunk.count, step);
  } else {
    update<1, has_masters>(to, chunk.count, step);
  }
}

template <typename T, typename M, bool has_masters>
void run(std::span<const AdamwEntry> entries, const AdamwStep& step, void* stream) {
  for_batches(entries, chunk_size, [&](const Batch<AdamwEntry>& batch, uint32_t blocks) {
    launch(adamw_kernel<T, M, has_masters>, dim3(blocks), dim3(num_threads), 0,
           static_cast<cudaStream_t>(stream), batch, step);
  });
}

}  // namespace

void adamw(std::span<const AdamwEntry> entries, const AdamwStep& step, void* stream) {
  for_storage(step.storage, [&](auto* storage) {
    using T = std::remove_pointer_t<decltype(storage)>;
    if constexpr (!std::is_same_v<T, float>) {
      if (step.has_masters) {
        return run<T, float, true>(entries, step, stream);
      }
    }
    run<T, T, false>(entries, step, stream);
  });
}

}  // namespace megafm::cuda
