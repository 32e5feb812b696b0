// Attention backward for sm_80 and later: mma.sync on tiles that cp.async brings.
//
//   p = exp(score - lse)      d_v = p.T d_out      d_s = p * (d_out v.T - delta) * slope
//   d_k = scale d_s.T q       d_q = scale d_s k
//
// The method is FlashAttention-2 (Dao 2023, section 3.1.2): a block of threads holds a tile of keys,
// walks the queries that see any of them, of all heads that share them, and keeps d_k and d_v in
// registers. d_q is added up in memory by atomics; in deterministic mode by a second kernel that
// holds a tile of queries and computes the scores again: 14 * seq_q * seq_k * dim operations a head
// instead of 10, half of it when causal.
//
// Weights p and d_s go through shared memory, so every product divides its result among the warps in
// the way that fits its shape, and wide heads keep to the registers.

#pragma once

#include "cuda/attention_documents.cuh"

namespace megafm::cuda {

template <int width>
struct BackwardTiles {
  static constexpr int queries = width <= 128 ? 64 : 32;
  static constexpr int keys = width == 64 ? 128 : width == 256 ? 32 : 64;
  static constexpr int num_warps = width == 96 || width == 256 ? 4 : 8;
  static constexpr int num_threads = 32 * num_warps;
  static constexpr int warps_down = 2;  // of a result
  static constexpr int warps_across = num_warps / warps_down;
  static constexpr int score_bytes = queries * keys * 2;
  static constexpr int shared_bytes = 2 * (queries + keys) * width * 2 + 2 * score_bytes;
  static_assert(shared_bytes <= 99 << 10);  // what a block may have on the smallest chips
};

// The tiles of a block, as they lie in shared memory.
template <typename T, int width>
struct BackwardMemory {
  using Tiles = BackwardTiles<width>;
  Tile<T, Tiles::queries, width> q{0u}, d_out{q.end()};
  Tile<T, Tiles::keys, width> k{d_out.end()}, v{k.end()};
  Tile<T, Tiles::queries, Tiles::keys> weights{v.end()}, d_scores{weights.end()};
};

// This warp's part of a rows x cols result.
template <int width, int rows, int cols>
struct Part {
  using Tiles = BackwardTiles<width>;
  static constexpr int m = rows / Tiles::warps_down / 16;
  static constexpr int n = cols / Tiles::warps_across / 8;
  int row = static_cast<int>(threadIdx.x / 32 % Tiles::warps_down) * 16 * m;
  int col = static_cast<int>(threadIdx.x / 32 / Tiles::warps_down) * 8 * n;
};

// Where a tile lies: its first query and key, of which head.
struct Place {
  int batch;
  int head;
  int query;
  int key;
};

// Whether every query of a tile sees every key.
template <int width>
__device__ __forceinline__ bool sees_whole(const AttentionShape& shape, const Place& place) {
  using Tiles = BackwardTiles<width>;
  const Interval every = keys_of_tile(shape, place.query, Tiles::queries).every;
  return every.first <= place.key && place.key + Tiles::keys <= every.last;
}

// p and d_s of a tile of queries and keys, whose q, d_out, k and v are in shared memory.
template <typename T, int width>
__device__ __forceinline__ void fill_scores(const AttentionBackward& at, const ScoreRule& rule,
                                            const BackwardMemory<T, width>& memory,
                                            const Place& place) {
  using Tiles = BackwardTiles<width>;
  const Part<width, Tiles::queries, Tiles::keys> part;
  const AttentionShape& shape = at.shape;
  Sum<part.m, part.n> scores, d_weights;
  scores.clear();
  d_weights.clear();
  add_product<width, Lies::straight, Lies::transposed, T>(scores, memory.q, part.row, memory.k,
                                                          part.col);
  add_product<width, Lies::straight, Lies::transposed, T>(d_weights, memory.d_out, part.row,
                                                          memory.v, part.col);
  const bool whole = sees_whole<width>(shape, place);
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int i = 0; i < part.m; ++i) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int row = part.row + 16 * i + 8 * h + lane / 4, query = place.query + row;
      const bool there = query < shape.seq_q;
      const int64_t index = (int64_t{place.batch} * shape.heads + place.head) * shape.seq_q + query;
      const float lse = there ? at.lse[index] : -INFINITY, delta = there ? at.delta[index] : 0.0f;
      const float shift = lse == -INFINITY ? INFINITY : lse * log2_e;  // sees no key: all zero
      const Interval keys = whole || !there ? Interval{0, shape.seq_k} : keys_of_query(shape, query);
#pragma unroll
      for (int j = 0; j < part.n; ++j) {
        const int col = part.col + 8 * j + lane % 4 * 2;
        Vec<T, 2> weights, d_scores;
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          float score = scores.at[i][j][2 * h + e];
          if (!rule.plain) score = rule.apply(score);
          const int key = place.key + col + e;
          const bool visible = keys.first <= key && key < keys.last;
          const float weight = visible ? exp2_approx(fmaf(score, rule.to_log2, -shift)) : 0.0f;
          float d_score = weight * (d_weights.at[i][j][2 * h + e] - delta);
          if (!rule.plain) d_score *= rule.slope(score);
          weights[e] = T(weight);
          d_scores[e] = T(visible ? d_score : 0.0f);
        }
        store_vec(memory.weights.at(row, col), weights);
        store_vec(memory.d_scores.at(row, col), d_scores);
      }
    }
  }
}

