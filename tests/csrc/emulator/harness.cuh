// What the test kernels' host functions share. They are called through ctypes with arrays in host
// memory, and answer nullptr or what went wrong.

#pragma once

#include <exception>
#include <string>

#include <algorithm>
#include <type_traits>

#include "cuda/ptx_wgmma.cuh"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace megafm::cuda {

template <typename Body>
const char* report_of(Body body) {
  static thread_local std::string report;
  try {
    body();
    return nullptr;
  } catch (const std::exception& error) {
    report = error.what();
    return report.c_str();
  }
}

// A host array where kernels see it; the emulator takes it as it lies and checks its bounds.
#ifdef MEGAFM_EMULATE
template <typename T>
class OnDevice {
 public:
  OnDevice(T* host, size_t count) : host_(host), bytes_(count * sizeof(T)) {
    emulator::register_memory(host_, bytes_);
  }
  ~OnDevice() { emulator::unregister_memory(host_, bytes_); }
  T* data() { return host_; }
  void fetch() {}

 private:
  T* host_;
  size_t bytes_;
};
#else
template <typename T>
class OnDevice {
 public:
  OnDevice(T* host, size_t count) : host_(host), bytes_(count * sizeof(T)) {
    check(cudaMalloc(&device_, bytes_), "cudaMalloc");
    check(cudaMemcpy(device_, host, bytes_, cudaMemcpyHostToDevice), "copy to the device");
  }
  ~OnDevice() { cudaFree(device_); }
  T* data() { return static_cast<T*>(device_); }
  void fetch() {
    check(cudaDeviceSynchronize(), "the kernel");
    check(cudaMemcpy(const_cast<std::remove_const_t<T>*>(host_), device_, bytes_,
                     cudaMemcpyDeviceToHost),
          "copy from the device");
  }

 private:
  T* host_;
  size_t bytes_;
  void* device_ = nullptr;
};
#endif

// For ldmatrix and stmatrix. tile: 8 n rows of 8 elements, 16 bytes each, those of odd matrices in reverse order of addresses.
__device__ inline uint32_t row_address(Shared<uint16_t> tile, int n) {
  const int row = threadIdx.x % (8 * n);
  return shared_address(tile + 8 * (row / 8 % 2 == 0 ? row : row / 8 * 8 + 7 - row % 8));
}

// The kernel for n matrices.
template <typename Kernel>
Kernel of_count(int n, Kernel one, Kernel two, Kernel four) {
  return n == 1 ? one : n == 2 ? two : four;
}

}  // namespace megafm::cuda
