// Attention on the CPU, backward: chunks of keys to threads. The loops are in
// attention_backward.kernel.cpp.
//
// Where there are few heads, the chunks of one head are dealt out to several tasks, each with a sum
// of d_q of its own; their number depends on the shape alone, and they are added in order: the same
// bits for any number of threads.

#include <torch/csrc/stable/library.h>

#include <limits>
#include <tuple>

#include "cpu/attention_host.h"

namespace megafm::cpu {
namespace {

constexpr int64_t fewest_tasks = 16;

int64_t divide_up(int64_t n, int64_t by) {
  return (n + by - 1) / by;
}

struct Gradients {
  Tensor d_q;
  Tensor d_k;
  Tensor d_v;
};

template <typename T>
void fill_delta(const AttentionProblem& problem, const Tensor& d_out, const Tensor& out,
                const Tensor& lse, const std::optional<Tensor>& d_lse,
                const std::optional<Tensor>& sinks, Tensor& delta, Tensor& d_sinks) {
  const int64_t heads = out.size(2), seq = problem.shape.seq_q, dim_v = problem.shape.dim_v;
  const auto loop = MEGAFM_PICK(attention_delta<T>);
  std::vector<float> partial(problem.batch * heads);
  for_each_task(problem.batch * heads, static_cast<double>(out.numel()) * 8, [&](int64_t task) {
    const int64_t batch = task / heads, head = task % heads;
    const AttentionDelta<T> at{
        .out = head_view<const T>(out, batch, head),
        .d_out = head_view<const T>(d_out, batch, head),
        .d_lse = d_lse ? data<float>(*d_lse) + task * seq : nullptr,
        .lse = data<float>(lse) + task * seq,
        .delta = mutable_data<float>(delta) + task * seq,
        .seq = seq,
        .dim_v = dim_v,
    };
    partial[task] = loop(at, sinks ? data<float>(*sinks)[head]
                                   : -std::numeric_limits<float>::infinity());
  });
  for (int64_t head = 0; head < d_sinks.numel(); ++head) {
    float sum = 0;
    for (int64_t batch = 0; batch < problem.batch; ++batch) {
      sum += partial[batch * heads + head];
    }
    mutable_data<float>(d_sinks)[head] = sum;
  }
}

// How the keys of one head are dealt out. Depends on the shape alone.
struct Plan {
  int64_t chunks;
  int64_t parts;  // tasks; part p takes chunks p, p + parts, ...
};

// Sets the shape's key_chunk too.
Plan make_plan(AttentionShape& shape, int64_t heads) {
  const int64_t wanted = divide_up(fewest_tasks, heads);
  const int64_t share = divide_up(shape.seq_k, wanted * key_block) * key_block;
  constexpr int64_t fewest_keys = 2 * key_block;  // packing the rows costs a few percent of these
  shape.key_chunk = std::min(shape.key_chunk, std::max(fewest_keys, share));
  const int64_t chunks = divide_up(shape.seq_k, shape.key_chunk);
  return {chunks, std::clamp<int64_t>(chunks, 1, wanted)};
}

template <typename T>
void fill_gradients(AttentionProblem& problem, const Tensor& d_out, const Tensor& q,
                    const Tensor& k, const Tensor& v, const Tensor& lse, const Tensor& delta,
                    const Gradients& to) {
  const int64_t heads = problem.batch * problem.kv_heads;
  if (heads == 0) {
    return;
  }
  const auto [chunks, parts] = make_plan(problem.shape, heads);
  const AttentionShape& shape = problem.shape;
  const int64_t rows = shape.seq_q * shape.group;
  const int64_t part_floats = divide_up(rows, 16) * 16 * divide_up(shape.dim, 16) * 16;
  const int64_t buffer = MEGAFM_PICK(attention_backward_buffer<T>)(shape);
  const auto backward = MEGAFM_PICK(attention_backward<T>);
  const auto sum_parts = MEGAFM_PICK(attention_sum_parts<T>);
  const Tensor shared =
      stable::new_empty(q, {parts == 1 ? 0 : heads * parts * part_floats}, ScalarType::Float);
  const double operations = 10.0 * rows * heads * shape.seq_k * std::max(shape.dim, shape.dim_v);
  for_each_task(heads * parts, operations, [&](int64_t task) {
    const int64_t batch = task / parts / problem.kv_heads, head = task / parts % problem.kv_heads;
    const int64_t stacked = task / parts * shape.group * shape.seq_q;
    const AttentionBackward<T> at{
        .shape = shape,
        .q = rows_view<const T>(q, batch, head, shape.group),
        .k = head_view<const T>(k, batch, head),
        .v = head_view<const T>(v, batch, head),
        .d_out = rows_view<const T>(d_out, batch, head, shape.group),
        .lse = data<float>(lse) + stacked,
        .delta = data<float>(delta) + stacked,
        .d_k = head_view<T>(to.d_k, batch, head),
        .d_v = head_view<T>(to.d_v, batch, head),
    };
    float* work = thread_buffer(buffer + (parts == 1 ? part_floats : 0));
    float* d_q = parts == 1 ? work + buffer : mutable_data<float>(shared) + task * part_floats;
    std::fill_n(d_q, part_floats, 0.0f);
    for (int64_t chunk = task % parts; chunk < chunks; chunk += parts) {
      backward(at, chunk * shape.key_chunk, d_q, work);
    }
    if (parts == 1) {
      sum_parts(shape, d_q, 1, 0, rows_view<T>(to.d_q, batch, head, shape.group), 0, rows);
    }
  });
  if (parts > 1) {
    const int64_t runs = divide_up(rows, lane_count);
    for_each_task(heads * runs, static_cast<double>(shared.numel()) * 8, [&](int64_t task) {
      const int64_t stacked = task / runs, begin = task % runs * lane_count;
      const auto d_q = rows_view<T>(to.d_q, stacked / problem.kv_heads, stacked % problem.kv_heads,
                                    shape.group);
      sum_parts(shape, mutable_data<float>(shared) + stacked * parts * part_floats, parts, part_floats,
                d_q, begin, std::min(rows, begin + lane_count));
    });
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& d_out_in, const std::optional<Tensor>& d_lse_in, const Tensor& q_in,
    const Tensor& k_in, const Tensor& v_in, const Tensor& out_in, const Tensor& lse_in,
    const std::optional<Tensor>& sinks_in, const std::optional<Tensor>& cu_seqlens,
    const std::optional<Tensor>& cu_seqlens_k, bool causal, double scale,
    std::optional<int64_t> window, std::optional<double> softcap, bool /*deterministic: always*/) {
  AttentionProblem problem = attention_problem(
      q_in, k_in, v_in, {cu_seqlens, cu_seqlens_k, causal, scale, window, softcap});
  check_attention_gradient(d_out_in, q_in, v_in, out_in, lse_in, d_lse_in);
  const Tensor q = with_dense_heads(q_in), k = with_dense_heads(k_in), v = with_dense_heads(v_in);
  const Tensor d_out = with_dense_heads(d_out_in), out = with_dense_heads(out_in);
  const Tensor lse = stable::contiguous(lse_in);
  const std::optional<Tensor> d_lse = contiguous(d_lse_in);
  const std::optional<Tensor> sinks = checked_sinks(sinks_in, q);
  const Gradients to{new_output(q), new_output(k), new_output(v)};
  Tensor delta = stable::new_empty(lse, lse.sizes());
  Tensor d_sinks = stable::new_empty(lse, {sinks ? q.size(2) : 0});
  for_storage("attention", q, [&](auto* storage) {
    using T = std::remove_pointer_t<decltype(storage)>;
    fill_delta<T>(problem, d_out, out, lse, d_lse, sinks, delta, d_sinks);
    fill_gradients<T>(problem, d_out, q, k, v, lse, delta, to);
  });
  return {to.d_q, to.d_k, to.d_v, d_sinks};
}

}  // namespace
}  // namespace megafm::cpu

STABLE_TORCH_LIBRARY_IMPL(megafm, CPU, m) {
  m.impl("attention_backward", TORCH_BOX(&megafm::cpu::attention_backward));
}