// Whether a tile may hold rows of several documents.
template <int width>
__device__ __forceinline__ bool documents_meet(const AttentionShape& shape, const Place& place) {
  return shape.keys_of_queries != nullptr && !sees_whole<width>(shape, place);
}

// Before the products with d_out and q, and that with k; the answer is whether keys were lost.
template <typename T, int width>
__device__ __forceinline__ void set_queries_apart(const AttentionShape& shape,
                                                  const BackwardMemory<T, width>& memory,
                                                  const Place& place) {
  using Tiles = BackwardTiles<width>;
  const auto seen = [&](int row) { return keys_in_tile(shape, place.query + row, place.key); };
  const auto weight = [&](int key, int row) { return memory.weights.at(row, key); };
  const auto d_score = [&](int key, int row) { return memory.d_scores.at(row, key); };
  set_apart_by_weights<Tiles::num_threads, Tiles::keys>(weight, memory.d_out, seen);
  set_apart_by_weights<Tiles::num_threads, Tiles::keys>(d_score, memory.q, seen);
}

template <typename T, int width>
__device__ __forceinline__ bool set_keys_apart(const AttentionShape& shape,
                                               const BackwardMemory<T, width>& memory,
                                               const Place& place) {
  using Tiles = BackwardTiles<width>;
  const auto seen = [&](int key) { return queries_in_tile(shape, place.key + key, place.query); };
  const auto d_score = [&](int row, int key) { return memory.d_scores.at(row, key); };
  return set_apart_by_weights<Tiles::num_threads, Tiles::queries>(d_score, memory.k, seen);
}

// Adds the product d_s k of a tile to d_q, without the scale.
template <typename T, int width>
__device__ __forceinline__ void add_d_q(const AttentionBackward& at,
                                        const BackwardMemory<T, width>& memory,
                                        const Place& place) {
  using Tiles = BackwardTiles<width>;
  const Part<width, Tiles::queries, width> part;
  constexpr int n = part.n > 8 ? part.n / 2 : part.n;  // at a time: d_k and d_v hold registers too
  const AttentionShape& shape = at.shape;
  const int lane = threadIdx.x % 32;
#pragma unroll 1
  for (int first_col = part.col; first_col < part.col + 8 * part.n; first_col += 8 * n) {
    Sum<part.m, n> d_q;
    d_q.clear();
    add_product<Tiles::keys, Lies::straight, Lies::straight, T>(d_q, memory.d_scores, part.row,
                                                                memory.k, first_col);
#pragma unroll
    for (int i = 0; i < part.m; ++i) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int query = place.query + part.row + 16 * i + 8 * h + lane / 4;
        float* row = at.d_q_sum +
                     ((int64_t{place.batch} * shape.seq_q + query) * shape.heads + place.head) *
                         shape.dim;
#pragma unroll
        for (int j = 0; j < n; ++j) {
          const int col = first_col + 8 * j + lane % 4 * 2;
          if (query < shape.seq_q && col < shape.dim) {
            atomicAdd(row + col, d_q.at[i][j][2 * h]);
            atomicAdd(row + col + 1, d_q.at[i][j][2 * h + 1]);
          }
        }
      }
    }
  }
}

