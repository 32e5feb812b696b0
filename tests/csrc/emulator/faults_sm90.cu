// As faults.cu, for mbarriers, bulk copies, wgmma and setmaxnreg.

#include "harness.cuh"

namespace megafm::cuda {
namespace {

// Every kernel: 128 threads, or 384 for registers; in: 16 x 32 floats, of which the map's box is 8 x 32, not swizzled;
// out: 4096 floats. Shared memory: a tile of 8 KiB, then mbarriers.
struct Memory {
  CUtensorMap map;
  float* in;
  float* out;
};
using Kernel = void (*)(bool planted, Memory memory);

constexpr uint32_t box_bytes = 1024, barrier_at = 8192, shared_bytes = barrier_at + 64;

Shared<float> tile() {
  return shared_memory<float>();
}

uint32_t tile_address() {
  return shared_address(tile());
}

uint32_t mbarrier_of(int i) {
  return shared_address(shared_memory<char>(barrier_at + 8 * i));
}

uint32_t start_mbarrier(int count = 1) {
  if (threadIdx.x == 0) {
    mbarrier_init(mbarrier_of(0), count);
    fence_mbarrier_init();
  }
  __syncthreads();
  return mbarrier_of(0);
}

void load_box(const Memory& memory, uint32_t mbarrier, uint32_t expected = box_bytes) {
  mbarrier_arrive_expect_tx(mbarrier, expected);
  tma_load<2>(tile_address(), &memory.map, mbarrier, {0, 0});
}

void load_not_waited_for(bool planted, Memory memory) {
  const uint32_t mbarrier = start_mbarrier();
  if (threadIdx.x == 0) load_box(memory, mbarrier);
  if (!planted) mbarrier_wait(mbarrier, 0);
  __syncthreads();
  memory.out[threadIdx.x] = tile()[threadIdx.x];
}

void load_waited_for_by_another(bool planted, Memory memory) {
  const uint32_t mbarrier = start_mbarrier();
  if (threadIdx.x == 0) load_box(memory, mbarrier);
  if (threadIdx.x < 32 || !planted) mbarrier_wait(mbarrier, 0);
  if (threadIdx.x >= 32) memory.out[threadIdx.x] = tile()[threadIdx.x];
}

// Thread 0 lets the others go first before or behind its load.
void load_twice(bool planted, Memory memory, bool yields_before) {
  const uint32_t mbarrier = start_mbarrier();
  for (int round = 0; round < 2; ++round) {
    if (threadIdx.x == 0) {
      if (yields_before && round == 0) __nanosleep(1);
      load_box(memory, mbarrier);
      if (!yields_before) __nanosleep(1);
    }
    mbarrier_wait(mbarrier, round);
    memory.out[threadIdx.x] = tile()[threadIdx.x];
    if (!planted) __syncthreads();
  }
}

void load_over_what_is_read(bool planted, Memory memory) {
  load_twice(planted, memory, false);
}

void phase_missed(bool planted, Memory memory) {
  load_twice(planted, memory, true);
}

void arrival_before_all_have_read(bool planted, Memory memory) {
  if (threadIdx.x == 0) {
    mbarrier_init(mbarrier_of(0), 1);
    mbarrier_init(mbarrier_of(1), 3);
    fence_mbarrier_init();
  }
  __syncthreads();
  for (int round = 0; round < 2; ++round) {
    if (threadIdx.x == 0) {
      mbarrier_wait(mbarrier_of(1), round ^ 1);
      load_box(memory, mbarrier_of(0));
    }
    if (threadIdx.x < 32) continue;
    mbarrier_wait(mbarrier_of(0), round);
    memory.out[threadIdx.x] = tile()[threadIdx.x];
    if (!planted) __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(mbarrier_of(1));
  }
}

void too_many_bytes_expected(bool planted, Memory memory) {
  const uint32_t mbarrier = start_mbarrier();
  if (threadIdx.x == 0) load_box(memory, mbarrier, planted ? 2 * box_bytes : box_bytes);
  mbarrier_wait(mbarrier, 0);
}

void too_few_bytes_expected(bool planted, Memory memory) {
  const uint32_t mbarrier = start_mbarrier();
  if (threadIdx.x == 0) load_box(memory, mbarrier, planted ? box_bytes / 2 : box_bytes);
  mbarrier_wait(mbarrier, 0);
}

void arrival_missing(bool planted, Memory memory) {
  const uint32_t mbarrier = start_mbarrier(planted ? 2 : 1);
  if (threadIdx.x == 0) load_box(memory, mbarrier);
  mbarrier_wait(mbarrier, 0);
}

void too_many_arrivals(bool planted, Memory memory) {
  const uint32_t mbarrier = start_mbarrier(64);
  if (threadIdx.x == 0) mbarrier_arrive_expect_tx(mbarrier, 16);
  if (threadIdx.x > 0 && threadIdx.x < (planted ? 65 : 64)) mbarrier_arrive(mbarrier);
  __syncthreads();
  if (threadIdx.x == 0) {  // the bytes come at last
    bulk_load(tile_address(), memory.in, 16, mbarrier);
    mbarrier_wait(mbarrier, 0);
  }
}

void mbarrier_not_initialised(bool planted, Memory) {
  const uint32_t mbarrier = start_mbarrier(128);
  mbarrier_arrive(planted ? mbarrier_of(1) : mbarrier);
}

void init_without_barrier(bool planted, Memory) {
  if (threadIdx.x == 0) mbarrier_init(mbarrier_of(0), 128);
  if (!planted) __syncthreads();
  mbarrier_arrive(mbarrier_of(0));
}

void init_without_fence(bool planted, Memory memory) {
  if (threadIdx.x == 0) {
    mbarrier_init(mbarrier_of(0), 1);
    if (!planted) fence_mbarrier_init();
    load_box(memory, mbarrier_of(0));
    mbarrier_wait(mbarrier_of(0), 0);
  }
}

void write_over_mbarrier(bool planted, Memory) {
  start_mbarrier();
  if (threadIdx.x == 1) tile()[barrier_at / 4 + (planted ? 1 : 2)] = 0;
}

void load_misaligned(bool planted, Memory memory) {
  const uint32_t mbarrier = start_mbarrier();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(mbarrier, box_bytes);
    tma_load<2>(tile_address() + (planted ? 64 : 128), &memory.map, mbarrier, {0, 0});
  }
  mbarrier_wait(mbarrier, 0);
}

void bulk_load_out_of_bounds(bool planted, Memory memory) {
  const uint32_t mbarrier = start_mbarrier();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(mbarrier, 32);
    bulk_load(tile_address(), memory.in + 16 * 32 - (planted ? 4 : 8), 32, mbarrier);
  }
  mbarrier_wait(mbarrier, 0);
}

