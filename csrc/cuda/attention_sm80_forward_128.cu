// gate attention_forward_kernel<*>: registers 255, HMMA LDSM LDGSTS STG.E.128

#include "cuda/attention_sm80_forward.cuh"

template void megafm::cuda::attention_forward_sm80<128>(const AttentionForward& at, void* stream);