template <typename T, int width>
__device__ __forceinline__ void copy_queries(const AttentionBackward& at,
                                             const BackwardMemory<T, width>& memory,
                                             const Place& place) {
  constexpr int num_threads = BackwardTiles<width>::num_threads;
  copy_tile_async<num_threads>(memory.q, head_of<T>(at.q, place.batch, place.head),
                               at.q.seq_stride, place.query, at.shape.seq_q, at.shape.dim);
  copy_tile_async<num_threads>(memory.d_out, head_of<T>(at.d_out, place.batch, place.head),
                               at.d_out.seq_stride, place.query, at.shape.seq_q, at.shape.dim_v);
  cp_async_commit();
}

template <typename T, int width>
__device__ __forceinline__ void copy_keys(const AttentionBackward& at,
                                          const BackwardMemory<T, width>& memory,
                                          const Place& place) {
  constexpr int num_threads = BackwardTiles<width>::num_threads;
  const int kv_head = place.head / at.shape.group;
  copy_tile_async<num_threads>(memory.k, head_of<T>(at.k, place.batch, kv_head), at.k.seq_stride,
                               place.key, at.shape.seq_k, at.shape.dim);
  copy_tile_async<num_threads>(memory.v, head_of<T>(at.v, place.batch, kv_head), at.v.seq_stride,
                               place.key, at.shape.seq_k, at.shape.dim_v);
  cp_async_commit();
}

// What set_keys_apart() lost; copying as at the start would keep its addresses in registers.
template <typename T, int width>
__device__ __forceinline__ void restore_keys(const AttentionBackward& at,
                                             const BackwardMemory<T, width>& memory,
                                             const Place& place) {
  using Tiles = BackwardTiles<width>;
  const T* keys = head_of<T>(at.k, place.batch, place.head / at.shape.group);
  for_own_runs<Tiles::num_threads, Tiles::keys, width>(threadIdx.x, [&](int row, int col) {
    if (place.key + row < at.shape.seq_k && col < at.shape.dim) {
      const T* from = keys + (place.key + row) * at.k.seq_stride + col;
      store_vec(memory.k.at(row, col), load_vec<8>(from));
    }
  });
}

// d_k and d_v of a tile of keys; d_q by atomics where there is a sum for it.
template <typename T, int width>
__global__ void __launch_bounds__(BackwardTiles<width>::num_threads, 1)
    attention_backward_keys(const AttentionBackward at) {
  using Tiles = BackwardTiles<width>;
  const AttentionShape& shape = at.shape;
  const int num_tiles = (shape.seq_k + Tiles::keys - 1) / Tiles::keys;
  const int kv_heads = shape.heads / shape.group, kv_head = blockIdx.x / num_tiles % kv_heads;
  Place place{.batch = static_cast<int>(blockIdx.x) / num_tiles / kv_heads,
              .head = kv_head * shape.group,
              .query = 0,
              .key = static_cast<int>(blockIdx.x) % num_tiles * Tiles::keys};
  const int last_key = min(place.key + Tiles::keys, shape.seq_k) - 1;
  const int begin = queries_of_key(shape, place.key).first / Tiles::queries * Tiles::queries;
  const int end = queries_of_key(shape, last_key).last;
  const ScoreRule rule(shape);
  const BackwardMemory<T, width> memory;
  const Part<width, Tiles::keys, width> part;
  Sum<part.m, part.n> d_k, d_v;
  d_k.clear();
  d_v.clear();
  copy_keys(at, memory, place);
  for (int member = 0; member < shape.group; ++member) {
    place.head = kv_head * shape.group + member;
    for (place.query = begin; place.query < end; place.query += Tiles::queries) {
      copy_queries(at, memory, place);
      cp_async_wait<0>();
      __syncthreads();
      fill_scores(at, rule, memory, place);
      __syncthreads();
      if (documents_meet<width>(shape, place)) set_queries_apart(shape, memory, place);
      add_product<Tiles::queries, Lies::transposed, Lies::straight, T>(
          d_v, memory.weights, part.row, memory.d_out, part.col);
      add_product<Tiles::queries, Lies::transposed, Lies::straight, T>(
          d_k, memory.d_scores, part.row, memory.q, part.col);
      bool keys_lost = false;
      if (at.d_q_sum != nullptr) {
        if (documents_meet<width>(shape, place)) keys_lost = set_keys_apart(shape, memory, place);
        add_d_q(at, memory, place);
      }
      __syncthreads();  // before the next queries overwrite these
      if (keys_lost) restore_keys(at, memory, place);
    }
  }
  cp_async_wait<0>();
  __syncthreads();  // where no query sees the keys
  store_sum(d_k, shape.scale, memory.k, part.row, part.col);
  store_sum(d_v, 1.0f, memory.v, part.row, part.col);
  __syncthreads();
  store_tile<Tiles::num_threads, Tiles::keys>(memory.k, 0, head_of<T>(at.d_k, place.batch, kv_head),
                                              at.d_k.seq_stride, place.key, shape.seq_k, shape.dim,
                                              threadIdx.x);
  store_tile<Tiles::num_threads, Tiles::keys>(memory.v, 0, head_of<T>(at.d_v, place.batch, kv_head),
                                              at.d_v.seq_stride, place.key, shape.seq_k,
                                              shape.dim_v, threadIdx.x);
}