void load_left_over(bool planted, Memory memory) {
  const uint32_t mbarrier = start_mbarrier();
  if (threadIdx.x == 0) load_box(memory, mbarrier);
  if (!planted) mbarrier_wait(mbarrier, 0);
}

void fill_tile() {
  for (int i = threadIdx.x; i < 2048; i += 128) tile()[i] = 1;
}

void store_without_proxy_fence(bool planted, Memory memory) {
  fill_tile();
  if (!planted) fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    bulk_store(memory.out, tile_address(), 512);
    bulk_commit();
    bulk_wait<0>();
  }
}

// The fence comes behind the barrier that publishes the writes: too late for those of others.
void proxy_fence_too_late(bool planted, Memory memory) {
  fill_tile();
  if (!planted) fence_proxy_async();
  __syncthreads();
  if (planted && threadIdx.x != 0) fence_proxy_async();
  if (threadIdx.x == 0) {
    bulk_store(memory.out, tile_address(), 512);
    bulk_commit();
    bulk_wait<0>();
  }
}

void store_left_over(bool planted, Memory memory) {
  fill_tile();
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    bulk_store(memory.out, tile_address(), 512);
    bulk_commit();
    if (!planted) bulk_wait_read<0>();
  }
}

void write_over_what_is_stored(bool planted, Memory memory) {
  fill_tile();
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x == 0) {
    bulk_store(memory.out, tile_address(), 512);
    bulk_commit();
    if (!planted) bulk_wait_read<0>();
  }
  __syncthreads();
  tile()[threadIdx.x] = 2;
  __syncthreads();
  if (planted && threadIdx.x == 0) bulk_wait_read<0>();
}

// a and b are the same 64 x 16 elements, not swizzled.
uint64_t ones() {
  return wgmma_matrix(tile_address(), 1024, 128, Swizzle::none);
}

void start_ones() {
  fill_tile();
  fence_proxy_async();
  __syncthreads();
}

template <int n>
void store_sums(const float (&d)[n], float* out) {
  for (int i = 0; i < n; ++i) out[threadIdx.x * n + i] = d[i];
}

void wgmma_without_fence(bool planted, Memory memory) {
  start_ones();
  float d[32] = {};
  if (!planted) wgmma_fence();
  wgmma<64, __half>(d, ones(), ones(), true);
  wgmma_commit();
  wgmma_wait<0>();
  store_sums(d, memory.out);
}

void wgmma_without_proxy_fence(bool planted, Memory memory) {
  fill_tile();
  if (!planted) fence_proxy_async();
  __syncthreads();
  float d[32] = {};
  wgmma_fence();
  wgmma<64, __half>(d, ones(), ones(), true);
  wgmma_commit();
  wgmma_wait<0>();
  store_sums(d, memory.out);
}

