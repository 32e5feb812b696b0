// What kernels take from CUDA itself, for test_core.py: the same on the emulator and on a GPU.

#include "harness.cuh"

namespace megafm::cuda {
namespace {

constexpr unsigned all = 0xffffffff;
constexpr int num_warp_results = 19;

__global__ void warp_functions(const int* x, int* out) {
  const int lane = threadIdx.x, own = x[lane];
  const unsigned bits = static_cast<unsigned>(own);
  const int results[num_warp_results] = {
      __shfl_sync(all, own, 5),
      __shfl_sync(all, own, lane + 3),  // modulo the width
      __shfl_sync(all, own, 9, 8),
      __shfl_up_sync(all, own, 3),
      __shfl_up_sync(all, own, 3, 8),
      __shfl_down_sync(all, own, 3),
      __shfl_down_sync(all, own, 3, 8),
      __shfl_xor_sync(all, own, 5),
      __shfl_xor_sync(all, own, 12, 8),
      static_cast<int>(__ballot_sync(all, own > 0)),
      __any_sync(all, own == x[7]),
      __all_sync(all, own == x[7]),
      __reduce_add_sync(all, own),
      __reduce_min_sync(all, own),
      __reduce_max_sync(all, own),
      static_cast<int>(__reduce_max_sync(all, bits)),
      static_cast<int>(__reduce_and_sync(all, bits)),
      static_cast<int>(__reduce_or_sync(all, bits)),
      static_cast<int>(__reduce_xor_sync(all, bits)),
  };
  for (int i = 0; i < num_warp_results; ++i) out[num_warp_results * lane + i] = results[i];
}

// Global and shared counters, on which all 96 threads of 4 blocks act alike.
__global__ void atomics(int* global, float* sum, int* out) {
  MEGAFM_SHARED(int, shared, 9);
  const int thread = threadIdx.x;
  if (thread < 9) shared[thread] = thread == 5 ? -1 : 100;
  __syncthreads();
  const auto act = [thread](auto counters) {
    atomicAdd(counters + 0, thread);
    atomicSub(counters + 1, thread);
    atomicMin(counters + 2, thread - 7);
    atomicMax(counters + 3, 10 * thread);
    atomicOr(counters + 4, 1 << (thread % 8));
    atomicAnd(counters + 5, ~(1 << (thread % 8)));
    atomicExch(counters + 6, 42);
    atomicCAS(counters + 7, 100 + thread, 101 + thread);
  };
  act(&global[0]);
  act(&shared[0]);
  atomicAdd(sum, 0.5f);
  __syncthreads();
  if (thread < 7 && blockIdx.x == 0) out[thread] = shared[thread];
}

__global__ void block_votes(int* out) {
  const int thread = threadIdx.x;
  const int count = __syncthreads_count(thread % 3 == 0);
  const int any = __syncthreads_or(thread == 70), none = __syncthreads_or(thread > 95);
  const int every = __syncthreads_and(thread < 96), some = __syncthreads_and(thread != 5);
  if (thread == 50) {
    out[0] = count;
    out[1] = any != 0;
    out[2] = none != 0;
    out[3] = every != 0;
    out[4] = some != 0;
  }
}

// out[linear thread of the grid] = its indices, digit by digit.
__global__ void indices(int* out) {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int size = blockDim.x * blockDim.y * blockDim.z;
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * size + thread] = blockIdx.x + 10 * blockIdx.y + 100 * blockIdx.z +
                               1000 * threadIdx.x + 10000 * threadIdx.y + 100000 * threadIdx.z;
}

// Static arrays, 48 KiB in all; those of every block begin anew.
__global__ void static_arrays(int* out) {
  MEGAFM_SHARED(int, big, 11264);
  MEGAFM_SHARED(int, small, 1024);
  for (int i = threadIdx.x; i < 11264; i += 32) big[i] = i;
  for (int i = threadIdx.x; i < 1024; i += 32) small[i] = static_cast<int>(blockIdx.x);
  __syncwarp();
  int sum = 0;
  for (int i = threadIdx.x; i < 11264; i += 32) sum += big[11263 - i] == 11263 - i;
  for (int i = threadIdx.x; i < 1024; i += 32) sum += small[i] == static_cast<int>(blockIdx.x);
  sum = __reduce_add_sync(all, sum);
  if (threadIdx.x == 0) out[blockIdx.x] = sum;
}

template <typename T>
__global__ void widen(const T* from, float* to, int count) {
  for (int i = 8 * threadIdx.x; i < count; i += 8 * blockDim.x) {
    const Vec<T, 8> vec = i % 16 == 0 ? load_vec<8>(from + i) : load_vec_once<8>(from + i);
    for (int half = 0; half < 8; half += 4) {
      Vec<float, 4> floats;
      for (int j = 0; j < 4; ++j) floats[j] = static_cast<float>(vec[half + j]);
      if (half == 0) {
        store_vec(to + i, floats);
      } else {
        store_vec_once(to + i + half, floats);
      }
    }
  }
}

#ifdef MEGAFM_EMULATE
// The order in which threads come by.
void order(int* counter, int* out) {
  out[atomicAdd(counter, 1)] = static_cast<int>(threadIdx.x);
  __syncthreads();
  out[atomicAdd(counter, 1)] = static_cast<int>(threadIdx.x);
}

void nothing() {}
#endif

}  // namespace

