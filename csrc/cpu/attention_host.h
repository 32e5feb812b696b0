// What the host sides of attention's forward and backward share: tensors to views, options to the
// interval of keys that each query sees, tasks to threads, work buffers.

#pragma once

#include <atomic>
#include <memory>
#include <new>
#include <optional>
#include <vector>

#include "attention_checks.h"
#include "cpu/attention.h"
#include "cpu/tensors.h"

namespace megafm::cpu {

// The shape of q (batch, seq_q, heads, dim), k and v, with the intervals that the shape points to.
struct AttentionProblem {
  int64_t batch;
  int64_t kv_heads;
  std::vector<int32_t> first;
  std::vector<int32_t> last;
  AttentionShape shape;
};

AttentionProblem attention_problem(const Tensor& q, const Tensor& k, const Tensor& v,
                                   const AttentionOptions& options);

// The tensor (batch, seq, heads, dim) itself where elements of dim lie side by side, else a copy.
inline Tensor with_dense_heads(const Tensor& x) {
  return x.stride(3) == 1 || x.size(3) == 1 ? x : stable::contiguous(x);
}

// Of kv head `head`, or of the query heads that share it.
template <typename T>
HeadView<T> head_view(const Tensor& x, int64_t batch, int64_t head) {
  T* data = static_cast<T*>(const_cast<void*>(x.const_data_ptr()));
  return {data + batch * x.stride(0) + head * x.stride(2), x.stride(1)};
}

template <typename T>
RowsView<T> rows_view(const Tensor& x, int64_t batch, int64_t head, int64_t group) {
  T* data = static_cast<T*>(const_cast<void*>(x.const_data_ptr()));
  return {data + batch * x.stride(0) + head * group * x.stride(2), x.stride(1), x.stride(2)};
}

// A buffer of this thread for `floats`, aligned to vectors; kept, because the first touch of fresh
// memory costs more than the work in it.
inline float* thread_buffer(int64_t floats) {
  constexpr std::align_val_t alignment{64};
  struct Free {
    void operator()(float* data) const { ::operator delete[](data, alignment); }
  };
  static thread_local std::unique_ptr<float[], Free> buffer;
  static thread_local int64_t size = 0;
  if (floats > size) {
    buffer.reset();
    buffer.reset(new (alignment) float[floats]);
    size = floats;
  }
  return buffer.get();
}

// Calls body(task) once for each task, in order on as many threads as `operations` are worth; a
// thread that is free takes the next. Tasks write to memory of their own: no order shows.
template <typename Body>
void for_each_task(int64_t tasks, double operations, const Body& body) {
  constexpr double operations_per_thread = 1 << 20;
  const int64_t worth = 1 + static_cast<int64_t>(operations / operations_per_thread);
  const int64_t threads = std::min({tasks, worth, int64_t{stable::get_num_threads()}});
  std::atomic<int64_t> next{0};
  stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    for (int64_t task = next++; task < tasks; task = next++) {
      body(task);
    }
  });
}

}  // namespace megafm::cpu
