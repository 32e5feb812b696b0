// Sums of squares of many tensors on CUDA: every element is read once, a block writes the sum of its
// chunk. The same bits on every run.
//
// Squares are added in fp32 where that holds them. A chunk whose sum comes near the ends of fp32's
// range, such as that of gradients of 1e-25 or 3e19, is read a second time, most of it from the L2
// cache, and added in fp64, which chips have few units for.
//
// gate square_sums_kernel<*>: registers 64, shared 768, LDG.E.128

#include "cuda/grad_norm.h"

#include <type_traits>

#include "cuda/multi_tensor.cuh"
#include "cuda/row_sum.cuh"

namespace megafm::cuda {
namespace {

constexpr int num_threads = 256;
constexpr int num_runs = 4;  // that a thread loads before it uses the first
// Within these no square of a chunk was infinite, and all that fp32 rounded to subnormals or to zero
// is less than 2^14 * 2^-126, which this many digits below the sum does not count.
constexpr float smallest_sum = 0x1p-80f;
constexpr float largest_sum = 0x1p127f;

// Of squares in the precision of Sum.
template <typename Sum, int N, typename T>
__device__ inline Sum sum_of_thread(const T* x, int count) {
  Sum total = 0;
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
        const Sum value = widen(run[i][j]);
        total += value * value;
      }
    }
  }
  return total;
}

// Over the threads of the block.
template <typename Sum, typename T>
__device__ inline Sum sum_of_chunk(const T* x, int count) {
  constexpr int N = vector_size<T>;
  const bool vectors = count % N == 0 && aligned(x);
  return row_sum(vectors ? sum_of_thread<Sum, N>(x, count) : sum_of_thread<Sum, 1>(x, count), 0);
}

template <typename T>
__global__ void __launch_bounds__(num_threads)
    square_sums_kernel(const __grid_constant__ Batch<NormEntry> batch, double* sums) {
  const Chunk chunk = chunk_of<norm_chunk>(batch, blockIdx.x);
  const T* x = static_cast<const T*>(batch.entries[chunk.entry].x) + chunk.start;
  double total = sum_of_chunk<float>(x, chunk.count);
  if (!(smallest_sum <= total && total <= largest_sum)) {
    total = sum_of_chunk<double>(x, chunk.count);
  }
  if (threadIdx.x == 0) {
    sums[blockIdx.x] = total;
  }
}

}  // namespace

void square_sums(std::span<const NormEntry> entries, double* sums, Storage storage, void* stream) {
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
