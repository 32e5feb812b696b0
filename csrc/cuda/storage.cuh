// From the storage that a launcher is told to the type that its kernel is compiled for, and fp32.

#pragma once

#include <algorithm>
#include <cstdint>

#include "cuda/launch.cuh"
#include "cuda/storage.h"

namespace megafm::cuda {

// Calls body with a null pointer of the type.
template <typename Body>
void for_storage(Storage storage, const Body& body) {
  switch (storage) {
    case Storage::fp32:
      return body(static_cast<float*>(nullptr));
    case Storage::bf16:
      return body(static_cast<__nv_bfloat16*>(nullptr));
    case Storage::fp16:
      return body(static_cast<__half*>(nullptr));
  }
}

// Elements of one 16-byte access.
template <typename T>
constexpr int vector_size = 16 / sizeof(T);

// Whether a vector access may be made at every one of the addresses; null has none.
template <typename... Pointers>
__host__ __device__ bool aligned(const Pointers*... pointers) {
  return ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

__device__ inline float widen(float x) {
  return x;
}

__device__ inline float widen(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

__device__ inline float widen(__half x) {
  return __half2float(x);
}

template <typename T>
__device__ inline T narrow(float x);

template <>
__device__ inline float narrow(float x) {
  return x;
}

template <>
__device__ inline __nv_bfloat16 narrow(float x) {
  return __float2bfloat16_rn(x);
}

template <>
__device__ inline __half narrow(float x) {
  return __float2half_rn(x);
}

// N elements side by side, moved in accesses of at most 16 bytes.
template <typename T, int N>
struct Run {
  static constexpr int per_access = std::min(N, vector_size<T>);
  Vec<T, per_access> part[N / per_access];

  __device__ T& operator[](int i) {
    return part[i / per_access][i % per_access];
  }

  __device__ const T& operator[](int i) const {
    return part[i / per_access][i % per_access];
  }
};

template <int N, typename T>
__device__ inline Run<T, N> load_run(const T* from) {
  Run<T, N> run;
#pragma unroll
  for (int i = 0; i < N / run.per_access; ++i) {
    run.part[i] = load_vec<run.per_access>(from + i * run.per_access);
  }
  return run;
}

template <typename T, int N>
__device__ inline void store_run(T* to, const Run<T, N>& run) {
#pragma unroll
  for (int i = 0; i < N / run.per_access; ++i) {
    store_vec(to + i * run.per_access, run.part[i]);
  }
}

}  // namespace megafm::cuda
