// gate chips: 90a
// gate attention_backward_keys_sm90_kernel<*>: registers 168, HGMMA UTMALDG UTMAREDG UTMASTG SYNCS STSM USETMAXREG
// gate attention_backward_queries_sm90_kernel<*>: registers 168, HGMMA UTMALDG UTMASTG SYNCS STSM USETMAXREG

#include "cuda/attention_sm90_backward.cuh"

template void megafm::cuda::attention_backward_sm90<64>(const AttentionBackward& at, void* stream);
