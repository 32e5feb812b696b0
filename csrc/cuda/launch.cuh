// What every kernel file includes: launches, shared memory, vector accesses. Compiled by nvcc, or by
// g++ for the emulator (csrc/emulator/README.md).

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#ifdef MEGAFM_EMULATE
#include "emulator/cuda.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

namespace megafm::cuda {

// n elements that move in one access.
template <typename T, int n>
struct alignas(sizeof(T) * n) Vec {
  static_assert(sizeof(T) * n <= 16, "an access moves at most 16 bytes");
  T data[n];
  __host__ __device__ T& operator[](int i) { return data[i]; }
  __host__ __device__ const T& operator[](int i) const { return data[i]; }
};

#ifdef MEGAFM_EMULATE

using emulator::Shared;

template <typename... Params>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, cudaStream_t,
            std::type_identity_t<Params>... args) {
  emulator::launch(kernel, grid, block, shared_bytes, args...);
}

// Few, so that persistent kernels loop.
inline int num_multiprocessors() {
  return 4;
}

// Little, so that small problems exceed it.
inline int64_t l2_cache_bytes() {
  return 256 << 10;
}

// Major and minor, such as 90: of the chip that kernels are chosen for.
inline int compute_capability() {
  return emulator::compute_capability();
}

inline void zero_async(void* to, size_t bytes, cudaStream_t) {
  std::memset(to, 0, bytes);
}

template <typename T>
Shared<T> shared_memory(uint32_t byte_offset = 0) {
  return Shared<T>(emulator::shared_base + byte_offset);
}

#define MEGAFM_SHARED(T, name, count) \
  const auto name = ::megafm::emulator::static_shared<T>(count, [] {})

template <typename To, typename From>
Shared<To> shared_cast(Shared<From> from) {
  return Shared<To>(from.address());
}

template <typename T>
uint32_t shared_address(Shared<T> shared) {
  return shared.address();
}

template <int n, typename T>
Vec<std::remove_const_t<T>, n> load_vec(T* from) {
  using Result = Vec<std::remove_const_t<T>, n>;
  emulator::check_global(from, sizeof(Result), sizeof(Result));
  Result vec;
  std::memcpy(&vec, from, sizeof vec);
  return vec;
}

template <int n, typename T>
Vec<std::remove_const_t<T>, n> load_vec(Shared<T> from) {
  return emulator::load_shared<Vec<std::remove_const_t<T>, n>>(from.address());
}

template <typename T, int n>
void store_vec(T* to, const Vec<T, n>& vec) {
  emulator::check_global(to, sizeof vec, sizeof vec);
  std::memcpy(to, &vec, sizeof vec);
}

template <typename T, int n>
void store_vec(Shared<T> to, const Vec<T, n>& vec) {
  emulator::store_shared(to.address(), vec);
}

template <int n, typename T>
Vec<std::remove_const_t<T>, n> load_vec_once(T* from) {
  return load_vec<n>(from);
}

template <typename T, int n>
void store_vec_once(T* to, const Vec<T, n>& vec) {
  store_vec(to, vec);
}

#else

template <typename T>
using Shared = T*;

inline void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // a later launch is not blamed for it
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

template <typename... Params>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
            cudaStream_t stream, std::type_identity_t<Params>... args) {
  if (shared_bytes > 48 << 10) {  // what a kernel may use unasked
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "shared memory of a CUDA kernel");
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, args...), "launch of a CUDA kernel");
}

inline int attribute_of_device(cudaDeviceAttr attribute, const char* what) {
  int device = 0, value = 0;
  check(cudaGetDevice(&device), "the current CUDA device");
  check(cudaDeviceGetAttribute(&value, attribute, device), what);
  return value;
}

// Of the current device.
inline int num_multiprocessors() {
  return attribute_of_device(cudaDevAttrMultiProcessorCount, "the number of multiprocessors");
}

inline int64_t l2_cache_bytes() {
  return attribute_of_device(cudaDevAttrL2CacheSize, "the size of the L2 cache");
}

inline int compute_capability() {
  return 10 * attribute_of_device(cudaDevAttrComputeCapabilityMajor, "the compute capability") +
         attribute_of_device(cudaDevAttrComputeCapabilityMinor, "the compute capability");
}

inline void zero_async(void* to, size_t bytes, cudaStream_t stream) {
  check(cudaMemsetAsync(to, 0, bytes, stream), "zeroing memory");
}

// The block's dynamic shared memory, from a byte on.
template <typename T>
__device__ __forceinline__ Shared<T> shared_memory(uint32_t byte_offset = 0) {
  extern __shared__ __align__(1024) unsigned char megafm_shared[];
  return reinterpret_cast<T*>(megafm_shared + byte_offset);
}

// A static array of shared memory.
#define MEGAFM_SHARED(T, name, count) __shared__ T name[count]

template <typename To, typename From>
__device__ __forceinline__ Shared<To> shared_cast(From* from) {
  return reinterpret_cast<To*>(from);
}

// The 32-bit address that PTX takes.
template <typename T>
__device__ __forceinline__ uint32_t shared_address(T* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// n elements at an address that is a multiple of their size, global or shared.
template <int n, typename T>
__device__ __forceinline__ Vec<std::remove_const_t<T>, n> load_vec(T* from) {
  return *reinterpret_cast<const Vec<std::remove_const_t<T>, n>*>(from);
}

template <typename T, int n>
__device__ __forceinline__ void store_vec(T* to, const Vec<T, n>& vec) {
  *reinterpret_cast<Vec<T, n>*>(to) = vec;
}

// As unsigned words, which the cache hints below take.
template <int bytes>
struct WordsOf;
template <>
struct WordsOf<4> {
  using type = unsigned;
};
template <>
struct WordsOf<8> {
  using type = uint2;
};
template <>
struct WordsOf<16> {
  using type = uint4;
};

// The same from global memory that nobody uses again: caches may drop it first.
template <int n, typename T>
__device__ __forceinline__ Vec<std::remove_const_t<T>, n> load_vec_once(T* from) {
  using Result = Vec<std::remove_const_t<T>, n>;
  using Words = typename WordsOf<sizeof(Result)>::type;
  const Words words = __ldcs(reinterpret_cast<const Words*>(from));
  Result vec;
  memcpy(&vec, &words, sizeof vec);
  return vec;
}

template <typename T, int n>
__device__ __forceinline__ void store_vec_once(T* to, const Vec<T, n>& vec) {
  using Words = typename WordsOf<sizeof vec>::type;
  Words words;
  memcpy(&words, &vec, sizeof vec);
  __stcs(reinterpret_cast<Words*>(to), words);
}

#endif

}  // namespace megafm::cuda
