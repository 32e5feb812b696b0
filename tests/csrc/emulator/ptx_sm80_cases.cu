// One kernel per function of ptx.cuh, for test_ptx_sm80.py: the same on the emulator and on a GPU.

#include "harness.cuh"

namespace megafm::cuda {
namespace {

__global__ void approximations(const float* x, float* y, int count) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    y[4 * i] = exp2_approx(x[i]);
    y[4 * i + 1] = log2_approx(x[i]);
    y[4 * i + 2] = tanh_approx(x[i]);
    y[4 * i + 3] = rcp_approx(x[i]);
  }
}

template <typename T>
__global__ void packs(const float* x, uint32_t* pairs, int count) {
  for (int i = threadIdx.x; i < count; i += blockDim.x) pairs[i] = pack<T>(x[2 * i], x[2 * i + 1]);
}

// Warps 1 and 2 hand a number each to warp 0, which alone waits.
__global__ void hand_over(const float* x, float* y) {
  const Shared<float> held = shared_memory<float>();
  const int thread = threadIdx.x;
  if (thread >= 32) {
    held[thread - 32] = x[thread];
    named_barrier_arrive(3, 96);
  } else {
    named_barrier_sync(3, 96);
    y[thread] = held[thread] + held[thread + 32];
  }
  named_barrier_sync(15, 96);
}

// Groups of one copy per thread; each is awaited while the next is under way.
template <int bytes>
__global__ void copy_groups(const char* from, char* to, int source_bytes) {
  const Shared<char> tile = shared_memory<char>();
  const int at = threadIdx.x * bytes, step = blockDim.x * bytes;
  cp_async<bytes>(shared_address(tile + at), from + at, source_bytes);
  cp_async_commit();
  cp_async<bytes>(shared_address(tile + step + at), from + step + at, source_bytes);
  cp_async_commit();
  cp_async_wait<1>();
  for (int i = 0; i < bytes; ++i) to[at + i] = tile[at + i];
  cp_async_wait<0>();
  for (int i = 0; i < bytes; ++i) to[step + at + i] = tile[step + at + i];
}

template <int n, bool transposed>
__global__ void load_matrices(const uint16_t* from, uint32_t* to) {
  const Shared<uint16_t> tile = shared_memory<uint16_t>();
  for (int i = threadIdx.x; i < 64 * n; i += 32) tile[i] = from[i];
  __syncwarp();
  uint32_t registers[n];
  ldmatrix<n, transposed>(registers, row_address(tile, n));
  for (int i = 0; i < n; ++i) to[n * threadIdx.x + i] = registers[i];
}

template <typename T>
__global__ void multiply(const uint32_t* a, const uint32_t* b, float* d) {
  const int lane = threadIdx.x;
  uint32_t a_pairs[4];
  float sums[4];
  for (int i = 0; i < 4; ++i) {
    a_pairs[i] = a[4 * lane + i];
    sums[i] = d[4 * lane + i];
  }
  mma_m16n8k16<T>(sums, a_pairs, b[2 * lane], b[2 * lane + 1]);
  for (int i = 0; i < 4; ++i) d[4 * lane + i] = sums[i];
}

}  // namespace

EXPORT const char* run_approximations(const float* x, float* y, int count) {
  return report_of([&] {
    OnDevice in(x, count);
    OnDevice out(y, 4 * count);
    launch(approximations, 1, 64, 0, nullptr, in.data(), out.data(), count);
    out.fetch();
  });
}

EXPORT const char* run_packs(int is_bf16, const float* x, uint32_t* pairs, int count) {
  return report_of([&] {
    OnDevice in(x, 2 * count);
    OnDevice out(pairs, count);
    launch(is_bf16 ? packs<__nv_bfloat16> : packs<__half>, 1, 64, 0, nullptr, in.data(), out.data(),
           count);
    out.fetch();
  });
}

EXPORT const char* run_hand_over(const float* x, float* y) {
  return report_of([&] {
    OnDevice in(x, 96);
    OnDevice out(y, 32);
    launch(hand_over, 1, 96, 256, nullptr, in.data(), out.data());
    out.fetch();
  });
}

EXPORT const char* run_copy_groups(int bytes, int source_bytes, const char* from, char* to) {
  return report_of([&] {
    OnDevice in(from, 128 * bytes);
    OnDevice out(to, 128 * bytes);
    const auto kernel = bytes == 4   ? copy_groups<4>
                        : bytes == 8 ? copy_groups<8>
                                     : copy_groups<16>;
    launch(kernel, 1, 64, 128 * bytes, nullptr, in.data(), out.data(), source_bytes);
    out.fetch();
  });
}

EXPORT const char* run_load_matrices(int n, int transposed, const uint16_t* from, uint32_t* to) {
  return report_of([&] {
    OnDevice in(from, 64 * n);
    OnDevice out(to, 32 * n);
    const auto kernel =
        transposed ? of_count(n, load_matrices<1, true>, load_matrices<2, true>,
                              load_matrices<4, true>)
                   : of_count(n, load_matrices<1, false>, load_matrices<2, false>,
                              load_matrices<4, false>);
    launch(kernel, 1, 32, 128 * n, nullptr, in.data(), out.data());
    out.fetch();
  });
}

EXPORT const char* run_multiply(int is_bf16, const uint32_t* a, const uint32_t* b, float* d) {
  return report_of([&] {
    OnDevice a_in(a, 128);
    OnDevice b_in(b, 64);
    OnDevice sums(d, 128);
    launch(is_bf16 ? multiply<__nv_bfloat16> : multiply<__half>, 1, 32, 0, nullptr, a_in.data(),
           b_in.data(), sums.data());
    sums.fetch();
  });
}

}  // namespace megafm::cuda
