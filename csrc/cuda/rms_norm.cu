// RMSNorm on CUDA. The threads of a row hold it in registers: it is read from memory once.
//
// Bytes per element of 16 bits: forward 4 (read x, write y; 8 with a residual: x, residual, total,
// y), backward 6 (read d_y and x, write d_x; 8 with d_total). The weight's gradient is summed in
// registers over the rows of a block, then over the blocks in order: no atomics, the same bits on
// every run. A row that does not fit the registers, or has no 16-byte alignment, is walked twice.
//
// gate norm_forward<*>: registers 64, shared 256, LDG.E.128 STG.E.128
// gate norm_backward<*>: registers 128, shared 8448, LDG.E.128 STG.E.128
// gate walk_*<*>: registers 96, shared 256
// gate walk_*<*, [48]>: LDG.E.128 STG.E.128
// gate sum_partials<*>: registers 40, shared 4224

#include "cuda/rms_norm.h"

#include <algorithm>
#include <type_traits>

#include "cuda/row_sum.cuh"
#include "cuda/storage.cuh"

namespace megafm::cuda {
namespace {

constexpr int num_held = 2;  // vectors of a row that one thread holds
constexpr int small_block = 128;
constexpr int most_threads = 1024;
constexpr int threads_of_128_registers = 512;

// The block's partial sum has so many rows behind it at least, else the partials outweigh the rows.
constexpr int fewest_rows_per_partial = 4;
constexpr int num_multiprocessors_planned_for = 132;  // of an H100; a constant, so are the bits

// Columns [column, column + N) are those of the i-th vector that this thread holds.
template <int N>
__device__ inline int column_of(int i) {
  return (i * static_cast<int>(blockDim.x) + static_cast<int>(threadIdx.x)) * N;
}

template <typename T, int N>
struct Held {
  Run<T, N> run[num_held];

  // Zeros where the row ends, or where it is not `live`.
  __device__ void load(const void* rows, int64_t row, int64_t dim, bool live) {
#pragma unroll
    for (int i = 0; i < num_held; ++i) {
      run[i] = {};
      if (live && column_of<N>(i) < dim) {
        run[i] = load_run<N>(static_cast<const T*>(rows) + row * dim + column_of<N>(i));
      }
    }
  }

  __device__ void store(void* rows, int64_t row, int64_t dim) const {
#pragma unroll
    for (int i = 0; i < num_held; ++i) {
      if (column_of<N>(i) < dim) {
        store_run(static_cast<T*>(rows) + row * dim + column_of<N>(i), run[i]);
      }
    }
  }
};

__device__ inline float rstd_of(float squares, const NormForward& at) {
  return 1 / sqrtf(squares / static_cast<float>(at.dim) + at.eps);
}

template <typename T, typename W, int N>
__global__ void __launch_bounds__(most_threads) norm_forward(NormForward at) {
  const int64_t row = int64_t{blockIdx.x} * blockDim.y + threadIdx.y;
  const bool live = row < at.rows;
  Held<T, N> x, residual;
  Held<W, N> weight;
  x.load(at.x, row, at.dim, live);
  if (at.residual != nullptr) {
    residual.load(at.residual, row, at.dim, live);
  }
  weight.load(at.weight, 0, at.dim, true);
  if (at.residual != nullptr) {
#pragma unroll
    for (int i = 0; i < num_held; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        x.run[i][j] = narrow<T>(widen(x.run[i][j]) + widen(residual.run[i][j]));
      }
    }
    if (live) {
      x.store(at.total, row, at.dim);
    }
  }
  float squares = 0;
#pragma unroll
  for (int i = 0; i < num_held; ++i) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      squares += widen(x.run[i][j]) * widen(x.run[i][j]);
    }
  }
  const float rstd = rstd_of(row_sum(squares, 0), at);
  if (!live) {
    return;
  }
  if (threadIdx.x == 0) {
    at.rstd[row] = rstd;
  }
#pragma unroll
  for (int i = 0; i < num_held; ++i) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      x.run[i][j] = narrow<T>(widen(x.run[i][j]) * rstd * widen(weight.run[i][j]));
    }
  }
  x.store(at.y, row, at.dim);
}

