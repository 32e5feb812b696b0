// Tensor maps: what a bulk tensor copy must know of a tensor, made on the host.

#pragma once

#include "cuda/launch.cuh"

#ifdef MEGAFM_EMULATE
#include "emulator/tma.h"
#else
#include <cuda.h>  // types alone; libcuda is not linked
#endif

namespace megafm::cuda {

// How the 16-byte chunks of a tile's rows change places in shared memory, so that columns meet no
// bank conflicts: address bits 4 to 6 are xored with as many of bits 7 to 9. The values are the
// driver's; the rows of a tile are as long as the name says.
enum class Swizzle : uint32_t { none = 0, b32 = 1, b64 = 2, b128 = 3 };

#ifndef MEGAFM_EMULATE

using EncodeTensorMap = CUresult (*)(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*,
                                     const cuuint64_t*, const cuuint64_t*, const cuuint32_t*,
                                     const cuuint32_t*, CUtensorMapInterleave, CUtensorMapSwizzle,
                                     CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

// The driver's cuTensorMapEncodeTiled, looked up once in a process; after a throw again.
inline EncodeTensorMap encode_tensor_map() {
  static const auto encode = [] {
    void* entry = nullptr;
    cudaDriverEntryPointQueryResult found;
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000,
                                           cudaEnableDefault, &found),
          "cuTensorMapEncodeTiled");
    if (found != cudaDriverEntryPointSuccess) {
      throw std::runtime_error("the CUDA driver has no cuTensorMapEncodeTiled; update it to 12.0");
    }
    return reinterpret_cast<EncodeTensorMap>(entry);
  }();
  return encode;
}

#endif

// A tensor of `rank` dimensions, the contiguous one first: sizes in elements, the strides of the
// others in bytes (multiples of 16), and the box that one copy moves. Throws std::runtime_error.
template <typename T, int rank>
CUtensorMap make_tensor_map(const T* data, const uint64_t (&sizes)[rank],
                            const uint64_t (&strides)[rank - 1], const uint32_t (&box)[rank],
                            Swizzle swizzle) {
  constexpr bool is_float = std::is_same_v<T, float>, is_half = std::is_same_v<T, __half>;
  static_assert(is_float || is_half || std::is_same_v<T, __nv_bfloat16>);
#ifdef MEGAFM_EMULATE
  return emulator::encode_tensor_map(is_float  ? emulator::Element::f32
                                     : is_half ? emulator::Element::f16
                                               : emulator::Element::bf16,
                                     rank, data, sizes, strides, box,
                                     16u << static_cast<uint32_t>(swizzle));
#else
  cuuint64_t tensor_sizes[rank], tensor_strides[rank];
  cuuint32_t element_strides[rank];
  for (int dim = 0; dim < rank; ++dim) {
    tensor_sizes[dim] = sizes[dim];
    tensor_strides[dim] = dim + 1 < rank ? strides[dim] : 0;  // the last is not looked at
    element_strides[dim] = 1;
  }
  CUtensorMap map;
  const CUresult result = encode_tensor_map()(
      &map,
      is_float  ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32
      : is_half ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16
                : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
      rank, const_cast<T*>(data), tensor_sizes, tensor_strides, box, element_strides,
      CU_TENSOR_MAP_INTERLEAVE_NONE, static_cast<CUtensorMapSwizzle>(swizzle),
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw std::runtime_error("cuTensorMapEncodeTiled: error " + std::to_string(result));
  }
  return map;
#endif
}

}  // namespace megafm::cuda
