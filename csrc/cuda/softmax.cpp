// Softmax over the vocabulary on CUDA: tensors to the launchers of softmax.cu.

#include "cuda/softmax.h"

#include <optional>
#include <tuple>

#include "cuda/tensors.h"

namespace megafm::cuda {
namespace {

void check_columns(const Tensor& logits, const Tensor& columns) {
  STD_TORCH_CHECK(logits.dim() >= 1 && columns.scalar_type() == ScalarType::Long &&
                      columns.numel() == rows_of(logits),
                  "softmax: columns must have one int64 per row of logits");
}

std::tuple<Tensor, Tensor, Tensor> stats(const Tensor& logits, const Tensor& columns_in) {
  check_columns(logits, columns_in);
  const OnDevice device(logits);
  const Tensor columns = stable::contiguous(columns_in);
  const Rows rows = as_rows(logits);
  const auto new_stat = [&] {
    return stable::new_empty(logits, columns.sizes(), ScalarType::Float);
  };
  Tensor top = new_stat(), log_total = new_stat(), picked = new_stat();
  const SoftmaxStats at{
      .logits = rows.tensor.const_data_ptr(),
      .columns = data<int64_t>(columns),
      .top = mutable_data<float>(top),
      .log_total = mutable_data<float>(log_total),
      .picked = mutable_data<float>(picked),
      .rows = columns.numel(),
      .vocab = logits.size(logits.dim() - 1),
      .stride = rows.stride,
      .storage = storage_of("softmax", logits),
  };
  softmax_stats(at, device.stream);
  return {top, log_total, picked};
}

// What is known of each row when the gradient is formed: one float32 each.
struct RowValues {
  Tensor top, log_total, d_lse, d_picked;
};

// d_logits is contiguous; it may be the logits themselves.
void write_gradient(const Tensor& logits, const Tensor& columns_in, const RowValues& values,
                    double softcap, const Tensor& d_logits) {
  check_columns(logits, columns_in);
  const auto floats = [&](const Tensor& value) {
    STD_TORCH_CHECK(value.scalar_type() == ScalarType::Float &&
                        value.numel() == columns_in.numel(),
                    "softmax: statistics must have one float32 per row of logits");
    return stable::contiguous(value);
  };
  const OnDevice device(logits);
  const RowValues own{floats(values.top), floats(values.log_total), floats(values.d_lse),
                      floats(values.d_picked)};
  const Tensor columns = stable::contiguous(columns_in);
  const Rows rows = as_rows(logits);
  const int64_t vocab = logits.size(logits.dim() - 1);
  const SoftmaxBackward at{
      .logits = rows.tensor.const_data_ptr(),
      .columns = data<int64_t>(columns),
      .top = data<float>(own.top),
      .log_total = data<float>(own.log_total),
      .d_lse = data<float>(own.d_lse),
      .d_picked = data<float>(own.d_picked),
      .d_logits = d_logits.mutable_data_ptr(),
      .rows = columns.numel(),
      .vocab = vocab,
      .stride = rows.stride,
      .d_stride = vocab,
      .softcap = static_cast<float>(softcap),
      .storage = storage_of("softmax", logits),
  };
  softmax_backward(at, device.stream);
}

Tensor backward(const Tensor& logits, const Tensor& columns, const Tensor& top,
                const Tensor& log_total, const Tensor& d_lse, const Tensor& d_picked) {
  Tensor d_logits = new_output(logits);
  write_gradient(logits, columns, {top, log_total, d_lse, d_picked}, 0, d_logits);
  return d_logits;
}

void backward_in_place(Tensor logits, const Tensor& columns, const Tensor& top,
                       const Tensor& log_total, const Tensor& d_lse, const Tensor& d_picked,
                       std::optional<double> softcap) {
  STD_TORCH_CHECK(logits.is_contiguous(), "softmax_backward_: logits must be contiguous");
  write_gradient(logits, columns, {top, log_total, d_lse, d_picked}, softcap.value_or(0), logits);
}

}  // namespace
}  // namespace megafm::cuda

MEGAFM_CUDA_OPS(m) {
  m.impl("softmax_stats", TORCH_BOX(&megafm::cuda::stats));
  m.impl("softmax_backward", TORCH_BOX(&megafm::cuda::backward));
  m.impl("softmax_backward_", TORCH_BOX(&megafm::cuda::backward_in_place));
}
