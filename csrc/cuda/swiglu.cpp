// SwiGLU on CUDA: tensors to the launchers of swiglu.cu.

#include "cuda/swiglu.h"

#include <optional>
#include <tuple>

#include "cuda/tensors.h"

namespace megafm::cuda {
namespace {

void check(const Tensor& gate, const Tensor& up) {
  STD_TORCH_CHECK(gate.dim() >= 1, "swiglu: gate and up must be (..., dim)");
  check_like("swiglu", up, gate, "up");
}

Tensor swiglu(const Tensor& gate_in, const Tensor& up_in) {
  check(gate_in, up_in);
  const OnDevice device(gate_in);
  const Rows gate = as_rows(gate_in), up = as_rows(up_in);
  Tensor out = new_output(gate_in);
  const SwigluForward at{
      .gate = gate.tensor.const_data_ptr(),
      .up = up.tensor.const_data_ptr(),
      .out = out.mutable_data_ptr(),
      .rows = rows_of(gate_in),
      .dim = gate_in.size(gate_in.dim() - 1),
      .gate_stride = gate.stride,
      .up_stride = up.stride,
      .storage = storage_of("swiglu", gate_in),
  };
  swiglu_forward(at, device.stream);
  return out;
}

std::tuple<Tensor, Tensor> backward(const Tensor& d_out_in, const Tensor& gate_in,
                                    const Tensor& up_in) {
  check(gate_in, up_in);
  check_like("swiglu", d_out_in, gate_in, "d_out");
  const OnDevice device(gate_in);
  const Rows d_out = as_rows(d_out_in), gate = as_rows(gate_in), up = as_rows(up_in);
  Tensor d_gate = new_output(gate_in), d_up = new_output(gate_in);
  const SwigluBackward at{
      .d_out = d_out.tensor.const_data_ptr(),
      .gate = gate.tensor.const_data_ptr(),
      .up = up.tensor.const_data_ptr(),
      .d_gate = d_gate.mutable_data_ptr(),
      .d_up = d_up.mutable_data_ptr(),
      .rows = rows_of(gate_in),
      .dim = gate_in.size(gate_in.dim() - 1),
      .d_out_stride = d_out.stride,
      .gate_stride = gate.stride,
      .up_stride = up.stride,
      .storage = storage_of("swiglu", gate_in),
  };
  swiglu_backward(at, device.stream);
  return {d_gate, d_up};
}

}  // namespace
}  // namespace megafm::cuda

MEGAFM_CUDA_OPS(m) {
  m.impl("swiglu", TORCH_BOX(&megafm::cuda::swiglu));
  m.impl("swiglu_backward", TORCH_BOX(&megafm::cuda::backward));
}
