// wgmma in every form, for test_ptx_wgmma.py: the same on the emulator and on a GPU.

#include "harness.cuh"

namespace megafm::cuda {
namespace {

// Shared memory: the image of a, then that of b. Two products of 16 k each, `advance` bytes apart.
struct Matrices {
  int swizzle;
  int a_bytes, a_leading, a_stride, a_advance;
  int b_bytes, b_leading, b_stride, b_advance;
};

__device__ uint64_t matrix(uint32_t at, int leading, int stride, int swizzle) {
  return wgmma_matrix(at, leading, stride, static_cast<Swizzle>(swizzle));
}

__device__ void copy_in(const char* from, int to, int bytes) {
  const Shared<char> tile = shared_memory<char>();
  for (int i = 16 * threadIdx.x; i < bytes; i += 16 * blockDim.x) {
    store_vec(tile + to + i, load_vec<16>(from + i));
  }
}

template <int n>
__device__ void store_sums(const float (&d)[n / 2], float* out) {
#pragma unroll
  for (int i = 0; i < n / 2; ++i) out[threadIdx.x * (n / 2) + i] = d[i];
}

template <int n, typename T, bool transposed_a, bool transposed_b>
__global__ void __launch_bounds__(128)
    multiply_shared(Matrices m, const char* a, const char* b, float* out) {
  copy_in(a, 0, m.a_bytes);
  copy_in(b, m.a_bytes, m.b_bytes);
  fence_proxy_async();
  __syncthreads();
  const uint32_t a_at = shared_address(shared_memory<char>()), b_at = a_at + m.a_bytes;
  float d[n / 2];
  wgmma_fence();
#pragma unroll
  for (int step = 0; step < 2; ++step) {
    wgmma<n, T, transposed_a, transposed_b>(
        d, matrix(a_at + step * m.a_advance, m.a_leading, m.a_stride, m.swizzle),
        matrix(b_at + step * m.b_advance, m.b_leading, m.b_stride, m.swizzle), step > 0);
  }
  wgmma_commit();
  wgmma_wait<0>();
  pin(d);
  store_sums<n>(d, out);
}

// a: 4 registers a thread and step.
template <int n, typename T, bool transposed_b>
__global__ void __launch_bounds__(128)
    multiply_registers(Matrices m, const uint32_t* a, const char* b, float* out) {
  copy_in(b, 0, m.b_bytes);
  fence_proxy_async();
  __syncthreads();
  const uint32_t b_at = shared_address(shared_memory<char>());
  uint32_t registers[2][4];
  for (int i = 0; i < 8; ++i) registers[i / 4][i % 4] = a[8 * threadIdx.x + i];
  float d[n / 2] = {};
  pin(d);
  wgmma_fence();
  wgmma<n, T, transposed_b>(d, registers[0], matrix(b_at, m.b_leading, m.b_stride, m.swizzle), true);
  wgmma_commit();
  wgmma<n, T, transposed_b>(
      d, registers[1], matrix(b_at + m.b_advance, m.b_leading, m.b_stride, m.swizzle), true);
  wgmma_commit();
  wgmma_wait<1>();
  wgmma_wait<0>();
  pin(d);
  store_sums<n>(d, out);
}

template <typename T, bool transposed_a, bool transposed_b>
auto shared_kernel(int n) {
  return n == 32    ? multiply_shared<32, T, transposed_a, transposed_b>
         : n == 64  ? multiply_shared<64, T, transposed_a, transposed_b>
         : n == 96  ? multiply_shared<96, T, transposed_a, transposed_b>
         : n == 128 ? multiply_shared<128, T, transposed_a, transposed_b>
         : n == 192 ? multiply_shared<192, T, transposed_a, transposed_b>
                    : multiply_shared<256, T, transposed_a, transposed_b>;
}

template <typename T>
auto registers_kernel(int n, bool transposed_b) {
  return n == 64 ? (transposed_b ? multiply_registers<64, T, true> : multiply_registers<64, T, false>)
                 : (transposed_b ? multiply_registers<128, T, true>
                                 : multiply_registers<128, T, false>);
}

}  // namespace

// Both types in few kernels: bf16 in all shapes without transposes and in n = 64 with; fp16 in 128.
EXPORT const char* run_wgmma_shared(int is_bf16, int n, int transposed_a, int transposed_b,
                                    const Matrices* m, const char* a, const char* b, float* out) {
  return report_of([&] {
    OnDevice a_in(a, m->a_bytes);
    OnDevice b_in(b, m->b_bytes);
    OnDevice sums(out, 64 * n);
    using B = __nv_bfloat16;
    const auto kernel = !is_bf16                       ? multiply_shared<128, __half, false, false>
                        : transposed_a && transposed_b ? multiply_shared<64, B, true, true>
                        : transposed_a                 ? multiply_shared<64, B, true, false>
                        : transposed_b                 ? multiply_shared<64, B, false, true>
                                                       : shared_kernel<B, false, false>(n);
    launch(kernel, 1, 128, m->a_bytes + m->b_bytes, nullptr, *m, a_in.data(), b_in.data(),
           sums.data());
    sums.fetch();
  });
}

EXPORT const char* run_wgmma_registers(int is_bf16, int n, int transposed_b, const Matrices* m,
                                       const uint32_t* a, const char* b, float* out) {
  return report_of([&] {
    OnDevice a_in(a, 128 * 8);
    OnDevice b_in(b, m->b_bytes);
    OnDevice sums(out, 64 * n);
    const auto kernel = is_bf16 ? registers_kernel<__nv_bfloat16>(n, transposed_b)
                                : registers_kernel<__half>(n, transposed_b);
    launch(kernel, 1, 128, m->b_bytes, nullptr, *m, a_in.data(), b_in.data(), sums.data());
    sums.fetch();
  });
}

}  // namespace megafm::cuda
