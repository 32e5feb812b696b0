// RMSNorm on the CPU: tensors to rows, rows to threads. The loops are in rms_norm.kernel.cpp.
//
// The weight's gradient is summed in blocks of rows whose number depends on the shape alone, then
// over the blocks in order: the same bits for any number of threads.

#include "cpu/rms_norm.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <tuple>

#include "cpu/tensors.h"

namespace megafm::cpu {
namespace {

constexpr int64_t most_blocks = 64;
constexpr int64_t fewest_rows_per_block = 32;  // with 16, blocks of 4,096 fill half the L2 cache

// Calls body(T, W) with null pointers of the types that x and the weight are stored in.
template <typename Body>
void for_storage(const Tensor& x, const Tensor& weight, const Body& body) {
  const ScalarType rows = x.scalar_type(), scale = weight.scalar_type();
  if (rows == ScalarType::Float && scale == ScalarType::Float) {
    body(static_cast<float*>(nullptr), static_cast<float*>(nullptr));
  } else if (rows == ScalarType::BFloat16 && scale == ScalarType::BFloat16) {
    body(static_cast<bf16*>(nullptr), static_cast<bf16*>(nullptr));
  } else if (rows == ScalarType::BFloat16 && scale == ScalarType::Float) {
    body(static_cast<bf16*>(nullptr), static_cast<float*>(nullptr));
  } else {
    STD_TORCH_CHECK(false, "rms_norm: x must be float32 or bfloat16, weight like x or float32");
  }
}

void check(const Tensor& x, const Tensor& weight) {
  STD_TORCH_CHECK(x.dim() >= 1 && weight.dim() == 1 && weight.size(0) == x.size(x.dim() - 1),
                  "rms_norm: weight must be (dim,) where x is (..., dim)");
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor& x_in,
                                           const std::optional<Tensor>& residual_in,
                                           const Tensor& weight_in, double eps) {
  check(x_in, weight_in);
  const Tensor x = stable::contiguous(x_in), weight = stable::contiguous(weight_in);
  const auto sizes = x.sizes();
  Tensor y = new_output(x);
  Tensor total = x;
  std::optional<Tensor> residual;
  if (residual_in) {
    check_like("rms_norm", *residual_in, x, "residual");
    residual = stable::contiguous(*residual_in);
    total = new_output(x);
  }
  Tensor rstd = stable::new_empty(x, sizes.slice(0, sizes.size() - 1), ScalarType::Float);
  const int64_t dim = weight.size(0);
  for_storage(x, weight, [&](auto* storage, auto* scale) {
    using T = std::remove_pointer_t<decltype(storage)>;
    using W = std::remove_pointer_t<decltype(scale)>;
    const NormForward<T> at{
        .x = data<T>(x),
        .residual = residual ? data<T>(*residual) : nullptr,
        .total = residual ? mutable_data<T>(total) : nullptr,
        .y = mutable_data<T>(y),
        .rstd = mutable_data<float>(rstd),
        .dim = dim,
        .eps = static_cast<float>(eps),
        .past_caches = goes_past_caches((residual ? 4 : 2) * bytes_of(x), dim, {y}),
    };
    const auto rows = MEGAFM_PICK(norm_forward<T, W>);
    stable::parallel_for(0, rows_of(x), rows_per_task(dim), [&](int64_t begin, int64_t end) {
      rows(at, data<W>(weight), begin, end);
    });
  });
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

std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& d_y_in,
                                             const std::optional<Tensor>& d_total_in,
                                             const Tensor& x_in, const Tensor& weight_in,
                                             const Tensor& rstd_in) {
  check(x_in, weight_in);
  check_like("rms_norm", d_y_in, x_in, "d_y");
  const Tensor d_y = stable::contiguous(d_y_in), x = stable::contiguous(x_in);
  const Tensor weight = stable::contiguous(weight_in), rstd = stable::contiguous(rstd_in);
  std::optional<Tensor> d_total;
  if (d_total_in) {
    check_like("rms_norm", *d_total_in, x_in, "d_total");
    d_total = stable::contiguous(*d_total_in);
  }
  const int64_t rows = rows_of(x), dim = weight.size(0);
  STD_TORCH_CHECK(rstd.numel() == rows && rstd.scalar_type() == ScalarType::Float,
                  "rms_norm: rstd must have one float32 per row of x");
  const int64_t blocks = std::clamp<int64_t>(rows / fewest_rows_per_block, 1, most_blocks);
  const int64_t per_block = (rows + blocks - 1) / blocks;
  Tensor d_x = new_output(x);
  Tensor d_weight = stable::new_empty(weight, weight.sizes());
  Tensor partial = stable::new_zeros(x, {blocks, dim}, ScalarType::Float);
  for_storage(x, weight, [&](auto* storage, auto* scale) {
    using T = std::remove_pointer_t<decltype(storage)>;
    using W = std::remove_pointer_t<decltype(scale)>;
    NormBackward<T> whole{
        .d_y = data<T>(d_y),
        .d_total = d_total ? data<T>(*d_total) : nullptr,
        .x = data<T>(x),
        .rstd = data<float>(rstd),
        .d_x = mutable_data<T>(d_x),
        .d_weight = mutable_data<float>(partial),
        .dim = dim,
        .past_caches = goes_past_caches((d_total ? 4 : 3) * bytes_of(x), dim, {d_x}),
    };
    const auto loop = MEGAFM_PICK(norm_backward<T, W>);
    const int64_t grain = elements_per_task / std::max<int64_t>(1, per_block * dim) + 1;
    stable::parallel_for(0, blocks, grain, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        NormBackward<T> at = whole;
        at.d_weight += block * dim;
        loop(at, data<W>(weight), std::min(rows, block * per_block),
             std::min(rows, (block + 1) * per_block));
      }
    });
    MEGAFM_PICK(sum_rows<W>)(whole.d_weight, blocks, dim, mutable_data<W>(d_weight));
  });
  return {d_x, d_weight};
}

}  // namespace
}  // namespace megafm::cpu

STABLE_TORCH_LIBRARY_IMPL(megafm, CPU, m) {
  m.impl("rms_norm", TORCH_BOX(&megafm::cpu::rms_norm));
  m.impl("add_rms_norm", TORCH_BOX(&megafm::cpu::add_rms_norm));
  m.impl("rms_norm_backward", TORCH_BOX(&megafm::cpu::rms_norm_backward));
}
