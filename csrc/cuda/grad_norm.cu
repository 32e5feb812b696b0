// Sums of squares of many tensors on CUDA: every element is read once, a block writes the sum of its
// chunk. The same bits on every run.
//
// gate square_sums_kernel<*>: registers 64, shared 256, LDG.E.128

#include "cuda/grad_norm.h"

#include <type_traits>

#include "cuda/multi_tensor.cuh"
#include "cuda/row_sum.cuh"

namespace megafm::cuda {
namespace {

constexpr int num_threads = 256;
constexpr int num_runs = 4;  // that a thread loads before it uses the first

template <int N, typename T>
__device__ inline float sum_of_thread(const T* x, int count) {
  float total = 0;
  for (int first = threadIdx.x * N; first < count; first += num_runs * num_threads * N) {
    Run<T, N> run[num_runs];
#pragma unroll
    for (int i = 0; i < num_runs; ++i) {
      const int at = first + i * num_threads * N;
      if (at < count) {
        run[i] = load_run<N>(x + at);
      } else {
        run[i] = {};
      }
    }
#pragma unroll
    for (int i = 0; i < num_runs; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        total += widen(run[i][j]) * widen(run[i][j]);
      }
    }
  }
  return total;
}

template <typename T>
__global__ void __launch_bounds__(num_threads)
    square_sums_kernel(const __grid_constant__ Batch<NormEntry> batch, float* sums) {
  constexpr int N = vector_size<T>;
  const Chunk chunk = chunk_of<norm_chunk>(batch, blockIdx.x);
  const T* x = static_cast<const T*>(batch.entries[chunk.entry].x) + chunk.start;
  const bool vectors = chunk.count % N == 0 && aligned(x);
  const float own = vectors ? sum_of_thread<N>(x, chunk.count) : sum_of_thread<1>(x, chunk.count);
  const float total = row_sum(own, 0);
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = total;
  }
}

}  // namespace

void square_sums(std::span<const NormEntry> entries, float* sums, Storage storage, void* stream) {
  for_storage(storage, [&](auto* of_type) {
    using T = std::remove_pointer_t<decltype(of_type)>;
    for_batches(entries, norm_chunk, [&](const Batch<NormEntry>& batch, uint32_t blocks) {
      launch(square_sums_kernel<T>, dim3(blocks), dim3(num_threads), 0,
             static_cast<cudaStream_t>(stream), batch, sums);
      sums += blocks;
    });
  });
}

}  // namespace megafm::cuda
