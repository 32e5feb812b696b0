// At this width nvcc 13.0 takes the 16-byte stores of the output apart, so none are asked for.
//
// gate attention_forward_kernel<*>: registers 255, HMMA LDSM LDGSTS

#include "cuda/attention_sm80_forward.cuh"

template void megafm::cuda::attention_forward_sm80<64>(const AttentionForward& at, void* stream);
