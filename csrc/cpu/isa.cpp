// Which instruction set the CPU kernels use: asked of cpuid once.

#include "cpu/isa.h"

#include <torch/csrc/stable/library.h>
#include <torch/headeronly/util/Exception.h>

#include <atomic>
#include <string>
#include <vector>

namespace megafm::cpu {
namespace {

const char* name_of(Isa isa) {
  switch (isa) {
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512bf16:
      return "avx512bf16";
    default:
      return "plain";
  }
}

// Ascending; the last is the best.
std::vector<Isa> find_available() {
  std::vector<Isa> found{Isa::plain};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    found.push_back(Isa::avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      found.push_back(Isa::avx512);
      if (__builtin_cpu_supports("avx512bf16")) {
        found.push_back(Isa::avx512bf16);
      }
    }
  }
#endif
  return found;
}

const std::vector<Isa>& available() {
  static const std::vector<Isa> found = find_available();
  return found;
}

std::atomic<Isa>& chosen() {
  static std::atomic<Isa> isa{available().back()};
  return isa;
}

std::string cpu_isa() {
  return name_of(isa());
}

std::string cpu_isas() {
  std::string names;
  for (Isa isa : available()) {
    if (!names.empty()) {
      names += ',';
    }
    names += name_of(isa);
  }
  return names;
}

void set_cpu_isa(std::string name) {
  for (Isa isa : available()) {
    if (name == name_of(isa)) {
      chosen() = isa;
      return;
    }
  }
  STD_TORCH_CHECK(false, "set_cpu_isa(", name, "): this CPU has ", cpu_isas());
}

}  // namespace

Isa isa() {
  return chosen();
}

}  // namespace megafm::cpu

STABLE_TORCH_LIBRARY_IMPL(megafm, CompositeImplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&megafm::cpu::cpu_isa));
  m.impl("cpu_isas", TORCH_BOX(&megafm::cpu::cpu_isas));
  m.impl("set_cpu_isa", TORCH_BOX(&megafm::cpu::set_cpu_isa));
}
