// How tensors' elements lie in memory, and their fp32 values. Part of kernel files (see isa.h).

#pragma once

#include <stdint.h>

namespace megafm::cpu {

struct bf16 {
  uint16_t bits;
};

#ifdef MEGAFM_ISA
namespace MEGAFM_ISA {

static inline float load(float x) {
  return x;
}

static inline float load(bf16 x) {
  return __builtin_bit_cast(float, uint32_t{x.bits} << 16);
}

static inline void store(float& to, float x) {
  to = x;
}

// Round to nearest even; a NaN stays a NaN.
static inline void store(bf16& to, float x) {
  const uint32_t bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  to.bits = static_cast<uint16_t>(x != x ? 0x7fc0 : rounded);
}

}  // namespace MEGAFM_ISA
#endif

}  // namespace megafm::cpu
