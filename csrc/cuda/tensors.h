// What the host side of every CUDA op needs: tensors on their device, and torch's stream there.
//
// Compiled with MEGAFM_EMULATE the kernels take tensors of the CPU, which run in the emulator.

#pragma once

#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "cuda/storage.h"
#include "rows.h"

namespace megafm::cuda {

inline Storage storage_of(const char* op, const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float:
      return Storage::fp32;
    case ScalarType::BFloat16:
      return Storage::bf16;
    case ScalarType::Half:
      return Storage::fp16;
    default:
      STD_TORCH_CHECK(false, op, ": tensors must be float32, bfloat16 or float16");
  }
}

#ifdef MEGAFM_EMULATE

struct OnDevice {
  explicit OnDevice(const Tensor&) {}
  void* const stream = nullptr;
};

#else

// Looked up when it is needed: the library also loads beside a torch that was built without CUDA.
inline void* current_stream(int32_t device) {
  using Get = AOTITorchError (*)(int32_t device, void** stream);  // declared for CUDA builds alone
  static const auto get = reinterpret_cast<Get>(
      dlsym(dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD), "aoti_torch_get_current_cuda_stream"));
  STD_TORCH_CHECK(get != nullptr, "megafm: this torch has no CUDA streams; install a CUDA build");
  void* stream = nullptr;
  STD_TORCH_CHECK(get(device, &stream) == AOTI_TORCH_SUCCESS, "megafm: no current CUDA stream");
  return stream;
}

// While it lives, the device of x is the current one.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& x)
      : stream(current_stream(x.get_device_index())), guard_(x.get_device_index()) {}

  void* const stream;

 private:
  stable::accelerator::DeviceGuard guard_;
};

#endif

// Null where there is no tensor.
inline const void* address(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

inline Tensor new_output(const Tensor& x) {
  return stable::new_empty(x, x.sizes());
}

}  // namespace megafm::cuda

#ifdef MEGAFM_EMULATE
#define MEGAFM_CUDA_OPS(m) STABLE_TORCH_LIBRARY_IMPL(megafm_emulated, CPU, m)
#else
#define MEGAFM_CUDA_OPS(m) STABLE_TORCH_LIBRARY_IMPL(megafm, CUDA, m)
#endif
