// What a warp does with matrices: ldmatrix, stmatrix, mma.sync.

#pragma once

#include "emulator/warp.h"

namespace megafm::emulator {

void ldmatrix(uint32_t* registers, int count, bool transposed, uint32_t row);
void stmatrix(const uint32_t* registers, int count, bool transposed, uint32_t row);

struct Mma {
  float* d;
  const uint32_t *a, *b;
};

template <typename T>
void multiply(Mma* const* operands, uint32_t lanes);

template <typename T>
void mma_m16n8k16(float* d, const uint32_t* a, uint32_t b0, uint32_t b1) {
  const uint32_t b[2] = {b0, b1};
  Mma operand{d, a, b};
  gather<Mma, multiply<T>>("mma.sync", all_lanes, operand);
}

}  // namespace megafm::emulator