EXPORT const char* run_warp_functions(const int* x, int* out) {
  return report_of([&] {
    OnDevice in(x, 32);
    OnDevice results(out, 32 * num_warp_results);
    launch(warp_functions, 1, 32, 0, nullptr, in.data(), results.data());
    results.fetch();
  });
}

EXPORT const char* run_atomics(int* global, float* sum, int* shared) {
  return report_of([&] {
    OnDevice counters(global, 8);
    OnDevice total(sum, 1);
    OnDevice out(shared, 7);
    launch(atomics, 4, 96, 0, nullptr, counters.data(), total.data(), out.data());
    counters.fetch();
    total.fetch();
    out.fetch();
  });
}

EXPORT const char* run_block_votes(int* out) {
  return report_of([&] {
    OnDevice results(out, 5);
    launch(block_votes, 1, 96, 0, nullptr, results.data());
    results.fetch();
  });
}

EXPORT const char* run_indices(int* out) {
  return report_of([&] {
    OnDevice results(out, 2 * 3 * 4 * 5 * 3 * 2);
    launch(indices, dim3(2, 3, 4), dim3(5, 3, 2), 0, nullptr, results.data());
    results.fetch();
  });
}

EXPORT const char* run_static_arrays(int* out) {
  return report_of([&] {
    OnDevice results(out, 3);
    launch(static_arrays, 3, 32, 0, nullptr, results.data());
    results.fetch();
  });
}

EXPORT const char* run_widen(int is_bf16, const void* from, float* to, int count) {
  return report_of([&] {
    OnDevice in(static_cast<const uint16_t*>(from), count);
    OnDevice out(to, count);
    if (is_bf16) {
      launch(widen<__nv_bfloat16>, 1, 64, 0, nullptr,
             reinterpret_cast<const __nv_bfloat16*>(in.data()), out.data(), count);
    } else {
      launch(widen<__half>, 1, 64, 0, nullptr, reinterpret_cast<const __half*>(in.data()),
             out.data(), count);
    }
    out.fetch();
  });
}

#ifdef MEGAFM_EMULATE
EXPORT const char* set_seed(int seed) {
  emulator::options().seed = static_cast<uint64_t>(seed);
  return nullptr;
}

EXPORT const char* run_order(int* out) {
  return report_of([&] {
    OnDevice results(out, 128);
    int count = 0;
    OnDevice counter(&count, 1);
    launch(order, 1, 64, 0, nullptr, counter.data(), results.data());
  });
}

EXPORT const char* run_nothing(int blocks, int threads, int shared) {
  return report_of([&] { launch(nothing, blocks, threads, shared, nullptr); });
}
#endif

}  // namespace megafm::cuda
