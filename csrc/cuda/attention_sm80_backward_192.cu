// gate attention_backward_keys<*>: registers 255, HMMA LDSM LDGSTS STG.E.128
// gate attention_backward_queries<*>: registers 255, HMMA LDSM LDGSTS STG.E.128

#include "cuda/attention_sm80_backward.cuh"

template void megafm::cuda::attention_backward_sm80<192>(const AttentionBackward& at, void* stream);
