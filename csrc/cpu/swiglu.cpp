// SwiGLU on the CPU: tensors to rows, rows to threads. The loops are in swiglu.kernel.cpp.

#include "cpu/swiglu.h"

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cpu/tensors.h"

namespace megafm::cpu {
namespace {

void check(const Tensor& gate, const Tensor& up) {
  STD_TORCH_CHECK(gate.dim() >= 1, "swiglu: gate and up must be (..., dim)");
  check_like("swiglu", up, gate, "up");
}

Tensor swiglu(const Tensor& gate_in, const Tensor& up_in) {
  check(gate_in, up_in);
  const Rows gate = as_rows(gate_in), up = as_rows(up_in);
  const int64_t dim = gate_in.size(gate_in.dim() - 1);
  Tensor out = new_output(gate_in);
  for_storage("swiglu", gate_in, [&](auto* storage) {
    using T = std::remove_pointer_t<decltype(storage)>;
    const bool past_caches = goes_past_caches(3 * bytes_of(out), dim, {out});
    const GateAndUp<T> at{data<T>(gate.tensor), data<T>(up.tensor), gate.stride,
                          up.stride,            dim,                past_caches};
    const auto loop = MEGAFM_PICK(swiglu_forward<T>);
    T* y = mutable_data<T>(out);
    stable::parallel_for(0, rows_of(gate_in), rows_per_task(dim),
                         [&](int64_t begin, int64_t end) { loop(at, y, begin, end); });
  });
  return out;
}

std::tuple<Tensor, Tensor> swiglu_backward(const Tensor& d_out_in, const Tensor& gate_in,
                                           const Tensor& up_in) {
  check(gate_in, up_in);
  check_like("swiglu", d_out_in, gate_in, "d_out");
  const Rows gate = as_rows(gate_in), up = as_rows(up_in), d_out = as_rows(d_out_in);
  const int64_t dim = gate_in.size(gate_in.dim() - 1);
  Tensor d_gate = new_output(gate_in), d_up = new_output(gate_in);
  for_storage("swiglu", gate_in, [&](auto* storage) {
    using T = std::remove_pointer_t<decltype(storage)>;
    const bool past_caches = goes_past_caches(5 * bytes_of(d_up), dim, {d_gate, d_up});
    const GateAndUp<T> at{data<T>(gate.tensor), data<T>(up.tensor), gate.stride,
                          up.stride,            dim,                past_caches};
    const auto loop = MEGAFM_PICK(swiglu_backward<T>);
    const T* d_y = data<T>(d_out.tensor);
    T *d_g = mutable_data<T>(d_gate), *d_u = mutable_data<T>(d_up);
    stable::parallel_for(
        0, rows_of(gate_in), rows_per_task(dim),
        [&](int64_t begin, int64_t end) { loop(at, d_y, d_out.stride, d_g, d_u, begin, end); });
  });
  return {d_gate, d_up};
}

}  // namespace
}  // namespace megafm::cpu

STABLE_TORCH_LIBRARY_IMPL(megafm, CPU, m) {
  m.impl("swiglu", TORCH_BOX(&megafm::cpu::swiglu));
  m.impl("swiglu_backward", TORCH_BOX(&megafm::cpu::swiglu_backward));
}
