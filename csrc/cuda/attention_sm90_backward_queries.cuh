// d_q of attention's backward for sm_90a, the same bits on every run: a block holds 128 queries and
// walks the keys that any of them sees, each consumer with 64 queries.
//
// For deterministic mode: the kernel of attention_sm90_backward.cuh would add to d_q in the order in
// which its blocks happen to run. The scores are computed again: 6 * seq_q * seq_k * dim operations a
// head beside the 8 of d_k and d_v, half of it when causal.

#pragma once

#include "cuda/attention_sm90_gradients.cuh"

namespace megafm::cuda {

template <typename T, int width>
struct QueryTiles : BackwardThreads {
  static constexpr int consumer_queries = 64;
  static constexpr int queries = consumers * consumer_queries;
  static constexpr int keys = width <= 96 ? 128 : 64;
  static constexpr int stages = width == 256 ? 1 : 2;

  using Queries = SwizzledTile<T, consumer_queries, width>;
  using Keys = SwizzledTile<T, keys, width>;

  static constexpr uint32_t d_out_begin = consumers * Queries::bytes;
  static constexpr uint32_t k_begin = d_out_begin + consumers * Queries::bytes;
  static constexpr uint32_t v_begin = k_begin + stages * Keys::bytes;
  static constexpr uint32_t key_values_begin = v_begin + stages * Keys::bytes;
  static constexpr uint32_t mbarriers_begin = key_values_begin + 2 * keys * sizeof(float);
  static constexpr uint32_t bytes = mbarriers_begin + 8 * (1 + 2 * 2 * stages);
  static_assert(bytes <= 227 << 10);
};

struct QueryMaps {
  CUtensorMap q;
  CUtensorMap d_out;
  CUtensorMap k;
  CUtensorMap v;
  CUtensorMap d_q;
};

// What producer and consumers agree on: a tile of queries, and where things lie in shared memory.
template <typename Tiles>
struct QueryBlock {
  using KeyRing = Ring<typename Tiles::Keys, Tiles::stages>;

  const AttentionShape& shape;
  int batch;
  int head;
  int query;
  Interval sees;  // the keys that a query of the block sees; the first a multiple of a tile
  uint32_t begin = shared_address(shared_memory<char>());
  uint32_t queries_full = begin + Tiles::mbarriers_begin;
  KeyRing k{begin + Tiles::k_begin, queries_full + 8};
  KeyRing v{begin + Tiles::v_begin, queries_full + 8 + 16 * Tiles::stages};

  // The last queries of all heads come first: with a causal mask, they see most keys.
  __device__ __forceinline__ QueryBlock(const AttentionShape& shape, int num_tiles)
      : shape(shape) {
    const int all = shape.heads * shape.batch, index = static_cast<int>(blockIdx.x);
    query = (num_tiles - 1 - index / all) * Tiles::queries;
    head = index % all % shape.heads;
    batch = index % all / shape.heads;
    const Interval any = keys_of_tile(shape, query, Tiles::queries).any;
    sees = {any.first / Tiles::keys * Tiles::keys, any.last};
  }

  __device__ __forceinline__ typename Tiles::Queries q(int consumer) const {
    return {begin + consumer * Tiles::Queries::bytes};
  }
  __device__ __forceinline__ typename Tiles::Queries d_out(int consumer) const {
    return {begin + Tiles::d_out_begin + consumer * Tiles::Queries::bytes};
  }
  // Of a key: NaN where its row was not finite and became zeros, else 0; two tiles take turns.
  __device__ __forceinline__ Shared<float> key_values(int turn) const {
    return shared_memory<float>(Tiles::key_values_begin) + turn % 2 * Tiles::keys;
  }
};

// By one thread.
template <typename Tiles>
__device__ __forceinline__ void bring_tiles(const QueryBlock<Tiles>& block, const QueryMaps& maps) {
  mbarrier_arrive_expect_tx(block.queries_full, 2 * Tiles::consumers * Tiles::Queries::bytes);
  for (int i = 0; i < Tiles::consumers; ++i) {
    const int query = block.query + i * Tiles::consumer_queries;
    block.q(i).load(&maps.q, block.queries_full, query, block.head, block.batch);
    block.d_out(i).load(&maps.d_out, block.queries_full, query, block.head, block.batch);
  }
  const int kv_head = block.head / block.shape.group;
  Turn<Tiles::stages> k_turn, v_turn;
  for (int key = block.sees.first; key < block.sees.last; key += Tiles::keys) {
    block.k.load(k_turn, &maps.k, key, kv_head, block.batch);
    block.v.load(v_turn, &maps.v, key, kv_head, block.batch);
  }
}

// Before the first use of a tile of keys, by both consumers.
template <typename Tiles>
__device__ __forceinline__ void set_keys_apart(const QueryBlock<Tiles>& block,
                                               typename Tiles::Keys k, int turn) {
  const int thread = threadIdx.x - 128;
  if (thread < Tiles::keys) {
    const bool finite = zero_unless_finite(block.begin, k, thread);
    block.key_values(turn)[thread] = finite ? 0.0f : NAN;
  }
  fence_proxy_async();
  named_barrier_sync(both_consumers, 256);
}

// Zeros where a query, from `query` on, does not see a key, from `key` on; plus the key's value where
// it does, if there are any.
template <int n>
__device__ __forceinline__ void hide_keys(const AttentionShape& shape, Sum<1, n>& d_scores,
                                          int query, int key, bool apart,
                                          Shared<float> key_values) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const Interval keys = keys_in_tile(shape, query + 8 * h + lane / 4, key);
#pragma unroll
    for (int j = 0; j < n; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int col = 8 * j + lane % 4 * 2 + e;
        const bool visible = keys.first <= col && col < keys.last;
        float& d_score = d_scores.at[0][j][2 * h + e];
        d_score = visible ? d_score : 0.0f;
        if (apart && visible) d_score += key_values[col];
      }
    }
  }
}

