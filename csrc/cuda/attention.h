// Attention on CUDA: the launchers. Sequences are on the device only in what the tables say of them.

#pragma once

#include <cstdint>

#include "cuda/storage.h"

namespace megafm::cuda {

// (batch, seq, heads, dim) with the elements of a head side by side; strides in elements, multiples
// of 8, the address a multiple of 16 bytes.
struct Heads {
  void* data;
  int64_t batch_stride;
  int64_t seq_stride;
  int64_t head_stride;
};

// What forward and backward share. Query i stands at key i + seq_k - seq_q and sees the keys from
// `before` positions before it to `after` behind it; or those that the table says.
struct AttentionShape {
  int batch;
  int heads;
  int group;  // query heads of a kv head
  int seq_q;
  int seq_k;
  int dim;    // multiples of 8, at most 256
  int dim_v;
  int before;
  int after;
  const int32_t* keys_of_queries;  // (2, seq_q): first, last (exclusive); or null
  const int32_t* queries_of_keys;  // (2, seq_k), or null
  float scale;
  float softcap;  // 0: none
  // Query heads of a kv head that a tile of rows may hold side by side, as a power of 2: row r is query
  // r >> pack of head r mod 2^pack of a pack.
  int pack = 0;
};

struct AttentionForward {
  AttentionShape shape;
  Heads q;
  Heads k;
  Heads v;
  const float* sinks;  // (heads,), or null
  Heads out;
  float* lse;  // (batch, heads, seq_q)
  Storage storage;
};

struct AttentionBackward {
  AttentionShape shape;
  Heads d_out;
  Heads q;
  Heads k;
  Heads v;
  Heads out;
  const float* lse;    // (batch, heads, seq_q), like the next two
  const float* d_lse;  // or null
  float* delta;        // written: sum(d_out * out) - d_lse
  const float* sinks;  // (heads,), or null
  float* d_sinks;      // (heads,)
  float* d_q_sum;      // (batch, seq_q, heads, dim) to add to; or null: the same bits on every run
  Heads d_q;
  Heads d_k;
  Heads d_v;
  Storage storage;
};

void attention_forward(const AttentionForward& at, void* stream);

void attention_backward(const AttentionBackward& at, void* stream);

// The ends of packed documents, (documents + 1,) int32 or int64 each, to the table (2, length) of
// what each position of one sequence sees in the other.
struct DocumentEnds {
  const void* ends;
  const void* other_ends;
  int count;
  bool wide;  // int64
};

void attention_intervals(const DocumentEnds& documents, int length, int other_length, int before,
                         int after, int32_t* table, void* stream);

// The kernels of one width: heads of up to that many elements. Those of sm_90a need queries
// and keys, and no stride of 0.
template <int width>
void attention_forward_sm80(const AttentionForward& at, void* stream);
template <int width>
void attention_forward_sm90(const AttentionForward& at, void* stream);
template <int width>
void attention_backward_sm80(const AttentionBackward& at, void* stream);
template <int width>
void attention_backward_sm90(const AttentionBackward& at, void* stream);

}  // namespace megafm::cuda
