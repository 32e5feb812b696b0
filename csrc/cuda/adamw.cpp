// AdamW on CUDA: lists of tensors to the launcher of adamw.cu.

#include "cuda/adamw.h"

#include <cmath>
#include <vector>

#include "cuda/tensors.h"

namespace megafm::cuda {
namespace {

using Tensors = std::vector<Tensor>;

void check(const Tensors& list, const Tensors& params, ScalarType type, const char* name) {
  STD_TORCH_CHECK(list.size() == params.size(), "adamw: as many ", name, " as params are needed");
  for (size_t i = 0; i < list.size(); ++i) {
    STD_TORCH_CHECK(list[i].scalar_type() == type && list[i].numel() == params[i].numel() &&
                        list[i].is_contiguous(),
                    "adamw: ", name, " must be contiguous, of one dtype, as large as params");
  }
}

// masters is empty where the parameters are stepped themselves.
void step(const Tensors& params, const Tensors& grads, const Tensors& exp_avgs,
          const Tensors& exp_avg_sqs, const Tensors& masters, int64_t step, double lr,
          double beta1, double beta2, double eps, double weight_decay) {
  if (params.empty()) {
    return;
  }
  const ScalarType type = params[0].scalar_type();
  const ScalarType wide = masters.empty() ? type : ScalarType::Float;
  check(params, params, type, "params");
  check(grads, params, type, "grads");
  check(exp_avgs, params, wide, "exp_avgs");
  check(exp_avg_sqs, params, wide, "exp_avg_sqs");
  if (!masters.empty()) {
    STD_TORCH_CHECK(type != wide, "adamw: float32 parameters take no masters");
    check(masters, params, wide, "masters");
  }
  std::vector<AdamwEntry> entries;
  entries.reserve(params.size());
  for (size_t i = 0; i < params.size(); ++i) {
    entries.push_back({
        .param = params[i].mutable_data_ptr(),
        .grad = grads[i].const_data_ptr(),
        .exp_avg = exp_avgs[i].mutable_data_ptr(),
        .exp_avg_sq = exp_avg_sqs[i].mutable_data_ptr(),
        .master = masters.empty() ? nullptr : masters[i].mutable_data_ptr(),
        .size = params[i].numel(),
    });
  }
  const double correction1 = 1 - std::pow(beta1, static_cast<double>(step));
  const double correction2 = 1 - std::pow(beta2, static_cast<double>(step));
  const AdamwStep numbers{
      .beta1 = static_cast<float>(beta1),
      .one_minus_beta1 = static_cast<float>(1 - beta1),
      .beta2 = static_cast<float>(beta2),
      .one_minus_beta2 = static_cast<float>(1 - beta2),
      .decay = static_cast<float>(1 - lr * weight_decay),
      .step_size = static_cast<float>(lr / correction1),
      .scale_root = static_cast<float>(1 / std::sqrt(correction2)),
      .eps = static_cast<float>(eps),
      .storage = storage_of("adamw", params[0]),
      .has_masters = !masters.empty(),
  };
  const OnDevice device(params[0]);
  adamw(entries, numbers, device.stream);
}

}  // namespace
}  // namespace megafm::cuda

MEGAFM_CUDA_OPS(m) {
  m.impl("adamw_", TORCH_BOX(&megafm::cuda::step));
}
