// Attention on CUDA: tensors to the launchers of attention.cu.

#include "cuda/attention.h"

#include <optional>
#include <tuple>

#include "attention_checks.h"
#include "cuda/tensors.h"

namespace megafm::cuda {
namespace {

constexpr int64_t elements_per_access = 8;
constexpr int64_t largest_dim = 256;

// The tensor (batch, seq, heads, dim) itself where 16-byte accesses reach every head, else a copy:
// one that is contiguous already may start anywhere, or have any stride where its size is 1.
Tensor readable(const Tensor& x) {
  bool aligned = x.stride(3) == 1 && reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  for (int64_t dim = 0; dim < 3; ++dim) {
    aligned = aligned && x.stride(dim) % elements_per_access == 0;
  }
  if (aligned) {
    return x;
  }
  Tensor copy = stable::new_empty(x, x.sizes());
  stable::copy_(copy, x);
  return copy;
}

Heads heads_of(const Tensor& x) {
  return {const_cast<void*>(x.const_data_ptr()), x.stride(0), x.stride(1), x.stride(2)};
}

void check_kernel_exists(const Tensor& q, const Tensor& v) {
  const ScalarType dtype = q.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
                  "attention: the CUDA kernels take bfloat16 and float16; use the triton backend");
  for (const int64_t dim : {q.size(3), v.size(3)}) {
    STD_TORCH_CHECK(0 < dim && dim <= largest_dim && dim % elements_per_access == 0,
                    "attention: head dim ", dim, ": the CUDA kernels take multiples of ",
                    elements_per_access, " up to ", largest_dim, "; use the triton backend");
  }
}

// The shape of a problem, and the tables that it points to.
struct Problem {
  AttentionShape shape;
  std::optional<Tensor> keys_of_queries;
  std::optional<Tensor> queries_of_keys;
};

// (2, length), of what each position of one sequence sees in the other.
Tensor intervals(const Tensor& ends, const Tensor& other_ends, int64_t length, int64_t other_length,
                 int before, int after, void* stream) {
  Tensor table = stable::new_empty(ends, {2, length}, ScalarType::Int);
  const DocumentEnds documents{ends.const_data_ptr(), other_ends.const_data_ptr(),
                               static_cast<int>(ends.numel()),
                               ends.scalar_type() == ScalarType::Long};
  attention_intervals(documents, static_cast<int>(length), static_cast<int>(other_length), before,
                      after, mutable_data<int32_t>(table), stream);
  return table;
}

Tensor checked_ends(const Tensor& ends) {
  STD_TORCH_CHECK(ends.dim() == 1 && ends.size(0) > 0,
                  "attention: cu_seqlens must be (documents + 1,)");
  STD_TORCH_CHECK(ends.scalar_type() == ScalarType::Int || ends.scalar_type() == ScalarType::Long,
                  "attention: cu_seqlens must be int32 or int64");
  return stable::contiguous(ends);
}

Problem problem_of(const Tensor& q, const Tensor& k, const Tensor& v,
                   const AttentionOptions& options, void* stream) {
  check_attention(q, k, v);
  check_kernel_exists(q, v);
  const int64_t seq_q = q.size(1), seq_k = k.size(1), everything = seq_q + seq_k;
  const int64_t reach = std::min(options.window.value_or(everything) - 1, everything);
  Problem problem{
      .shape =
          {
              .batch = static_cast<int>(q.size(0)),
              .heads = static_cast<int>(q.size(2)),
              .group = static_cast<int>(k.size(2) == 0 ? 1 : q.size(2) / k.size(2)),
              .seq_q = static_cast<int>(seq_q),
              .seq_k = static_cast<int>(seq_k),
              .dim = static_cast<int>(q.size(3)),
              .dim_v = static_cast<int>(v.size(3)),
              .before = static_cast<int>(options.window ? reach : everything),
              .after = static_cast<int>(options.causal ? 0 : options.window ? reach : everything),
              .keys_of_queries = nullptr,
              .queries_of_keys = nullptr,
              .scale = static_cast<float>(options.scale),
              .softcap = static_cast<float>(options.softcap.value_or(0)),
          },
      .keys_of_queries = std::nullopt,
      .queries_of_keys = std::nullopt,
  };
  if (options.cu_seqlens) {
    const Tensor ends_q = checked_ends(*options.cu_seqlens);
    const Tensor ends_k = checked_ends(options.cu_seqlens_k.value_or(*options.cu_seqlens));
    STD_TORCH_CHECK(ends_q.size(0) == ends_k.size(0) &&
                        ends_q.scalar_type() == ends_k.scalar_type(),
                    "attention: cu_seqlens and cu_seqlens_k must have one length and dtype");
    AttentionShape& shape = problem.shape;
    problem.keys_of_queries =
        intervals(ends_q, ends_k, seq_q, seq_k, shape.before, shape.after, stream);
    problem.queries_of_keys =
        intervals(ends_k, ends_q, seq_k, seq_q, shape.after, shape.before, stream);
    shape.keys_of_queries = data<int32_t>(*problem.keys_of_queries);
    shape.queries_of_keys = data<int32_t>(*problem.queries_of_keys);
  }
  return problem;
}

std::tuple<Tensor, Tensor> forward(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in,
                                   const std::optional<Tensor>& sinks_in,
                                   const std::optional<Tensor>& cu_seqlens,
                                   const std::optional<Tensor>& cu_seqlens_k, bool causal,
                                   double scale, std::optional<int64_t> window,
                                   std::optional<double> softcap, bool /*of the backward*/) {
  const OnDevice device(q_in);
  const Problem problem = problem_of(
      q_in, k_in, v_in, {cu_seqlens, cu_seqlens_k, causal, scale, window, softcap}, device.stream);
  const Tensor q = readable(q_in), k = readable(k_in), v = readable(v_in);
  const std::optional<Tensor> sinks = checked_sinks(sinks_in, q);
  Tensor out = stable::new_empty(q, {q.size(0), q.size(1), q.size(2), v.size(3)});
  Tensor lse = stable::new_empty(q, {q.size(0), q.size(2), q.size(1)}, ScalarType::Float);
  attention_forward(
      {
          .shape = problem.shape,
          .q = heads_of(q),
          .k = heads_of(k),
          .v = heads_of(v),
          .sinks = static_cast<const float*>(address(sinks)),
          .out = heads_of(out),
          .lse = mutable_data<float>(lse),
          .storage = storage_of("attention", q),
      },
      device.stream);
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor& d_out_in, const std::optional<Tensor>& d_lse_in, const Tensor& q_in,
    const Tensor& k_in, const Tensor& v_in, const Tensor& out_in, const Tensor& lse_in,
    const std::optional<Tensor>& sinks_in, const std::optional<Tensor>& cu_seqlens,
    const std::optional<Tensor>& cu_seqlens_k, bool causal, double scale,
    std::optional<int64_t> window, std::optional<double> softcap, bool deterministic) {
  const OnDevice device(q_in);
  const Problem problem = problem_of(
      q_in, k_in, v_in, {cu_seqlens, cu_seqlens_k, causal, scale, window, softcap}, device.stream);
  check_attention_gradient(d_out_in, q_in, v_in, out_in, lse_in, d_lse_in);
  const Tensor q = readable(q_in), k = readable(k_in), v = readable(v_in);
  const Tensor d_out = readable(d_out_in), out = readable(out_in);
  const Tensor lse = stable::contiguous(lse_in);
  const std::optional<Tensor> d_lse = contiguous(d_lse_in), sinks = checked_sinks(sinks_in, q);
  Tensor d_q = new_output(q), d_k = new_output(k), d_v = new_output(v);
  Tensor delta = new_output(lse);
  Tensor d_sinks = stable::new_empty(lse, {sinks ? q.size(2) : 0});
  Tensor d_q_sum = stable::new_empty(lse, {deterministic ? 0 : q.numel()});
  attention_backward(
      {
          .shape = problem.shape,
          .d_out = heads_of(d_out),
          .q = heads_of(q),
          .k = heads_of(k),
          .v = heads_of(v),
          .out = heads_of(out),
          .lse = data<float>(lse),
          .d_lse = static_cast<const float*>(address(d_lse)),
          .delta = mutable_data<float>(delta),
          .sinks = static_cast<const float*>(address(sinks)),
          .d_sinks = mutable_data<float>(d_sinks),
          .d_q_sum = deterministic ? nullptr : mutable_data<float>(d_q_sum),
          .d_q = heads_of(d_q),
          .d_k = heads_of(d_k),
          .d_v = heads_of(d_v),
          .storage = storage_of("attention", q),
      },
      device.stream);
  return {d_q, d_k, d_v, d_sinks};
}

}  // namespace
}  // namespace megafm::cuda

MEGAFM_CUDA_OPS(m) {
  m.impl("attention", TORCH_BOX(&megafm::cuda::forward));
  m.impl("attention_backward", TORCH_BOX(&megafm::cuda::backward));
}