template <typename T, int width>
__device__ __forceinline__ void consume(const AttentionBackward& at,
                                        const QueryBlock<QueryTiles<T, width>>& block,
                                        const QueryMaps& maps, int consumer) {
  using Tiles = QueryTiles<T, width>;
  const AttentionShape& shape = at.shape;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x % 128 / 32 * 16;
  const int query = block.query + consumer * Tiles::consumer_queries;
  const typename Tiles::Queries q = block.q(consumer), d_out = block.d_out(consumer);
  const ScoreRule rule(shape);
  RowValues shifts, deltas;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = query + warp_row + 8 * h + lane / 4;
    const int64_t index = (int64_t{block.batch} * shape.heads + block.head) * shape.seq_q + row;
    const bool there = row < shape.seq_q;
    const float lse = there ? at.lse[index] : -INFINITY;
    shifts.of_row[h] = lse == -INFINITY ? INFINITY : lse * log2_e;  // sees no key
    deltas.of_row[h] = there ? at.delta[index] : 0.0f;
  }
  const Interval every = keys_of_tile(shape, query, Tiles::consumer_queries).every;
  const Interval every_of_block = keys_of_tile(shape, block.query, Tiles::queries).every;
  Turn<Tiles::stages> turn;
  int num_apart = 0;
  Sum<1, width / 8> d_q;
  d_q.clear();
  mbarrier_wait(block.queries_full, 0);
#pragma unroll 1
  for (int key = block.sees.first; key < block.sees.last; key += Tiles::keys) {
    const auto k = block.k.wait(turn), v = block.v.wait(turn);
    const bool apart = shape.keys_of_queries != nullptr &&
                       (key < every_of_block.first || key + Tiles::keys > every_of_block.last);
    if (apart) set_keys_apart(block, k, ++num_apart);
    Sum<1, Tiles::keys / 8> scores, d_scores;
    pin(scores.flat());
    pin(d_scores.flat());
    wgmma_fence();
    multiply_rows(scores, q, 0, k, 0);
    wgmma_commit();
    multiply_rows(d_scores, d_out, 0, v, 0);
    wgmma_commit();
    wgmma_wait<1>();
    pin(scores.flat());
    to_gradients(scores, d_scores, rule, shifts, deltas);
    auto v_turn = turn;
    block.v.release(v_turn);
    if (apart || key < every.first || key + Tiles::keys > every.last) {
      hide_keys(shape, d_scores, query + warp_row, key, apart, block.key_values(num_apart));
    }
    Fragment rows[Tiles::keys / 16][1];
    round_all<T>(d_scores, rows);
    wgmma_fence();
    add_product(d_q, rows, k, 0);
    wgmma_commit();
    wgmma_wait<0>();
    pin(d_q.flat());
    block.k.release(turn);
  }

#pragma unroll
  for (float& x : d_q.flat()) x *= shape.scale;
  Fragment rows[width / 16][1];
  round_all<T>(d_q, rows);
  named_barrier_sync(one_consumer + consumer, 128);  // nobody reads the queries
  store_rows(rows, q, warp_row, 0);
  fence_proxy_async();
  named_barrier_sync(one_consumer + consumer, 128);
  if (threadIdx.x % 128 == 0) {
    q.store(&maps.d_q, 0, query, block.head, block.batch);
    bulk_commit();
    bulk_wait<0>();
  }
}

template <typename Tiles>
__global__ void __launch_bounds__(Tiles::num_threads, 1)
    attention_backward_queries_sm90_kernel(const AttentionBackward at,
                                           const __grid_constant__ QueryMaps maps, int num_tiles) {
  const QueryBlock<Tiles> block(at.shape, num_tiles);
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), consumer = warp / 4 - 1;
  if (threadIdx.x == 0) {
    prefetch(maps.q, maps.d_out, maps.k, maps.v);
    mbarrier_init(block.queries_full, 1);
    block.k.init(4 * Tiles::consumers);
    block.v.init(4 * Tiles::consumers);
    fence_mbarrier_init();
  }
  __syncthreads();
  if (consumer < 0) {
    setmaxnreg_dec<Tiles::producer_registers>();
    if (warp == 0 && elect_one()) bring_tiles(block, maps);
  } else {
    setmaxnreg_inc<Tiles::consumer_registers>();
    consume(at, block, maps, consumer);
  }
}

template <typename Tiles>
void launch_queries_sm90(const AttentionBackward& at, void* stream) {
  using Queries = typename Tiles::Queries;
  using Keys = typename Tiles::Keys;
  const AttentionShape& shape = at.shape;
  const QueryMaps maps{
      .q = queries_map<Queries>(shape, at.q, shape.dim),
      .d_out = queries_map<Queries>(shape, at.d_out, shape.dim_v),
      .k = keys_map<Keys>(shape, at.k, shape.dim),
      .v = keys_map<Keys>(shape, at.v, shape.dim_v),
      .d_q = queries_map<Queries>(shape, at.d_q, shape.dim),
  };
  const int num_tiles = (shape.seq_q + Tiles::queries - 1) / Tiles::queries;
  const int64_t total = int64_t{num_tiles} * shape.heads * shape.batch;
  launch(attention_backward_queries_sm90_kernel<Tiles>, dim3(static_cast<unsigned>(total)),
         dim3(Tiles::num_threads), Tiles::bytes, static_cast<cudaStream_t>(stream), at, maps,
         num_tiles);
}

}  // namespace megafm::cuda
