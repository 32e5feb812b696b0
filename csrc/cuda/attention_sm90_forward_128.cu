// gate chips: 90a
// gate attention_forward_sm90_kernel<*>: registers 168, HGMMA UTMALDG UTMASTG SYNCS STSM USETMAXREG

#include "cuda/attention_sm90_forward.cuh"

template void megafm::cuda::attention_forward_sm90<128>(const AttentionForward& at, void* stream);
