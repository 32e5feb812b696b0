// Kernels with a planted bug each, and the same without it, for test_faults.py. Emulator only.

#include "harness.cuh"

namespace megafm::cuda {
namespace {

// Every kernel: 64 threads, 1024 bytes of shared memory, 64 floats in global memory.
using Kernel = void (*)(bool planted, float* out);

void missing_barrier(bool planted, float* out) {
  const Shared<float> tile = shared_memory<float>();
  const int t = threadIdx.x;
  tile[t] = static_cast<float>(t);
  if (!planted) __syncthreads();
  if (t >= 32) out[t] = tile[t - 32];
}

void missing_barrier_before_reuse(bool planted, float* out) {
  const Shared<float> tile = shared_memory<float>();
  const int t = threadIdx.x;
  for (int round = 0; round < 2; ++round) {
    tile[t] = static_cast<float>(t);
    __syncthreads();
    out[t] = tile[63 - t];
    if (!planted) __syncthreads();
  }
}

void missing_syncwarp(bool planted, float* out) {
  const Shared<float> tile = shared_memory<float>();
  const int t = threadIdx.x;
  tile[t] = static_cast<float>(t);
  float x = __shfl_xor_sync(0xffffffff, 1.0f, 1);  // converges, but orders no memory
  if (!planted) __syncwarp();
  out[t] = tile[t ^ 1] + x;
}

void partial_named_barrier(bool planted, float* out) {
  const Shared<float> tile = shared_memory<float>();
  const int t = threadIdx.x;
  tile[t] = static_cast<float>(t);
  named_barrier_sync(1 + (planted ? t / 32 : 0), planted ? 32 : 64);  // of each warp alone
  out[t] = tile[63 - t];
}

// Neighbours own the halves of a word: no race unless they touch each other's.
void shared_word(bool planted, float* out) {
  const Shared<__half> tile = shared_memory<__half>();
  const int t = threadIdx.x;
  tile[t] = __half(1.0f);
  __syncthreads();
  tile[t] = __half(2.0f + static_cast<float>(tile[planted ? t ^ 1 : t]));
  out[t] = static_cast<float>(tile[t]);
}

void atomics(bool planted, float* out) {
  const Shared<int> count = shared_memory<int>();
  const int t = threadIdx.x;
  if (t == 0) *count = 0;
  __syncthreads();
  atomicAdd(count, 1);
  if (!planted) __syncthreads();
  out[t] = static_cast<float>(*count);
}

void uninitialised(bool planted, float* out) {
  const Shared<float> tile = shared_memory<float>();
  const int t = threadIdx.x;
  if (!planted || t != 7) tile[t] = 1;
  __syncthreads();
  out[t] = tile[t];
}

void uninitialised_byte(bool planted, float* out) {
  const Shared<uint16_t> halves = shared_memory<uint16_t>();
  const int t = threadIdx.x;
  halves[2 * t] = 1;
  if (!planted) halves[2 * t + 1] = 1;
  out[t] = static_cast<float>(shared_cast<uint32_t>(halves)[t]);
}

void shared_out_of_bounds(bool planted, float* out) {
  const Shared<float> tile = shared_memory<float>();
  tile[static_cast<int>(threadIdx.x) + (planted ? 193 : 192)] = 1;
  out[threadIdx.x] = 1;
}

void static_out_of_bounds(bool planted, float* out) {
  MEGAFM_SHARED(float, tile, 64);
  tile[static_cast<int>(threadIdx.x) + (planted ? 1 : 0)] = 1;
  out[threadIdx.x] = 1;
}

void shared_misaligned(bool planted, float* out) {
  const Shared<float> tile = shared_memory<float>();
  tile[threadIdx.x] = 1;
  __syncthreads();
  if (threadIdx.x == 0) out[0] = load_vec<2>(tile + (planted ? 1 : 2))[0];
}

void global_misaligned(bool planted, float* out) {
  if (threadIdx.x == 0) store_vec(out + (planted ? 2 : 4), Vec<float, 4>{});
}

void global_out_of_bounds(bool planted, float* out) {
  if (threadIdx.x == 0) store_vec(out + (planted ? 64 : 60), Vec<float, 4>{});
}

void atomic_out_of_bounds(bool planted, float* out) {
  if (threadIdx.x == 0) atomicAdd(out + (planted ? 64 : 63), 1.0f);
}

// Warp 1 waits where warp 0 does not come.
void deadlock(bool planted, float*) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else if (planted) {
    named_barrier_sync(2, 64);
  } else {
    __syncthreads();
  }
}

void part_of_a_warp(bool planted, float* out) {
  if (threadIdx.x % 32 < (planted ? 31 : 32)) {
    out[threadIdx.x] = __shfl_xor_sync(0xffffffff, 1.0f, 1);
  } else {
    __syncthreads();
  }
  __syncthreads();
}

void different_collectives(bool planted, float* out) {
  if (planted && threadIdx.x % 32 == 3) {
    __syncwarp();
  } else {
    out[threadIdx.x] = static_cast<float>(__ballot_sync(0xffffffff, 1));
  }
}

void mask_without_caller(bool planted, float* out) {
  if (threadIdx.x < (planted ? 17 : 16)) {
    out[threadIdx.x] = static_cast<float>(__reduce_add_sync(0xffff, 1u));
  }
}

void shuffle_from_absent_lane(bool planted, float* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(0xffff, 1.0f, planted ? 16 : 15);
}

void arrival_left_over(bool planted, float*) {
  if (threadIdx.x < 32) {
    named_barrier_arrive(4, 64);
  } else if (!planted) {
    named_barrier_sync(4, 64);
  }
}

void different_counts(bool planted, float*) {
  named_barrier_sync(5, planted && threadIdx.x < 32 ? 32 * 3 : 64);
}

void copy_not_waited_for(bool planted, float* out) {
  const Shared<float> tile = shared_memory<float>();
  const int t = threadIdx.x;
  cp_async<4>(shared_address(tile + t), out + t);
  cp_async_commit();
  cp_async<4>(shared_address(tile + 64 + t), out + t);
  cp_async_commit();
  if (planted) {
    cp_async_wait<1>();
  } else {
    cp_async_wait<0>();
  }
  const float x = tile[64 + t];
  cp_async_wait<0>();
  out[t] = x;
}

// A thread's wait is for its own copies: others need a barrier behind it.
void copy_without_barrier(bool planted, float* out) {
  const Shared<float> tile = shared_memory<float>();
  const int t = threadIdx.x;
  cp_async<4>(shared_address(tile + t), out + t);
  cp_async_commit();
  if (planted) __syncthreads();
  cp_async_wait<0>();
  if (!planted) __syncthreads();
  out[t] = tile[63 - t];
}

void copy_left_over(bool planted, float* out) {
  cp_async<4>(shared_address(shared_memory<float>() + threadIdx.x), out + threadIdx.x);
  cp_async_commit();
  if (!planted) cp_async_wait<0>();
}

void copy_out_of_bounds(bool planted, float* out) {
  if (threadIdx.x == 0) {
    cp_async<16>(shared_address(shared_memory<float>()), out + 60 + (planted ? 4 : 0), 16);
    cp_async_commit();
    cp_async_wait<0>();
  }
}

void copy_over_what_is_read(bool planted, float* out) {
  const Shared<float> tile = shared_memory<float>();
  const int t = threadIdx.x;
  tile[t] = 1;
  __syncthreads();
  out[t] = tile[63 - t];
  if (!planted) __syncthreads();
  cp_async<4>(shared_address(tile + t), out + t);
  cp_async_commit();
  cp_async_wait<0>();
}

void matrix_row_misaligned(bool planted, float* out) {
  const Shared<float> tile = shared_memory<float>();
  for (int i = threadIdx.x; i < 256; i += 64) tile[i] = 1;
  __syncthreads();
  uint32_t r[1];
  ldmatrix(r, shared_address(tile + 4 * (threadIdx.x % 32)) + (planted ? 8 : 0));
  out[threadIdx.x] = static_cast<float>(r[0]);
}

struct Named {
  const char* name;
  Kernel kernel;
};
#define NAMED(kernel) {#kernel, kernel}
constexpr Named kernels[] = {
    NAMED(missing_barrier),
    NAMED(missing_barrier_before_reuse),
    NAMED(missing_syncwarp),
    NAMED(partial_named_barrier),
    NAMED(shared_word),
    NAMED(atomics),
    NAMED(uninitialised),
    NAMED(uninitialised_byte),
    NAMED(shared_out_of_bounds),
    NAMED(static_out_of_bounds),
    NAMED(shared_misaligned),
    NAMED(global_misaligned),
    NAMED(global_out_of_bounds),
    NAMED(atomic_out_of_bounds),
    NAMED(deadlock),
    NAMED(part_of_a_warp),
    NAMED(different_collectives),
    NAMED(mask_without_caller),
    NAMED(shuffle_from_absent_lane),
    NAMED(arrival_left_over),
    NAMED(different_counts),
    NAMED(copy_not_waited_for),
    NAMED(copy_without_barrier),
    NAMED(copy_left_over),
    NAMED(copy_out_of_bounds),
    NAMED(copy_over_what_is_read),
    NAMED(matrix_row_misaligned),
};

}  // namespace

EXPORT const char* run_fault(const char* name, int planted, float* out) {
  return report_of([&] {
    OnDevice memory(out, 64);
    for (const Named& named : kernels) {
      if (std::string(named.name) != name) continue;
      return launch(named.kernel, 1, 64, 1024, nullptr, planted != 0, memory.data());
    }
    throw std::runtime_error(std::string("no kernel ") + name);
  });
}

}  // namespace megafm::cuda