void wgmma_left_over(bool planted, Memory memory) {
  start_ones();
  float d[32] = {};
  wgmma_fence();
  wgmma<64, __half>(d, ones(), ones(), true);
  wgmma_commit();
  if (!planted) wgmma_wait<0>();
  store_sums(d, memory.out);
}

// The second group is still under way.
void wgmma_waited_for_too_early(bool planted, Memory memory) {
  start_ones();
  float first[32] = {}, second[32] = {};
  wgmma_fence();
  wgmma<64, __half>(first, ones(), ones(), true);
  wgmma_commit();
  wgmma<64, __half>(second, ones(), ones(), true);
  wgmma_commit();
  if (planted) wgmma_wait<1>();
  if (!planted) wgmma_wait<0>();
  store_sums(second, memory.out);  // NaN
  second[0] = 1;
  wgmma_wait<0>();
}

void wgmma_operand_overwritten(bool planted, Memory memory) {
  start_ones();
  float d[32] = {};
  wgmma_fence();
  wgmma<64, __half>(d, ones(), ones(), true);
  wgmma_commit();
  if (!planted) wgmma_wait<0>();
  __syncthreads();
  tile()[threadIdx.x] = 2;
  wgmma_wait<0>();
  store_sums(d, memory.out);
}

void wgmma_differs_between_warps(bool planted, Memory memory) {
  start_ones();
  float d[32] = {};
  wgmma_fence();
  const uint32_t warp = threadIdx.x / 32;
  const uint64_t other = wgmma_matrix(tile_address() + (planted ? warp * 16 : 0), 1024, 128,
                                      Swizzle::none);
  wgmma<64, __half>(d, ones(), other, true);
  wgmma_commit();
  wgmma_wait<0>();
  store_sums(d, memory.out);
}

void wgmma_of_three_warps(bool planted, Memory memory) {
  start_ones();
  if (planted && threadIdx.x >= 96) return;
  float d[32] = {};
  wgmma_fence();
  wgmma<64, __half>(d, ones(), ones(), true);
  wgmma_commit();
  wgmma_wait<0>();
  store_sums(d, memory.out);
}

// 384 threads start with 168 registers each.
void registers_beyond_the_budget(bool planted, Memory) {
  if (threadIdx.x < 128) {
    setmaxnreg_dec<40>();
  } else if (planted) {
    setmaxnreg_inc<240>();
  } else {
    setmaxnreg_inc<232>();
  }
}

void registers_in_the_wrong_direction(bool planted, Memory) {
  if (planted) {
    setmaxnreg_inc<128>();
  } else {
    setmaxnreg_dec<128>();
  }
}

struct Named {
  const char* name;
  Kernel kernel;
};
#define NAMED(kernel) {#kernel, kernel}
constexpr Named kernels[] = {
    NAMED(load_not_waited_for),
    NAMED(load_waited_for_by_another),
    NAMED(load_over_what_is_read),
    NAMED(phase_missed),
    NAMED(arrival_before_all_have_read),
    NAMED(too_many_bytes_expected),
    NAMED(too_few_bytes_expected),
    NAMED(arrival_missing),
    NAMED(too_many_arrivals),
    NAMED(mbarrier_not_initialised),
    NAMED(init_without_barrier),
    NAMED(init_without_fence),
    NAMED(write_over_mbarrier),
    NAMED(load_misaligned),
    NAMED(bulk_load_out_of_bounds),
    NAMED(load_left_over),
    NAMED(store_without_proxy_fence),
    NAMED(proxy_fence_too_late),
    NAMED(store_left_over),
    NAMED(write_over_what_is_stored),
    NAMED(wgmma_without_fence),
    NAMED(wgmma_without_proxy_fence),
    NAMED(wgmma_left_over),
    NAMED(wgmma_waited_for_too_early),
    NAMED(wgmma_operand_overwritten),
    NAMED(wgmma_differs_between_warps),
    NAMED(wgmma_of_three_warps),
    NAMED(registers_beyond_the_budget),
    NAMED(registers_in_the_wrong_direction),
};

}  // namespace

EXPORT const char* run_fault_sm90(const char* name, int planted, float* in, float* out) {
  return report_of([&] {
    OnDevice from(in, 16 * 32);
    OnDevice to(out, 4096);
    const Memory memory{make_tensor_map(in, {32, 16}, {128}, {32, 8}, Swizzle::none), from.data(),
                        to.data()};
    for (const Named& named : kernels) {
      if (std::string(named.name) != name) continue;
      const int threads = std::string(name).starts_with("registers") ? 384 : 128;
      return launch(named.kernel, 1, threads, shared_bytes, nullptr, planted != 0, memory);
    }
    throw std::runtime_error(std::string("no kernel ") + name);
  });
}

}  // namespace megafm::cuda
