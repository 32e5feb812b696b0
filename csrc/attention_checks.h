// What attention's host sides ask of their tensors, on any device.

#pragma once

#include <limits>
#include <optional>

#include "rows.h"

namespace megafm {

struct AttentionOptions {
  std::optional<Tensor> cu_seqlens;
  std::optional<Tensor> cu_seqlens_k;
  bool causal;
  double scale;
  std::optional<int64_t> window;
  std::optional<double> softcap;
};

inline void check_attention(const Tensor& q, const Tensor& k, const Tensor& v) {
  STD_TORCH_CHECK(q.dim() == 4 && k.dim() == 4 && v.dim() == 4, "attention: q, k, v must be 4-d");
  const int64_t kv_heads = k.size(2);
  STD_TORCH_CHECK(
      k.size(0) == q.size(0) && v.size(0) == q.size(0) && v.size(1) == k.size(1) &&
          v.size(2) == kv_heads && k.size(3) == q.size(3) &&
          (kv_heads == 0 ? q.size(2) == 0 : q.size(2) % kv_heads == 0),
      "attention: q (batch, seq_q, heads, dim), k and v (batch, seq_k, kv_heads, dim) do not fit");
  STD_TORCH_CHECK(q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(),
                  "attention: q, k, v must have one dtype");
  STD_TORCH_CHECK(std::max(q.size(1), k.size(1)) < 1 << 29,
                  "attention: sequences must be shorter than 2^29");
}

inline void check_attention_gradient(const Tensor& d_out, const Tensor& q, const Tensor& v,
                                     const Tensor& out, const Tensor& lse,
                                     const std::optional<Tensor>& d_lse) {
  check_like("attention", d_out, out, "d_out");
  STD_TORCH_CHECK(out.scalar_type() == q.scalar_type() && out.dim() == 4 &&
                      std::ranges::equal(out.sizes().slice(0, 3), q.sizes().slice(0, 3)) &&
                      out.size(3) == v.size(3),
                  "attention: out must be (batch, seq_q, heads, dim of v) in the dtype of q");
  STD_TORCH_CHECK(lse.scalar_type() == ScalarType::Float && lse.dim() == 3 &&
                      lse.size(0) == q.size(0) && lse.size(1) == q.size(2) &&
                      lse.size(2) == q.size(1),
                  "attention: lse must be (batch, heads, seq_q) float32");
  if (d_lse) {
    check_like("attention", *d_lse, lse, "d_lse");
  }
}

// Contiguous.
inline std::optional<Tensor> checked_sinks(const std::optional<Tensor>& sinks, const Tensor& q) {
  STD_TORCH_CHECK(!sinks || (sinks->scalar_type() == ScalarType::Float && sinks->dim() == 1 &&
                             sinks->size(0) == q.size(2)),
                  "attention: sinks must be (heads,) float32");
  return contiguous(sinks);
}

}  // namespace megafm
