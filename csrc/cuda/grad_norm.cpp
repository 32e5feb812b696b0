// Sums of squares on CUDA: lists of tensors to the launcher of grad_norm.cu.

#include "cuda/grad_norm.h"

#include <vector>

#include "cuda/tensors.h"

namespace megafm::cuda {
namespace {

Tensor sums_of(const std::vector<Tensor>& tensors) {
  STD_TORCH_CHECK(!tensors.empty(), "square_sums: there are no tensors");
  std::vector<NormEntry> entries;
  entries.reserve(tensors.size());
  int64_t chunks = 0;
  for (const Tensor& x : tensors) {
    STD_TORCH_CHECK(x.scalar_type() == tensors[0].scalar_type() && x.is_contiguous(),
                    "square_sums: tensors must be contiguous and of one dtype");
    entries.push_back({x.const_data_ptr(), x.numel()});
    chunks += (x.numel() + norm_chunk - 1) / norm_chunk;
  }
  const OnDevice device(tensors[0]);
  const int64_t shape[] = {chunks};
  Tensor sums = stable::new_empty(tensors[0], shape, ScalarType::Double);
  square_sums(entries, mutable_data<double>(sums), storage_of("square_sums", tensors[0]),
              device.stream);
  return sums;
}

}  // namespace
}  // namespace megafm::cuda

MEGAFM_CUDA_OPS(m) {
  m.impl("square_sums", TORCH_BOX(&megafm::cuda::sums_of));
}
