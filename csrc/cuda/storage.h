// How the elements of CUDA tensors are stored, as launchers are told it.

#pragma once

namespace megafm::cuda {

enum class Storage { fp32, bf16, fp16 };

}  // namespace megafm::cuda
