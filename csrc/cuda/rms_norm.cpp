// RMSNorm on CUDA: tensors to the launchers of rms_norm.cu.

#include "cuda/rms_norm.h"

#include <optional>
#include <tuple>

#include "cuda/tensors.h"

namespace megafm::cuda {
namespace {

void check(const Tensor& x, const Tensor& weight) {
  STD_TORCH_CHECK(x.dim() >= 1 && weight.dim() == 1 && weight.size(0) == x.size(x.dim() - 1),
                  "rms_norm: weight must be (dim,) where x is (..., dim)");
  STD_TORCH_CHECK(weight.scalar_type() == x.scalar_type() ||
                      weight.scalar_type() == ScalarType::Float,
                  "rms_norm: weight must be like x or float32");
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x_in,
                                           const std::optional<Tensor>& residual_in,
                                           const Tensor& weight_in, double eps) {
  check(x_in, weight_in);
  if (residual_in) {
    check_like("rms_norm", *residual_in, x_in, "residual");
  }
  const OnDevice device(x_in);
  const Tensor x = stable::contiguous(x_in), weight = stable::contiguous(weight_in);
  const std::optional<Tensor> residual = contiguous(residual_in);
  const auto sizes = x.sizes();
  Tensor y = new_output(x), total = residual ? new_output(x) : x;
  Tensor rstd = stable::new_empty(x, sizes.slice(0, sizes.size() - 1), ScalarType::Float);
  const NormForward at{
      .x = x.const_data_ptr(),
      .residual = address(residual),
      .weight = weight.const_data_ptr(),
      .total = residual ? total.mutable_data_ptr() : nullptr,
      .y = y.mutable_data_ptr(),
      .rstd = mutable_data<float>(rstd),
      .rows = rows_of(x),
      .dim = weight.size(0),
      .eps = static_cast<float>(eps),
      .storage = storage_of("rms_norm", x),
      .weight_storage = storage_of("rms_norm", weight),
  };
  rms_norm_forward(at, device.stream);
  return {y, total, rstd};
}

std::tuple<Tensor, Tensor> rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  auto [y, total, rstd] = forward(x, std::nullopt, weight, eps);
  return {y, rstd};
}

std::tuple<Tensor, Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual,
                                                const Tensor& weight, double eps) {
  return forward(x, residual, weight, eps);
}

std::tuple<Tensor, Tensor> backward(const Tensor& d_y_in, const std::optional<Tensor>& d_total_in,
                                    const Tensor& x_in, const Tensor& weight_in,
                                    const Tensor& rstd_in) {
  check(x_in, weight_in);
  check_like("rms_norm", d_y_in, x_in, "d_y");
  if (d_total_in) {
    check_like("rms_norm", *d_total_in, x_in, "d_total");
  }
  const int64_t rows = rows_of(x_in), dim = weight_in.size(0);
  STD_TORCH_CHECK(rstd_in.numel() == rows && rstd_in.scalar_type() == ScalarType::Float,
                  "rms_norm: rstd must have one float32 per row of x");
  const OnDevice device(x_in);
  const Tensor d_y = stable::contiguous(d_y_in), x = stable::contiguous(x_in);
  const Tensor weight = stable::contiguous(weight_in), rstd = stable::contiguous(rstd_in);
  const std::optional<Tensor> d_total = contiguous(d_total_in);
  const Storage storage = storage_of("rms_norm", x);
  Tensor d_x = new_output(x), d_weight = new_output(weight);
  const int64_t num_partials = rms_norm_num_partials(rows, dim, storage);
  Tensor partials = stable::new_empty(x, {num_partials, dim}, ScalarType::Float);
  const NormBackward at{
      .d_y = d_y.const_data_ptr(),
      .d_total = address(d_total),
      .x = x.const_data_ptr(),
      .weight = weight.const_data_ptr(),
      .rstd = data<float>(rstd),
      .d_x = d_x.mutable_data_ptr(),
      .d_weight = d_weight.mutable_data_ptr(),
      .partials = mutable_data<float>(partials),
      .rows = rows,
      .dim = dim,
      .storage = storage,
      .weight_storage = storage_of("rms_norm", weight),
  };
  rms_norm_backward(at, device.stream);
  return {d_x, d_weight};
}

}  // namespace
}  // namespace megafm::cuda

MEGAFM_CUDA_OPS(m) {
  m.impl("rms_norm", TORCH_BOX(&megafm::cuda::rms_norm));
  m.impl("add_rms_norm", TORCH_BOX(&megafm::cuda::add_rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&megafm::cuda::backward));
}
