// Rotary position embedding on the CPU: tokens to threads. The loops are in rope.kernel.cpp.

#include "cpu/rope.h"

#include <torch/csrc/stable/library.h>

#include <optional>
#include <stdexcept>
#include <tuple>

#include "cpu/tensors.h"

namespace megafm::cpu {
namespace {

void check(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin) {
  STD_TORCH_CHECK(q.dim() == 4 && k.dim() == 4 && q.scalar_type() == k.scalar_type(),
                  "rope: q and k must be (batch, seq, heads, head_dim) of one dtype");
  STD_TORCH_CHECK(cos.dim() == 2 && std::ranges::equal(cos.sizes(), sin.sizes()) &&
                      cos.scalar_type() == ScalarType::Float && sin.scalar_type() == ScalarType::Float,
                  "rope: cos and sin must be (max_seq_len, head_dim / 2) float32");
  STD_TORCH_CHECK(q.size(0) == k.size(0) && q.size(1) == k.size(1) && q.size(3) == k.size(3) &&
                      q.size(3) == 2 * cos.size(1),
                  "rope: the shapes of q, k and cos do not fit together");
}

// Positions are looked at before anything is read at them.
void check_positions(const std::optional<Tensor>& positions, int64_t batch, int64_t seq,
                     int64_t limit) {
  if (!positions) {
    STD_TORCH_CHECK(seq <= limit, "rope: seq ", seq, " is longer than the cache ", limit);
    return;
  }
  const int64_t dims = positions->dim();
  STD_TORCH_CHECK(positions->scalar_type() == ScalarType::Long && (dims == 1 || dims == 2) &&
                      positions->size(dims - 1) == seq && (dims == 1 || positions->size(0) == batch),
                  "rope: positions must be (seq,) or (batch, seq) int64");
  const int64_t* at = data<int64_t>(*positions);
  for (int64_t i = 0; i < positions->numel(); ++i) {
    if (at[i] < 0 || at[i] >= limit) {  // an IndexError in Python
      throw std::out_of_range("apply_rope: position " + std::to_string(at[i]) +
                              " is outside the cache of " + std::to_string(limit));
    }
  }
}

template <typename T>
void turn(const Tensor& x_in, const Tensor& y, const Angles& angles, bool past_caches) {
  const Tensor x = x_in.stride(3) == 1 ? x_in : stable::contiguous(x_in);
  const Heads<T> at{
      .from = data<T>(x),
      .to = mutable_data<T>(y),
      .batch_stride = x.stride(0),
      .seq_stride = x.stride(1),
      .head_stride = x.stride(2),
      .heads = x.size(2),
      .past_caches = past_caches,
  };
  const auto loop = MEGAFM_PICK(rope_tokens<T>);
  stable::parallel_for(
      0, x.size(0) * x.size(1), rows_per_task(x.size(2) * x.size(3)),
      [&](int64_t begin, int64_t end) { loop(at, angles, begin, end); });
}

std::tuple<Tensor, Tensor> rope(const Tensor& q, const Tensor& k, const Tensor& cos_in,
                                const Tensor& sin_in, const std::optional<Tensor>& positions_in,
                                bool interleaved, bool inverse) {
  check(q, k, cos_in, sin_in);
  const Tensor cos = stable::contiguous(cos_in), sin = stable::contiguous(sin_in);
  std::optional<Tensor> positions;
  if (positions_in) {
    positions = stable::contiguous(*positions_in);
  }
  const int64_t seq = q.size(1);
  check_positions(positions, q.size(0), seq, cos.size(0));
  const Angles angles{
      .cos = data<float>(cos),
      .sin = data<float>(sin),
      .positions = positions ? data<int64_t>(*positions) : nullptr,
      .positions_batch_stride = positions && positions->dim() == 2 ? seq : 0,
      .seq = seq,
      .half = cos.size(1),
      .sign = inverse ? -1.0f : 1.0f,
      .interleaved = interleaved,
  };
  Tensor turned_q = new_output(q), turned_k = new_output(k);
  const int64_t bytes = 2 * (bytes_of(q) + bytes_of(k));
  const bool past_caches = q.size(3) <= longest_streamed &&
                           goes_past_caches(bytes, q.size(3), {turned_q, turned_k});
  for_storage("rope", q, [&](auto* storage) {
    using T = std::remove_pointer_t<decltype(storage)>;
    turn<T>(q, turned_q, angles, past_caches);
    turn<T>(k, turned_k, angles, past_caches);
  });
  return {turned_q, turned_k};
}

}  // namespace
}  // namespace megafm::cpu

STABLE_TORCH_LIBRARY_IMPL(megafm, CPU, m) {
  m.impl("rope", TORCH_BOX(&megafm::cpu::rope));
}