// With n = x * rstd and g = d_y * weight:
//   d_x = rstd * (g - n * mean(g * n)) + d_total,   d_weight = sum over rows of d_y * n
template <typename T, typename W, int N>
__global__ void __launch_bounds__(threads_of_128_registers) norm_backward(NormBackward at) {
  float d_weight[num_held][N] = {};
  const int64_t step = int64_t{gridDim.x} * blockDim.y, begin = int64_t{blockIdx.x} * blockDim.y;
  Held<T, N> d_y, x, d_total, next_d_y, next_x;
  Held<W, N> weight;
  d_y.load(at.d_y, begin + threadIdx.y, at.dim, begin + threadIdx.y < at.rows);
  x.load(at.x, begin + threadIdx.y, at.dim, begin + threadIdx.y < at.rows);
  int turn = 0;
  for (int64_t first = begin; first < at.rows; first += step, ++turn) {
    const int64_t row = first + threadIdx.y;
    const bool live = row < at.rows, next_live = row + step < at.rows;
    next_d_y.load(at.d_y, row + step, at.dim, next_live);  // on the way while this row is summed
    next_x.load(at.x, row + step, at.dim, next_live);
    d_total.load(at.d_total, row, at.dim, live && at.d_total != nullptr);
    weight.load(at.weight, 0, at.dim, true);  // from the cache: registers are for the rows
    const float rstd = live ? at.rstd[row] : 0;
    float dot = 0;
#pragma unroll
    for (int i = 0; i < num_held; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        dot += widen(d_y.run[i][j]) * widen(weight.run[i][j]) * widen(x.run[i][j]);
      }
    }
    const float along_x = row_sum(dot, turn) * rstd * rstd * rstd / static_cast<float>(at.dim);
#pragma unroll
    for (int i = 0; i < num_held; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float g = widen(d_y.run[i][j]), value = widen(x.run[i][j]);
        const float own = g * widen(weight.run[i][j]) * rstd - value * along_x;
        d_weight[i][j] += g * value * rstd;
        x.run[i][j] = narrow<T>(own + widen(d_total.run[i][j]));
      }
    }
    if (live) {
      x.store(at.d_x, row, at.dim);
    }
    d_y = next_d_y;
    x = next_x;
  }
  // One row of sums from the rows of threads. Only a block of four warps has several.
  MEGAFM_SHARED(float, sums, small_block * num_held * N);
  float* partial = at.partials + int64_t{blockIdx.x} * at.dim;
#pragma unroll
  for (int i = 0; i < num_held; ++i) {
#pragma unroll
    for (int j = 0; j < N; ++j) {
      if (column_of<N>(i) < at.dim) {
        if (blockDim.y == 1) {
          partial[column_of<N>(i) + j] = d_weight[i][j];
        } else {
          sums[static_cast<int>(threadIdx.y * at.dim) + column_of<N>(i) + j] = d_weight[i][j];
        }
      }
    }
  }
  if (blockDim.y == 1) {
    return;
  }
  __syncthreads();
  const int num_threads = blockDim.x * blockDim.y;
  for (int column = threadIdx.y * blockDim.x + threadIdx.x; column < at.dim; column += num_threads) {
    float sum = 0;
    for (unsigned y = 0; y < blockDim.y; ++y) {
      sum += sums[static_cast<int>(y * at.dim) + column];
    }
    partial[column] = sum;
  }
}

// One block per row, whatever its width.
template <typename T, typename W, int N>
__global__ void __launch_bounds__(threads_of_128_registers) walk_forward(NormForward at) {
  const int64_t row = blockIdx.x, begin = row * at.dim;
  const int step = blockDim.x * N;
  const T* x = static_cast<const T*>(at.x) + begin;
  float squares = 0;
  for (int column = column_of<N>(0); column < at.dim; column += step) {
    Run<T, N> values = load_run<N>(x + column);
    if (at.residual != nullptr) {
      const Run<T, N> added = load_run<N>(static_cast<const T*>(at.residual) + begin + column);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        values[j] = narrow<T>(widen(values[j]) + widen(added[j]));
      }
      store_run(static_cast<T*>(at.total) + begin + column, values);
    }
#pragma unroll
    for (int j = 0; j < N; ++j) {
      squares += widen(values[j]) * widen(values[j]);
    }
  }
  const float rstd = rstd_of(row_sum(squares, 0), at);
  if (threadIdx.x == 0) {
    at.rstd[row] = rstd;
  }
  if (at.residual != nullptr) {
    x = static_cast<const T*>(at.total) + begin;  // each thread reads what it wrote
  }
  for (int column = column_of<N>(0); column < at.dim; column += step) {
    Run<T, N> values = load_run<N>(x + column);
    const Run<W, N> weight = load_run<N>(static_cast<const W*>(at.weight) + column);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      values[j] = narrow<T>(widen(values[j]) * rstd * widen(weight[j]));
    }
    store_run(static_cast<T*>(at.y) + begin + column, values);
  }
}

