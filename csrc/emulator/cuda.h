// What CUDA's headers and its compiler supply to a kernel file, on the host (README.md).

#pragma once

#include "emulator/intrinsics.h"
#include "emulator/launch.h"
#include "emulator/memory.h"
#include "emulator/shared.h"
#include "emulator/types.h"
#include "emulator/warp.h"

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)

#define threadIdx (::megafm::emulator::current->index)
#define blockIdx (::megafm::emulator::current->block->index())
#define blockDim (::megafm::emulator::current->block->launch().block)
#define gridDim (::megafm::emulator::current->block->launch().grid)
