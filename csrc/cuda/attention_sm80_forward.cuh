// Attention forward for sm_80 and later: mma.sync on tiles that cp.async brings.
//
// The method is FlashAttention-2 (Dao 2023, section 3.1): a block of threads holds a tile of queries,
// walks the keys that any of them sees, and keeps per row the largest score and the sum of
// exponentials. While a tile of scores is computed its values arrive; while it is used, the next
// keys do. Masks are looked at only on tiles that some query does not see whole.
//
// 4 * seq_q * seq_k * dim operations a head, half of it when causal; shared memory within the
// 99 KiB of the smallest chips.

#pragma once

#include "cuda/attention_documents.cuh"
#include "cuda/attention_softmax.cuh"

namespace megafm::cuda {

template <int width>
struct ForwardTiles {
  static constexpr int queries = 128;
  static constexpr int keys = width <= 192 ? 64 : 32;
  static constexpr int num_warps = width == 64 ? 4 : 8;
  static constexpr int num_threads = 32 * num_warps;
  static constexpr int m = queries / num_warps / 16;  // of 16 rows, of a warp
  static constexpr int shared_bytes = (queries + 2 * keys) * width * 2;
  static_assert(shared_bytes <= 99 << 10);  // what a block may have on the smallest chips
};

template <typename T, int width>
__global__ void __launch_bounds__(ForwardTiles<width>::num_threads, 1)
    attention_forward_kernel(const AttentionForward at) {
  using Tiles = ForwardTiles<width>;
  constexpr int m = Tiles::m, n = Tiles::keys / 8, num_threads = Tiles::num_threads;
  const AttentionShape& shape = at.shape;
  const int num_tiles = (shape.seq_q + Tiles::queries - 1) / Tiles::queries;
  const int query = (num_tiles - 1 - blockIdx.x % num_tiles) * Tiles::queries;  // the longest first
  const int head = blockIdx.x / num_tiles % shape.heads;
  const int batch = blockIdx.x / num_tiles / shape.heads;
  const T* keys = head_of<T>(at.k, batch, head / shape.group);
  const T* values = head_of<T>(at.v, batch, head / shape.group);

  const Tile<T, Tiles::queries, width> q{0};
  const Tile<T, Tiles::keys, width> k{q.end()}, v{k.end()};
  const auto copy_keys = [&](int key, int end) {
    copy_tile_async<num_threads>(k, keys, at.k.seq_stride, key, end, shape.dim);
  };
  const Seen seen = keys_of_tile(shape, query, Tiles::queries);
  const int begin = seen.any.first / Tiles::keys * Tiles::keys, end = seen.any.last;
  copy_tile_async<num_threads>(q, head_of<T>(at.q, batch, head), at.q.seq_stride, query,
                               shape.seq_q, shape.dim);
  if (begin < end) copy_keys(begin, shape.seq_k);
  cp_async_commit();

  const int row = threadIdx.x / 32 * 16 * m;  // of this warp, in the tile
  const ScoreRule rule(shape);
  RunningSoftmax<m> softmax;
  Sum<m, width / 8> out;
  out.clear();
  for (int key = begin; key < end; key += Tiles::keys) {
    cp_async_wait<0>();
    __syncthreads();  // the keys are here, and nobody reads the values of the tile before
    copy_tile_async<num_threads>(v, values, at.v.seq_stride, key, shape.seq_k, shape.dim_v);
    cp_async_commit();

    Sum<m, n> scores;
    scores.clear();
    add_product<width, Lies::straight, Lies::transposed, T>(scores, q, row, k, 0);
    cp_async_wait<0>();
    __syncthreads();  // the values are here, and nobody reads the keys
    if (key + Tiles::keys < end) copy_keys(key + Tiles::keys, shape.seq_k);
    cp_async_commit();

    apply_rule(rule, scores);
    const bool whole = seen.every.first <= key && key + Tiles::keys <= seen.every.last;
    if (!whole) mask_scores(shape, scores, query + row, key);
    scale_rows(out, softmax.update(scores, rule.to_log2));
    if (!whole && shape.keys_of_queries != nullptr) {
      set_apart<num_threads>(out, v, row, 0,
                             [&](int r) { return keys_in_tile(shape, query + r, key); });
    }
#pragma unroll
    for (int step = 0; step < Tiles::keys / 16; ++step) {
      Fragment weights[m];
      round_columns<T>(scores, step, weights);
      add_step<T, Lies::straight>(out, weights, v, 16 * step, 0);
    }
  }
  cp_async_wait<0>();
  __syncthreads();  // the queries are here even where there are no keys

  const int lane = threadIdx.x % 32;
  const float sink = at.sinks == nullptr ? -INFINITY : at.sinks[head] * log2_e;
#pragma unroll
  for (int i = 0; i < m; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const RowEnd row_end = softmax.finish(i, h, rule.to_log2, sink);
#pragma unroll
      for (int j = 0; j < width / 8; ++j) {
        out.at[i][j][2 * h] *= row_end.factor;
        out.at[i][j][2 * h + 1] *= row_end.factor;
      }
      const int at_query = query + row + 16 * i + 8 * h + lane / 4;
      if (lane % 4 == 0 && at_query < shape.seq_q) {
        at.lse[(int64_t{batch} * shape.heads + head) * shape.seq_q + at_query] = row_end.lse;
      }
    }
  }
  store_sum(out, 1.0f, q, row, 0);  // over this warp's own queries
  __syncwarp();
  store_tile<32, 16 * m>(q, row, head_of<T>(at.out, batch, head), at.out.seq_stride, query,
                         shape.seq_q, shape.dim_v, lane);
}

template <typename T, int width>
void launch_attention_forward(const AttentionForward& at, void* stream) {
  using Tiles = ForwardTiles<width>;
  const int64_t num_tiles = (at.shape.seq_q + Tiles::queries - 1) / Tiles::queries;
  launch(attention_forward_kernel<T, width>,
         dim3(static_cast<unsigned>(num_tiles * at.shape.heads * at.shape.batch)),
         dim3(Tiles::num_threads), Tiles::shared_bytes, static_cast<cudaStream_t>(stream), at);
}

template <int width>
void attention_forward_sm80(const AttentionForward& at, void* stream) {
  if (at.storage == Storage::bf16) {
    launch_attention_forward<__nv_bfloat16, width>(at, stream);
  } else {
    launch_attention_forward<__half, width>(at, stream);
  }
}

}  // namespace megafm::cuda