// As norm_backward; the sums of a block stay in its row of the partials.
template <typename T, typename W, int N>
__global__ void __launch_bounds__(threads_of_128_registers) walk_backward(NormBackward at) {
  const int step = blockDim.x * N;
  const W* weights = static_cast<const W*>(at.weight);
  float* partial = at.partials + int64_t{blockIdx.x} * at.dim;
  if (blockIdx.x >= at.rows) {  // there are no rows at all
    for (int column = threadIdx.x; column < at.dim; column += blockDim.x) {
      partial[column] = 0;
    }
  }
  int turn = 0;
  for (int64_t row = blockIdx.x; row < at.rows; row += gridDim.x, ++turn) {
    const int64_t begin = row * at.dim;
    const T* d_y = static_cast<const T*>(at.d_y) + begin;
    const T* x = static_cast<const T*>(at.x) + begin;
    const float rstd = at.rstd[row];
    float dot = 0;
    for (int column = column_of<N>(0); column < at.dim; column += step) {
      const Run<T, N> g = load_run<N>(d_y + column), values = load_run<N>(x + column);
      const Run<W, N> weight = load_run<N>(weights + column);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        dot += widen(g[j]) * widen(weight[j]) * widen(values[j]);
      }
    }
    const float along_x = row_sum(dot, turn) * rstd * rstd * rstd / static_cast<float>(at.dim);
    for (int column = column_of<N>(0); column < at.dim; column += step) {
      const Run<T, N> g = load_run<N>(d_y + column), values = load_run<N>(x + column);
      const Run<W, N> weight = load_run<N>(weights + column);
      Run<T, N> d_total = {}, d_x;
      Run<float, N> d_weight = {};
      if (turn > 0) {
        d_weight = load_run<N>(partial + column);
      }
      if (at.d_total != nullptr) {
        d_total = load_run<N>(static_cast<const T*>(at.d_total) + begin + column);
      }
#pragma unroll
      for (int j = 0; j < N; ++j) {
        const float own = widen(g[j]) * widen(weight[j]) * rstd - widen(values[j]) * along_x;
        d_x[j] = narrow<T>(own + widen(d_total[j]));
        d_weight[j] += widen(g[j]) * widen(values[j]) * rstd;
      }
      store_run(partial + column, d_weight);
      store_run(static_cast<T*>(at.d_x) + begin + column, d_x);
    }
  }
}

// out = sum of the rows of partials (rows x dim), 32 columns a block: each warp takes every 32nd
// row, then each warp adds what the warps have of one column.
template <typename W>
__global__ void __launch_bounds__(1024)
    sum_partials(const float* partials, int64_t rows, int64_t dim, W* out) {
  const int64_t column = int64_t{blockIdx.x} * 32 + threadIdx.x;
  float sum = 0;
  if (column < dim) {
#pragma unroll 8
    for (int64_t row = threadIdx.y; row < rows; row += 32) {
      sum += partials[row * dim + column];
    }
  }
  MEGAFM_SHARED(float, sums, 32 * 33);  // a row of 33: no two lanes on one bank
  sums[static_cast<int>(threadIdx.y * 33 + threadIdx.x)] = sum;
  __syncthreads();
  sum = sums[static_cast<int>(threadIdx.x * 33 + threadIdx.y)];
  sum = warp_sum(sum);
  const int64_t mine = int64_t{blockIdx.x} * 32 + threadIdx.y;
  if (threadIdx.x == 0 && mine < dim) {
    out[mine] = narrow<W>(sum);
  }
}

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// Threads of a row that is held: a power of two within a warp, else whole warps.
int64_t threads_per_row(int64_t dim, int64_t vector) {
  const int64_t needed = ceil_div(dim, vector * num_held);
  if (needed > 32) {
    return ceil_div(needed, 32) * 32;
  }
  int64_t threads = 1;
  while (threads < needed) {
    threads *= 2;
  }
  return threads;
}

