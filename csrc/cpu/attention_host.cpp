// The keys that each query sees, from causality, window and packed documents.

#include "cpu/attention_host.h"

#include <algorithm>

namespace megafm::cpu {
namespace {

constexpr int64_t chunk_floats = 1 << 16;  // of keys and values together: a share of L2

std::vector<int64_t> ends_of(const Tensor& cu_seqlens_in) {
  const Tensor cu_seqlens = stable::contiguous(cu_seqlens_in);
  STD_TORCH_CHECK(cu_seqlens.dim() == 1 && cu_seqlens.size(0) > 0,
                  "attention: cu_seqlens must be (documents + 1,)");
  const int64_t count = cu_seqlens.size(0);
  if (cu_seqlens.scalar_type() == ScalarType::Int) {
    const auto* ends = data<int32_t>(cu_seqlens);
    return {ends, ends + count};
  }
  STD_TORCH_CHECK(cu_seqlens.scalar_type() == ScalarType::Long,
                  "attention: cu_seqlens must be int32 or int64");
  const auto* ends = data<int64_t>(cu_seqlens);
  return {ends, ends + count};
}

// A run of queries whose keys are [first, last), query i aligned with key i + offset.
struct Document {
  int64_t end;
  int64_t first;
  int64_t last;
  int64_t offset;
};

// In order; what lies before and behind the ends given is a document of its own.
std::vector<Document> documents_of(int64_t seq_q, int64_t seq_k, const AttentionOptions& options) {
  if (!options.cu_seqlens) {
    return {{seq_q, 0, seq_k, seq_k - seq_q}};
  }
  const std::vector<int64_t> ends_q = ends_of(*options.cu_seqlens);
  const std::vector<int64_t> ends_k = ends_of(options.cu_seqlens_k.value_or(*options.cu_seqlens));
  STD_TORCH_CHECK(ends_q.size() == ends_k.size(),
                  "attention: cu_seqlens and cu_seqlens_k must have one length");
  std::vector<Document> documents;
  int64_t first = 0;
  for (size_t i = 0; i < ends_q.size(); ++i) {
    documents.push_back({ends_q[i], first, ends_k[i], ends_k[i] - ends_q[i]});
    first = ends_k[i];
  }
  documents.push_back({seq_q, first, seq_k, ends_k.back() - ends_q.back()});
  return documents;
}

}  // namespace

AttentionProblem attention_problem(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const AttentionOptions& options) {
  check_attention(q, k, v);
  const int64_t seq_q = q.size(1), seq_k = k.size(1), kv_heads = k.size(2);
  AttentionProblem problem{q.size(0), kv_heads, std::vector<int32_t>(seq_q),
                           std::vector<int32_t>(seq_q), {}};
  const int64_t window = std::min(options.window.value_or(seq_q + seq_k), seq_q + seq_k);
  int64_t i = 0;
  for (const Document& document : documents_of(seq_q, seq_k, options)) {
    for (; i < std::min(document.end, seq_q); ++i) {
      const int64_t own = i + document.offset;
      const int64_t first = options.window ? own - window + 1 : 0;
      const int64_t last = options.causal ? own + 1 : options.window ? own + window : seq_k;
      problem.first[i] = static_cast<int32_t>(std::clamp<int64_t>(
          std::max(first, document.first), 0, seq_k));
      problem.last[i] =
          static_cast<int32_t>(std::clamp<int64_t>(std::min(last, document.last), 0, seq_k));
    }
  }
  const int64_t dims = std::max<int64_t>(1, q.size(3) + v.size(3));
  problem.shape = {
      .seq_q = seq_q,
      .seq_k = seq_k,
      .group = kv_heads == 0 ? 1 : q.size(2) / kv_heads,
      .dim = q.size(3),
      .dim_v = v.size(3),
      .key_chunk = std::max(key_block, chunk_floats / dims / key_block * key_block),
      .first = problem.first.data(),
      .last = problem.last.data(),
      .scale = static_cast<float>(options.scale),
      .softcap = static_cast<float>(options.softcap.value_or(0)),
  };
  return problem;
}

}  // namespace megafm::cpu
