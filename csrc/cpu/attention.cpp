// Attention on the CPU, forward: tensors to heads, runs of rows to threads. The loops are in
// attention.kernel.cpp, those of one query in attention_decode.kernel.cpp.

#include <torch/csrc/stable/library.h>

#include <tuple>

#include "cpu/attention_host.h"

namespace megafm::cpu {
namespace {

// The kv head of a sequence that rows belong to.
template <typename T>
AttentionForward<T> head_of(const AttentionProblem& problem, int64_t index, const Tensor& q,
                            const Tensor& k, const Tensor& v, const std::optional<Tensor>& sinks,
                            const Tensor& out, const Tensor& lse) {
  const int64_t batch = index / problem.kv_heads, head = index % problem.kv_heads;
  const AttentionShape& shape = problem.shape;
  return {
      .shape = shape,
      .q = rows_view<const T>(q, batch, head, shape.group),
      .k = head_view<const T>(k, batch, head),
      .v = head_view<const T>(v, batch, head),
      .sinks = sinks ? data<float>(*sinks) + head * shape.group : nullptr,
      .out = rows_view<T>(out, batch, head, shape.group),
      .lse = mutable_data<float>(lse) + index * shape.group * shape.seq_q,
  };
}

template <typename T>
void forward(const AttentionProblem& problem, const Tensor& q, const Tensor& k, const Tensor& v,
             const std::optional<Tensor>& sinks, const Tensor& out, const Tensor& lse) {
  const AttentionShape& shape = problem.shape;
  const int64_t rows = shape.seq_q * shape.group;
  const int64_t heads = problem.batch * problem.kv_heads;
  const double operations = 4.0 * rows * heads * shape.seq_k * std::max(shape.dim, shape.dim_v);
  if (shape.seq_q == 1 && rows <= most_decode_rows<T>) {
    const auto decode = MEGAFM_PICK(attention_decode<T>);
    const int64_t buffer = MEGAFM_PICK(attention_decode_buffer)(shape);
    for_each_task(heads, operations, [&](int64_t head) {
      decode(head_of<T>(problem, head, q, k, v, sinks, out, lse), thread_buffer(buffer));
    });
    return;
  }
  constexpr int64_t fewest_tasks = 16;  // where there are few heads, tasks are of fewer rows
  const int64_t groups = (rows + lane_count - 1) / lane_count;
  const int64_t per_task = std::clamp<int64_t>(groups * heads / fewest_tasks, 1, groups_per_task);
  const int64_t tasks_per_head = (groups + per_task - 1) / per_task;
  const auto loop = MEGAFM_PICK(attention_forward<T>);
  const int64_t buffer = MEGAFM_PICK(attention_buffer<T>)(shape);
  for_each_task(heads * tasks_per_head, operations, [&](int64_t task) {
    const auto at = head_of<T>(problem, task / tasks_per_head, q, k, v, sinks, out, lse);
    const int64_t last_first = tasks_per_head - 1 - task % tasks_per_head;  // causal: the longest
    const int64_t begin = last_first * per_task * lane_count;
    loop(at, begin, std::min(rows, begin + per_task * lane_count), thread_buffer(buffer));
  });
}

std::tuple<Tensor, Tensor> attention(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in,
                                     const std::optional<Tensor>& sinks_in,
                                     const std::optional<Tensor>& cu_seqlens,
                                     const std::optional<Tensor>& cu_seqlens_k, bool causal,
                                     double scale, std::optional<int64_t> window,
                                     std::optional<double> softcap, bool /*of the backward*/) {
  const AttentionProblem problem = attention_problem(
      q_in, k_in, v_in, {cu_seqlens, cu_seqlens_k, causal, scale, window, softcap});
  const Tensor q = with_dense_heads(q_in), k = with_dense_heads(k_in), v = with_dense_heads(v_in);
  const std::optional<Tensor> sinks = checked_sinks(sinks_in, q);
  Tensor out = stable::new_empty(q, {q.size(0), q.size(1), q.size(2), v.size(3)});
  Tensor lse =
      stable::new_empty(q, {q.size(0), q.size(2), q.size(1)}, ScalarType::Float);
  for_storage("attention", q, [&](auto* storage) {
    forward<std::remove_pointer_t<decltype(storage)>>(problem, q, k, v, sinks, out, lse);
  });
  return {out, lse};
}

}  // namespace
}  // namespace megafm::cpu

STABLE_TORCH_LIBRARY_IMPL(megafm, CPU, m) {
  m.impl("attention", TORCH_BOX(&megafm::cpu::attention));
}