// d_q of a tile of queries: the same bits on every run.
template <typename T, int width>
__global__ void __launch_bounds__(BackwardTiles<width>::num_threads, 1)
    attention_backward_queries(const AttentionBackward at) {
  using Tiles = BackwardTiles<width>;
  const AttentionShape& shape = at.shape;
  const int num_tiles = (shape.seq_q + Tiles::queries - 1) / Tiles::queries;
  const int tile = num_tiles - 1 - static_cast<int>(blockIdx.x) % num_tiles;  // the longest first
  Place place{.batch = static_cast<int>(blockIdx.x) / num_tiles / shape.heads,
              .head = static_cast<int>(blockIdx.x) / num_tiles % shape.heads,
              .query = tile * Tiles::queries,
              .key = 0};
  const Interval keys = keys_of_tile(shape, place.query, Tiles::queries).any;
  const ScoreRule rule(shape);
  const BackwardMemory<T, width> memory;
  const Part<width, Tiles::queries, width> part;
  Sum<part.m, part.n> d_q;
  d_q.clear();
  copy_queries(at, memory, place);
  for (place.key = keys.first / Tiles::keys * Tiles::keys; place.key < keys.last;
       place.key += Tiles::keys) {
    copy_keys(at, memory, place);
    cp_async_wait<0>();
    __syncthreads();
    fill_scores(at, rule, memory, place);
    __syncthreads();
    if (documents_meet<width>(shape, place)) set_keys_apart(shape, memory, place);
    add_product<Tiles::keys, Lies::straight, Lies::straight, T>(d_q, memory.d_scores, part.row,
                                                                memory.k, part.col);
    __syncthreads();  // before the next keys overwrite these
  }
  cp_async_wait<0>();
  __syncthreads();  // where the queries see no key
  store_sum(d_q, shape.scale, memory.q, part.row, part.col);
  __syncthreads();
  store_tile<Tiles::num_threads, Tiles::queries>(
      memory.q, 0, head_of<T>(at.d_q, place.batch, place.head), at.d_q.seq_stride, place.query,
      shape.seq_q, shape.dim, threadIdx.x);
}

template <typename T, int width>
void launch_attention_backward(const AttentionBackward& at, void* stream_in) {
  using Tiles = BackwardTiles<width>;
  const auto stream = static_cast<cudaStream_t>(stream_in);
  const AttentionShape& shape = at.shape;
  const auto num_blocks = [&](int64_t seq, int64_t tile, int64_t heads) {
    return dim3(static_cast<unsigned>((seq + tile - 1) / tile * heads * shape.batch));
  };
  if (shape.seq_k > 0) {
    launch(attention_backward_keys<T, width>,
           num_blocks(shape.seq_k, Tiles::keys, shape.heads / shape.group),
           dim3(Tiles::num_threads), Tiles::shared_bytes, stream, at);
  }
  if (shape.seq_q > 0 && at.d_q_sum == nullptr) {
    launch(attention_backward_queries<T, width>,
           num_blocks(shape.seq_q, Tiles::queries, shape.heads), dim3(Tiles::num_threads),
           Tiles::shared_bytes, stream, at);
  }
}

template <int width>
void attention_backward_sm80(const AttentionBackward& at, void* stream) {
  if (at.storage == Storage::bf16) {
    launch_attention_backward<__nv_bfloat16, width>(at, stream);
  } else {
    launch_attention_backward<__half, width>(at, stream);
  }
}

}  // namespace megafm::cuda
