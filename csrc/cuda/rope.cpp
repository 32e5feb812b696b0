// Rotary position embedding on CUDA: tensors to the launcher of rope.cu.

#include "cuda/rope.h"

#include <optional>
#include <tuple>

#include "cuda/tensors.h"

namespace megafm::cuda {
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
}

RopeHeads heads_of(const Tensor& x, const Tensor& turned) {
  return {
      .from = x.const_data_ptr(),
      .to = turned.mutable_data_ptr(),
      .batch_stride = x.stride(0),
      .seq_stride = x.stride(1),
      .head_stride = x.stride(2),
      .heads = x.size(2),
  };
}

std::tuple<Tensor, Tensor> rope(const Tensor& q_in, const Tensor& k_in, const Tensor& cos_in,
                                const Tensor& sin_in, const std::optional<Tensor>& positions_in,
                                bool interleaved, bool inverse) {
  check(q_in, k_in, cos_in, sin_in);
  check_positions(positions_in, q_in.size(0), q_in.size(1), cos_in.size(0));
  const OnDevice device(q_in);
  const Tensor q = q_in.stride(3) == 1 ? q_in : stable::contiguous(q_in);
  const Tensor k = k_in.stride(3) == 1 ? k_in : stable::contiguous(k_in);
  const Tensor cos = stable::contiguous(cos_in), sin = stable::contiguous(sin_in);
  const std::optional<Tensor> positions = contiguous(positions_in);
  Tensor turned_q = new_output(q), turned_k = new_output(k);
  const RopeTurn at{
      .q = heads_of(q, turned_q),
      .k = heads_of(k, turned_k),
      .cos = data<float>(cos),
      .sin = data<float>(sin),
      .positions = static_cast<const int64_t*>(address(positions)),
      .positions_batch_stride = positions && positions->dim() == 2 ? q.size(1) : 0,
      .batch = q.size(0),
      .seq = q.size(1),
      .half = cos.size(1),
      .limit = cos.size(0),
      .sign = inverse ? -1.0f : 1.0f,
      .interleaved = interleaved,
      .storage = storage_of("rope", q),
  };
  rope_turn(at, device.stream);
  return {turned_q, turned_k};
}

}  // namespace
}  // namespace megafm::cuda

MEGAFM_CUDA_OPS(m) {
  m.impl("rope", TORCH_BOX(&megafm::cuda::rope));
}