int64_t rows_per_block(int64_t threads) {
  return threads > 32 ? 1 : small_block / threads;
}

dim3 held_block(int64_t threads) {
  return dim3(static_cast<unsigned>(threads), static_cast<unsigned>(rows_per_block(threads)));
}

dim3 walking_block(int64_t dim, int64_t vector) {
  const int64_t most = threads_of_128_registers / 32;
  const int64_t warps = std::clamp<int64_t>(ceil_div(dim, vector * 32), 1, most);
  return dim3(static_cast<unsigned>(warps * 32));
}

template <typename T, typename W>
void forward(const NormForward& at, cudaStream_t stream) {
  constexpr int N = vector_size<T>;
  const unsigned rows = static_cast<unsigned>(at.rows);
  const int64_t threads = threads_per_row(at.dim, N);
  if (at.dim % N != 0 || !aligned(at.x, at.residual, at.weight, at.total, at.y)) {
    launch(walk_forward<T, W, 1>, dim3(rows), walking_block(at.dim, 1), 0, stream, at);
  } else if (threads > most_threads) {
    launch(walk_forward<T, W, N>, dim3(rows), walking_block(at.dim, N), 0, stream, at);
  } else {
    const dim3 grid(static_cast<unsigned>(ceil_div(at.rows, rows_per_block(threads))));
    launch(norm_forward<T, W, N>, grid, held_block(threads), 0, stream, at);
  }
}

template <typename T, typename W>
void backward(const NormBackward& at, cudaStream_t stream) {
  constexpr int N = vector_size<T>;
  const int64_t num_partials = rms_norm_num_partials(at.rows, at.dim, at.storage);
  const int64_t threads = threads_per_row(at.dim, N);
  const dim3 grid(static_cast<unsigned>(num_partials));
  if (at.dim % N != 0 || !aligned(at.d_y, at.d_total, at.x, at.weight, at.d_x)) {
    launch(walk_backward<T, W, 1>, grid, walking_block(at.dim, 1), 0, stream, at);
  } else if (threads > threads_of_128_registers) {
    launch(walk_backward<T, W, N>, grid, walking_block(at.dim, N), 0, stream, at);
  } else {
    launch(norm_backward<T, W, N>, grid, held_block(threads), 0, stream, at);
  }
  const dim3 columns(static_cast<unsigned>(ceil_div(at.dim, 32)));
  launch(sum_partials<W>, columns, dim3(32, 32), 0, stream,
         static_cast<const float*>(at.partials), num_partials, at.dim, static_cast<W*>(at.d_weight));
}

// Calls body(T, W) with null pointers of the types that the rows and the weight are stored in.
template <typename Body>
void for_storages(Storage storage, Storage weight_storage, const Body& body) {
  for_storage(storage, [&](auto* rows) {
    if (weight_storage == Storage::fp32) {
      body(rows, static_cast<float*>(nullptr));
    } else {
      body(rows, rows);
    }
  });
}

}  // namespace

void rms_norm_forward(const NormForward& at, void* stream) {
  if (at.rows == 0 || at.dim == 0) {
    return;
  }
  for_storages(at.storage, at.weight_storage, [&](auto* rows, auto* weight) {
    forward<std::remove_pointer_t<decltype(rows)>, std::remove_pointer_t<decltype(weight)>>(
        at, static_cast<cudaStream_t>(stream));
  });
}

void rms_norm_backward(const NormBackward& at, void* stream) {
  if (at.dim == 0) {
    return;
  }
  for_storages(at.storage, at.weight_storage, [&](auto* rows, auto* weight) {
    backward<std::remove_pointer_t<decltype(rows)>, std::remove_pointer_t<decltype(weight)>>(
        at, static_cast<cudaStream_t>(stream));
  });
}

int64_t rms_norm_num_partials(int64_t rows, int64_t dim, Storage storage) {
  const int64_t threads = threads_per_row(dim, storage == Storage::fp32 ? 4 : 8);
  const int64_t block = threads * rows_per_block(threads);
  const int64_t per_multiprocessor = std::max<int64_t>(1, threads_of_128_registers / block);
  const int64_t most = num_multiprocessors_planned_for * per_multiprocessor;
  const int64_t filled = ceil_div(rows, rows_per_block(threads) * fewest_rows_per_partial);
  return std::clamp<int64_t>(filled, 1, most);
}

}  // namespace megafm::cuda
