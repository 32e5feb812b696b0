// Launches of emulated kernels.

#pragma once

#include <tuple>
#include <type_traits>

#include "emulator/block.h"

using cudaStream_t = struct CUstream_st*;  // as CUDA declares it; not looked at

namespace megafm::emulator {

// Run every block of the grid, on options().workers cores, in the order of their indices.
// Throws std::runtime_error with the report of the lowest block that failed.
void run_grid(const Launch& launch);

// $MEGAFM_EMULATOR_CAPABILITY as it is now, such as 90; else 80. The emulator runs every kernel: it
// is what the host code chooses kernels by.
int compute_capability();

template <typename... Params>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes,
            std::type_identity_t<Params>... args) {
  const auto call = [&] { kernel(args...); };
  const auto entry = [](const void* closure) { (*static_cast<decltype(call)*>(closure))(); };
  run_grid({grid, block, static_cast<uint32_t>(shared_bytes), entry, &call});
}

}  // namespace megafm::emulator
