// Attention on CUDA: kernels by width, and what is done once per row: who sees whom in packed
// documents, sum(d_out * out), the gradients of sinks, the rounding of d_q.
//
// gate document_intervals<*>: registers 64
// gate attention_delta<*>: registers 64, LDG.E.128
// gate attention_d_sinks: registers 64
// gate round_d_q<*>: registers 64, LDG.E.EF.128 STG.E.128

#include "cuda/attention.h"

#include <algorithm>
#include <initializer_list>

#include "cuda/attention_scores.cuh"

namespace megafm::cuda {
namespace {

constexpr int num_threads = 128;
constexpr unsigned most_blocks = 1 << 16;  // of a loop over elements

__device__ inline int clamp(int64_t x, int64_t low, int64_t high) {
  return static_cast<int>(x < low ? low : x > high ? high : x);
}

// Number of ends at or below the position: that of the document behind, 0 before the first.
template <typename Int>
__device__ inline int document_of(const Int* ends, int count, int position) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (ends[middle] <= position) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// What lies before and behind the ends is a document of its own.
template <typename Int>
__global__ void __launch_bounds__(num_threads)
    document_intervals(DocumentEnds documents, int length, int other_length, int before, int after,
                       int32_t* table) {
  const int position = blockIdx.x * num_threads + threadIdx.x;
  if (position >= length) return;
  const auto* ends = static_cast<const Int*>(documents.ends);
  const auto* other_ends = static_cast<const Int*>(documents.other_ends);
  const int document = document_of(ends, documents.count, position);
  const int known = min(document, documents.count - 1);
  const int64_t own = position + int64_t{other_ends[known]} - int64_t{ends[known]};
  const int begin = document == 0 ? 0 : clamp(other_ends[document - 1], 0, other_length);
  const int end = document == documents.count
                      ? other_length
                      : clamp(other_ends[document], begin, other_length);
  table[position] = clamp(own - before, begin, end);
  table[length + position] = clamp(own + after + 1, begin, end);
}

// One warp a row of (batch, heads, seq_q).
template <typename T>
__global__ void __launch_bounds__(num_threads) attention_delta(const AttentionBackward at) {
  const AttentionShape& shape = at.shape;
  const int64_t rows = int64_t{shape.batch} * shape.heads * shape.seq_q;
  const int64_t row = (int64_t{blockIdx.x} * num_threads + threadIdx.x) / 32;
  if (row >= rows) return;
  const int lane = threadIdx.x % 32, query = static_cast<int>(row % shape.seq_q);
  const int head = static_cast<int>(row / shape.seq_q % shape.heads);
  const int batch = static_cast<int>(row / shape.seq_q / shape.heads);
  const T* out = head_of<T>(at.out, batch, head) + query * at.out.seq_stride;
  const T* d_out = head_of<T>(at.d_out, batch, head) + query * at.d_out.seq_stride;
  float sum = 0;
  if (lane * 8 < shape.dim_v) {
    const Vec<T, 8> x = load_vec<8>(out + lane * 8), y = load_vec<8>(d_out + lane * 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = fmaf(float(x[i]), float(y[i]), sum);
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(0xffffffff, sum, step);
  if (lane == 0) at.delta[row] = sum - (at.d_lse == nullptr ? 0 : at.d_lse[row]);
}

// A sink is a key whose value is 0. One block a head, always in one order.
__global__ void __launch_bounds__(num_threads) attention_d_sinks(const AttentionBackward at) {
  MEGAFM_SHARED(float, partial, num_threads);
  const AttentionShape& shape = at.shape;
  const int head = blockIdx.x;
  float sum = 0;
  for (int batch = 0; batch < shape.batch; ++batch) {
    const int64_t first = (int64_t{batch} * shape.heads + head) * shape.seq_q;
    for (int query = threadIdx.x; query < shape.seq_q; query += num_threads) {
      const float lse = at.lse[first + query];
      if (lse != -INFINITY) {
        sum -= exp2_approx((at.sinks[head] - lse) * log2_e) * at.delta[first + query];
      }
    }
  }
  partial[threadIdx.x] = sum;
  for (unsigned half = num_threads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
  }
  if (threadIdx.x == 0) at.d_sinks[head] = partial[0];
}

template <typename T>
__global__ void __launch_bounds__(num_threads)
    round_d_q(const float* sum, T* d_q, int64_t num_vectors, float scale) {
  const int64_t step = int64_t{gridDim.x} * num_threads;
  for (int64_t i = int64_t{blockIdx.x} * num_threads + threadIdx.x; i < num_vectors; i += step) {
    const Vec<float, 4> low = load_vec_once<4>(sum + 8 * i), high = load_vec_once<4>(sum + 8 * i + 4);
    Vec<T, 8> rounded;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      rounded[j] = T(scale * low[j]);
      rounded[4 + j] = T(scale * high[j]);
    }
    store_vec(d_q + 8 * i, rounded);
  }
}

unsigned num_blocks(int64_t threads) {
  return static_cast<unsigned>((threads + num_threads - 1) / num_threads);
}

// Calls body with the narrowest width that there are kernels for, as a type.
template <typename Body>
void for_width(const AttentionShape& shape, const Body& body) {
  const int widest = std::max(shape.dim, shape.dim_v);
  if (widest <= 64) {
    body.template operator()<64>();
  } else if (widest <= 96) {
    body.template operator()<96>();
  } else if (widest <= 128) {
    body.template operator()<128>();
  } else if (widest <= 192) {
    body.template operator()<192>();
  } else {
    body.template operator()<256>();
  }
}

template <typename T>
void fill_delta(const AttentionBackward& at, cudaStream_t stream) {
  const AttentionShape& shape = at.shape;
  const int64_t rows = int64_t{shape.batch} * shape.heads * shape.seq_q;
  if (rows > 0) {
    launch(attention_delta<T>, dim3(num_blocks(rows * 32)), dim3(num_threads), 0, stream, at);
  }
  if (at.sinks != nullptr && shape.heads > 0) {
    launch(attention_d_sinks, dim3(static_cast<unsigned>(shape.heads)), dim3(num_threads), 0,
           stream, at);
  }
}

template <typename T>
void round_sum(const AttentionBackward& at, cudaStream_t stream) {
  const AttentionShape& shape = at.shape;
  const int64_t vectors = int64_t{shape.batch} * shape.heads * shape.seq_q * shape.dim / 8;
  launch(round_d_q<T>, dim3(std::min(num_blocks(vectors), most_blocks)), dim3(num_threads), 0,
         stream, at.d_q_sum, static_cast<T*>(at.d_q.data), vectors, shape.scale);
}

#ifdef MEGAFM_SM90A
// A tensor map has no empty dimension, and is given no stride of 0.
bool takes_sm90(const AttentionShape& shape, std::initializer_list<Heads> tensors) {
  bool takes = shape.seq_q > 0 && shape.seq_k > 0 && compute_capability() == 90;
  for (const Heads& x : tensors) {
    takes = takes && x.batch_stride > 0 && x.seq_stride > 0 && x.head_stride > 0;
  }
  return takes;
}
#endif

}  // namespace

void attention_intervals(const DocumentEnds& documents, int length, int other_length, int before,
                         int after, int32_t* table, void* stream) {
  if (length == 0) return;
  launch(documents.wide ? document_intervals<int64_t> : document_intervals<int32_t>,
         dim3(num_blocks(length)), dim3(num_threads), 0, static_cast<cudaStream_t>(stream),
         documents, length, other_length, before, after, table);
}

void attention_forward(const AttentionForward& at, void* stream) {
  if (at.shape.batch == 0 || at.shape.heads == 0 || at.shape.seq_q == 0) return;
#ifdef MEGAFM_SM90A
  if (takes_sm90(at.shape, {at.q, at.k, at.v, at.out})) {
    for_width(at.shape, [&]<int width>() { attention_forward_sm90<width>(at, stream); });
    return;
  }
#endif
  for_width(at.shape, [&]<int width>() { attention_forward_sm80<width>(at, stream); });
}

void attention_backward(const AttentionBackward& at, void* stream_in) {
  const auto stream = static_cast<cudaStream_t>(stream_in);
  const AttentionShape& shape = at.shape;
  const bool bf16 = at.storage == Storage::bf16;
  bf16 ? fill_delta<__nv_bfloat16>(at, stream) : fill_delta<__half>(at, stream);
  if (shape.batch == 0 || shape.heads == 0) return;
  const int64_t size = int64_t{shape.batch} * shape.heads * shape.seq_q * shape.dim;
  const bool add = at.d_q_sum != nullptr && size > 0;
  if (add) zero_async(at.d_q_sum, size * sizeof(float), stream);
  for_width(shape, [&]<int width>() {
#ifdef MEGAFM_SM90A
    if (takes_sm90(shape, {at.d_out, at.q, at.k, at.v})) {
      return attention_backward_sm90<width>(at, stream_in);
    }
#endif
    attention_backward_sm80<width>(at, stream_in);
  });
  if (add) bf16 ? round_sum<__nv_bfloat16>(at, stream) : round_sum<__half>(at, stream);
}

}  // namespace megafm::cuda
