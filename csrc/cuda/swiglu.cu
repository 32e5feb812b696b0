// SwiGLU on CUDA, elementwise. Bytes per element of 16 bits: forward 6 (read gate and up, write
// out), backward 10 (read d_out, gate and up, write both gradients): it forms the sigmoid again.
//
// gate swiglu_*<*>: registers 64
// gate swiglu_*<*, [48]>: LDG.E.128 STG.E.128

#include "cuda/swiglu.h"

#include <type_traits>

#include "cuda/storage.cuh"

namespace megafm::cuda {
namespace {

constexpr int num_threads = 256;
constexpr int num_runs = 2;  // that a thread loads before it uses the first

// In 16 bits nothing is left of what the fast functions lose: 1e-6 of the value.
template <typename T>
__device__ inline float sigmoid(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return 1 / (1 + expf(-x));
  } else {
    return __fdividef(1, 1 + __expf(-x));
  }
}

// Where the threads of a block are: a row, and the first of their columns.
struct Place {
  int64_t row, column;
};

template <int N>
__device__ inline Place place(int64_t dim) {
  const int64_t per_row = (dim + num_threads * num_runs * N - 1) / (num_threads * num_runs * N);
  const int64_t block = blockIdx.x;
  return {block / per_row, (block % per_row * num_threads * num_runs + threadIdx.x) * N};
}

template <typename T, int N>
__global__ void __launch_bounds__(num_threads) swiglu_forward_kernel(SwigluForward at) {
  const Place first = place<N>(at.dim);
  const T* gate = static_cast<const T*>(at.gate) + first.row * at.gate_stride + first.column;
  const T* up = static_cast<const T*>(at.up) + first.row * at.up_stride + first.column;
  T* out = static_cast<T*>(at.out) + first.row * at.dim + first.column;
  Run<T, N> gates[num_runs] = {}, ups[num_runs] = {};
#pragma unroll
  for (int i = 0; i < num_runs; ++i) {
    if (first.column + i * num_threads * N < at.dim) {
      gates[i] = load_run<N>(gate + i * num_threads * N);
      ups[i] = load_run<N>(up + i * num_threads * N);
    }
  }
#pragma unroll
  for (int i = 0; i < num_runs; ++i) {
    if (first.column + i * num_threads * N < at.dim) {
      Run<T, N> y;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float g = widen(gates[i][j]);
        y[j] = narrow<T>(g * sigmoid<T>(g) * widen(ups[i][j]));
      }
      store_run(out + i * num_threads * N, y);
    }
  }
}

// With s = sigmoid(gate):
//   d_gate = d_out * up * s * (1 + gate * (1 - s)),   d_up = d_out * gate * s
template <typename T, int N>
__global__ void __launch_bounds__(num_threads) swiglu_backward_kernel(SwigluBackward at) {
  const Place first = place<N>(at.dim);
  const T* d_out = static_cast<const T*>(at.d_out) + first.row * at.d_out_stride + first.column;
  const T* gate = static_cast<const T*>(at.gate) + first.row * at.gate_stride + first.column;
  const T* up = static_cast<const T*>(at.up) + first.row * at.up_stride + first.column;
  const int64_t to = first.row * at.dim + first.column;
  Run<T, N> slopes[num_runs] = {}, gates[num_runs] = {}, ups[num_runs] = {};
#pragma unroll
  for (int i = 0; i < num_runs; ++i) {
    if (first.column + i * num_threads * N < at.dim) {
      slopes[i] = load_run<N>(d_out + i * num_threads * N);
      gates[i] = load_run<N>(gate + i * num_threads * N);
      ups[i] = load_run<N>(up + i * num_threads * N);
    }
  }
#pragma unroll
  for (int i = 0; i < num_runs; ++i) {
    if (first.column + i * num_threads * N < at.dim) {
      Run<T, N> d_gate, d_up;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float g = widen(gates[i][j]), d = widen(slopes[i][j]), s = sigmoid<T>(g);
        d_gate[j] = narrow<T>(d * widen(ups[i][j]) * s * (1 + g * (1 - s)));
        d_up[j] = narrow<T>(d * (g * s));
      }
      store_run(static_cast<T*>(at.d_gate) + to + i * num_threads * N, d_gate);
      store_run(static_cast<T*>(at.d_up) + to + i * num_threads * N, d_up);
    }
  }
}

dim3 grid_of(int64_t rows, int64_t dim, int n) {
  const int64_t per_block = int64_t{num_threads} * num_runs * n;
  return dim3(static_cast<unsigned>(rows * ((dim + per_block - 1) / per_block)));
}

// Whether rows of this stride begin where a vector access may.
template <int N>
bool fits(int64_t dim, int64_t stride) {
  return dim % N == 0 && stride % N == 0;
}

}  // namespace

void swiglu_forward(SwigluForward at, void* stream) {
  if (at.rows == 0 || at.dim == 0) {
    return;
  }
  if (at.gate_stride == at.dim && at.up_stride == at.dim) {  // one long row has one end
    at.dim = at.gate_stride = at.up_stride = at.rows * at.dim;
    at.rows = 1;
  }
  for_storage(at.storage, [&](auto* storage) {
    using T = std::remove_pointer_t<decltype(storage)>;
    constexpr int N = vector_size<T>;
    const bool vectors = aligned(at.gate, at.up, at.out) && fits<N>(at.dim, at.gate_stride) &&
                         fits<N>(at.dim, at.up_stride);
    const auto kernel = vectors ? swiglu_forward_kernel<T, N> : swiglu_forward_kernel<T, 1>;
    launch(kernel, grid_of(at.rows, at.dim, vectors ? N : 1), dim3(num_threads), 0,
           static_cast<cudaStream_t>(stream), at);
  });
}

void swiglu_backward(SwigluBackward at, void* stream) {
  if (at.rows == 0 || at.dim == 0) {
    return;
  }
  if (at.d_out_stride == at.dim && at.gate_stride == at.dim && at.up_stride == at.dim) {
    at.dim = at.d_out_stride = at.gate_stride = at.up_stride = at.rows * at.dim;
    at.rows = 1;
  }
  for_storage(at.storage, [&](auto* storage) {
    using T = std::remove_pointer_t<decltype(storage)>;
    constexpr int N = vector_size<T>;
    const bool vectors = aligned(at.d_out, at.gate, at.up, at.d_gate, at.d_up) &&
                         fits<N>(at.dim, at.d_out_stride) && fits<N>(at.dim, at.gate_stride) &&
                         fits<N>(at.dim, at.up_stride);
    const auto kernel = vectors ? swiglu_backward_kernel<T, N> : swiglu_backward_kernel<T, 1>;
    launch(kernel, grid_of(at.rows, at.dim, vectors ? N : 1), dim3(num_threads), 0,
           static_cast<cudaStream_t>(stream), at);
  });
}

}  // namespace megafm::cuda
