// Prints how many results of csrc/cpu/vector_math.h's exponentials are wrong where they have to be
// exact, and the largest errors elsewhere, in ulps. The compiler's flags set the instructions.

#define MEGAFM_ISA measured
#include "cpu/vector_math.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

using namespace megafm::cpu::measured;

// Of e^x as a float; where the float has fewer digits, of the digits it has.
static double ulps(float got, double exact) {
  const int exponent = std::max(std::ilogb(exact), -126);
  return std::abs(got - exact) / std::ldexp(1.0, exponent - 23);
}

template <typename Exp>
static double worst(Exp exp, float from, float to, bool negative) {
  double most = 0;
  for (uint32_t bits = __builtin_bit_cast(uint32_t, from); bits < __builtin_bit_cast(uint32_t, to);
       bits += 31) {
    const float size = __builtin_bit_cast(float, bits), x = negative ? -size : size;
    most = std::max(most, ulps(exp(x), std::exp(static_cast<double>(x))));
  }
  return most;
}

int main() {
  const auto whole = [](float x) { return exp(x); };
  const auto normal = [](float x) { return exp_of_normal(x); };
  const auto lanes = [](float x) { return exp_of_negative(vec{} + x)[vec_width - 1]; };
  constexpr float infinity = __builtin_inff(), nan = __builtin_nanf("");
  int wrong = 0;
  wrong += exp(-infinity) != 0 || exp(infinity) != infinity || exp(89.0f) != infinity;
  wrong += exp_of_normal(-infinity) != 0 || exp_of_normal(infinity) != infinity;
  wrong += exp_of_normal(-88.5f) != 0 || exp_of_normal(1e30f) != infinity || exp(0.0f) != 1;
  wrong += lanes(-infinity) != 0 || lanes(-1e30f) != 0 || lanes(0) != 1 || lanes(-0.0f) != 1;
  wrong += exp(nan) == exp(nan) || exp_of_normal(nan) == exp_of_normal(nan);
  wrong += lanes(nan) == lanes(nan) || larger(vec{} + nan, vec{} + 2)[0] != 2;
  std::printf("%d %f %f %f\n", wrong,
              std::max(worst(whole, 1e-10f, 103.0f, true), worst(whole, 1e-10f, 88.7f, false)),
              std::max(worst(normal, 1e-10f, 87.3f, true), worst(normal, 1e-10f, 88.3f, false)),
              worst(lanes, 1e-10f, 87.3f, true));
}
