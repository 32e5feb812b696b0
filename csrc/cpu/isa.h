// The instruction sets that CPU kernels are compiled for, and the one in use.
//
// A kernel file (*.kernel.cpp) is compiled once for each, with its functions in the namespace
// MEGAFM_ISA. It includes no torch and no standard library code that could be emitted as a shared
// inline function: the linker would keep one copy of it, with instructions this CPU may lack. (All
// of immintrin.h is always inlined.)

#pragma once

namespace megafm::cpu {

// avx512bf16 has matrix instructions for bf16 (VDPBF16PS) on top.
enum class Isa { plain, avx2, avx512, avx512bf16 };

// The best one that this CPU has, unless set_cpu_isa (tests, benchmarks) chose another.
Isa isa();

}  // namespace megafm::cpu

// Declares kernel functions in the namespace of every instruction set.
#if defined(__x86_64__)
#define MEGAFM_FOR_EACH_ISA(declarations) \
  namespace plain {                       \
  declarations                            \
  }                                       \
  namespace avx2 {                        \
  declarations                            \
  }                                       \
  namespace avx512 {                      \
  declarations                            \
  }                                       \
  namespace avx512bf16 {                  \
  declarations                            \
  }

// The function of that name in the namespace of the instruction set in use.
#define MEGAFM_PICK(...)                                                            \
  (::megafm::cpu::isa() == ::megafm::cpu::Isa::avx512bf16 ? avx512bf16::__VA_ARGS__ \
   : ::megafm::cpu::isa() == ::megafm::cpu::Isa::avx512   ? avx512::__VA_ARGS__     \
   : ::megafm::cpu::isa() == ::megafm::cpu::Isa::avx2     ? avx2::__VA_ARGS__       \
                                                          : plain::__VA_ARGS__)
#else
#define MEGAFM_FOR_EACH_ISA(declarations) \
  namespace plain {                       \
  declarations                            \
  }
#define MEGAFM_PICK(...) (plain::__VA_ARGS__)
#endif
