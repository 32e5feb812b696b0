// Softmax over the vocabulary on the CPU: rows to threads. The loops are in softmax.kernel.cpp.

#include "cpu/softmax.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>

#include "cpu/tensors.h"

namespace megafm::cpu {
namespace {

// Columns are looked at before anything is read at them.
void check_columns(const Tensor& logits, const Tensor& columns) {
  STD_TORCH_CHECK(logits.dim() >= 1 && columns.scalar_type() == ScalarType::Long &&
                      columns.numel() == rows_of(logits),
                  "softmax: columns must have one int64 per row of logits");
  const int64_t vocab = logits.size(logits.dim() - 1), *at = data<int64_t>(columns);
  for (int64_t row = 0; row < columns.numel(); ++row) {
    if (at[row] != no_column && (at[row] < 0 || at[row] >= vocab)) {  // an IndexError in Python
      throw std::out_of_range("cross_entropy: a target is outside the vocabulary: row " +
                              std::to_string(row) + " wants column " + std::to_string(at[row]) +
                              " of " + std::to_string(vocab));
    }
  }
}

std::tuple<Tensor, Tensor, Tensor> softmax_stats(const Tensor& logits, const Tensor& columns_in) {
  const Tensor columns = stable::contiguous(columns_in);
  check_columns(logits, columns);
  const Rows rows = as_rows(logits);
  const auto new_stat = [&] {
    return stable::new_empty(logits, columns.sizes(), ScalarType::Float);
  };
  Tensor top = new_stat(), log_total = new_stat(), picked = new_stat();
  const SoftmaxStats to{mutable_data<float>(top), mutable_data<float>(log_total),
                        mutable_data<float>(picked)};
  const int64_t vocab = logits.size(logits.dim() - 1);
  for_storage("softmax", logits, [&](auto* storage) {
    using T = std::remove_pointer_t<decltype(storage)>;
    const LogitRows<T> at{data<T>(rows.tensor), rows.stride, vocab, data<int64_t>(columns)};
    const auto loop = MEGAFM_PICK(softmax_stats<T>);
    stable::parallel_for(0, columns.numel(), rows_per_task(vocab),
                         [&](int64_t begin, int64_t end) { loop(at, to, begin, end); });
  });
  return {top, log_total, picked};
}

// What is known of each row when the gradient is formed: one float32 each.
struct RowValues {
  Tensor top, log_total, d_lse, d_picked;
};

// d_logits is contiguous; it may be the logits themselves.
void write_gradient(const Tensor& logits, const Tensor& columns_in, const RowValues& values,
                    double softcap, const Tensor& d_logits) {
  const Tensor columns = stable::contiguous(columns_in);
  check_columns(logits, columns);
  const auto floats = [&](const Tensor& value) {
    STD_TORCH_CHECK(value.scalar_type() == ScalarType::Float && value.numel() == columns.numel(),
                    "softmax: statistics must have one float32 per row of logits");
    return stable::contiguous(value);
  };
  const RowValues own{floats(values.top), floats(values.log_total), floats(values.d_lse),
                      floats(values.d_picked)};
  const Rows rows = as_rows(logits);
  const int64_t vocab = logits.size(logits.dim() - 1);
  const bool in_place = logits.const_data_ptr() == d_logits.const_data_ptr();
  const SoftmaxGradient from{
      .top = data<float>(own.top),
      .log_total = data<float>(own.log_total),
      .d_lse = data<float>(own.d_lse),
      .d_picked = data<float>(own.d_picked),
      .softcap = static_cast<float>(softcap),
      .past_caches = !in_place && goes_past_caches(2 * bytes_of(logits), vocab, {d_logits}),
  };
  for_storage("softmax", logits, [&](auto* storage) {
    using T = std::remove_pointer_t<decltype(storage)>;
    const LogitRows<T> at{data<T>(rows.tensor), rows.stride, vocab, data<int64_t>(columns)};
    const auto loop = MEGAFM_PICK(softmax_backward<T>);
    T* d = mutable_data<T>(d_logits);
    stable::parallel_for(0, columns.numel(), rows_per_task(vocab),
                         [&](int64_t begin, int64_t end) { loop(at, from, d, begin, end); });
  });
}

Tensor softmax_backward(const Tensor& logits, const Tensor& columns, const Tensor& top,
                        const Tensor& log_total, const Tensor& d_lse, const Tensor& d_picked) {
  Tensor d_logits = new_output(logits);
  write_gradient(logits, columns, {top, log_total, d_lse, d_picked}, 0, d_logits);
  return d_logits;
}

void softmax_backward_(Tensor logits, const Tensor& columns, const Tensor& top,
                       const Tensor& log_total, const Tensor& d_lse, const Tensor& d_picked,
                       std::optional<double> softcap) {
  STD_TORCH_CHECK(logits.is_contiguous(), "softmax_backward_: logits must be contiguous");
  write_gradient(logits, columns, {top, log_total, d_lse, d_picked}, softcap.value_or(0), logits);
}

}  // namespace
}  // namespace megafm::cpu

STABLE_TORCH_LIBRARY_IMPL(megafm, CPU, m) {
  m.impl("softmax_stats", TORCH_BOX(&megafm::cpu::softmax_stats));
  m.impl("softmax_backward", TORCH_BOX(&megafm::cpu::softmax_backward));
  m.impl("softmax_backward_", TORCH_BOX(&megafm::cpu::softmax_backward_));
}
