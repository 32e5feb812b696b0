// What the warpgroups of attention's backward for sm_90a share: the block's tiles, who brings them,
// and the steps from products to gradients that do not depend on how the work is divided.
//
// What is not finite stays in its document: where a tile may hold rows of several, those that are
// not finite become zeros, and weights with them NaN: by an lse of NaN for a query, by an addition
// for a key.

#pragma once

#include "cuda/attention_sm90_gradients.cuh"

namespace megafm::cuda {

// What a tile of queries has beside its rows.
template <int queries>
struct QueryValues {
  static constexpr uint32_t bytes = 2 * queries * sizeof(float);
  uint32_t begin;
};

// Where things lie in a block's shared memory, of tiles that say how large they are.
template <typename Tiles>
struct BackwardMemory {
  static constexpr uint32_t v_begin = Tiles::Keys::bytes;
  static constexpr uint32_t q_begin = v_begin + Tiles::Keys::bytes;
  static constexpr uint32_t d_out_begin = q_begin + Tiles::stages * Tiles::Queries::bytes;
  static constexpr uint32_t weights_begin = d_out_begin + Tiles::stages * Tiles::Queries::bytes;
  static constexpr uint32_t d_q_begin = weights_begin + 2 * Tiles::Weights::bytes;
  static constexpr uint32_t query_values_begin =
      d_q_begin + Tiles::consumers * Tiles::QueryGradients::bytes;
  static constexpr uint32_t key_values_begin =
      query_values_begin + Tiles::stages * QueryValues<Tiles::queries>::bytes;
  static constexpr uint32_t mbarriers_begin = key_values_begin + Tiles::keys * sizeof(float);
  static constexpr uint32_t bytes = mbarriers_begin + 8 * (1 + 3 * 2 * Tiles::stages);
  static_assert(bytes <= 227 << 10);
};

struct BackwardMaps {
  CUtensorMap q;
  CUtensorMap d_out;
  CUtensorMap k;
  CUtensorMap v;
  CUtensorMap d_q_sum;
  CUtensorMap d_k;
  CUtensorMap d_v;
};

// What producer and consumers agree on: a tile of keys, and where things lie in shared memory.
template <typename Tiles_>
struct BackwardBlock {
  using Tiles = Tiles_;
  using Memory = BackwardMemory<Tiles>;
  using Queries = typename Tiles::Queries;
  using Values = QueryValues<Tiles::queries>;
  using QueryRing = Ring<Queries, Tiles::stages>;
  using ValueRing = Ring<Values, Tiles::stages>;

  const AttentionShape& shape;
  int batch;
  int kv_head;
  int key;
  Interval seen_by;  // the queries that see a key of the block; the first a multiple of a tile
  uint32_t begin = shared_address(shared_memory<char>());
  uint32_t keys_full = begin + Memory::mbarriers_begin;
  QueryRing q{begin + Memory::q_begin, keys_full + 8};
  QueryRing d_out{begin + Memory::d_out_begin, keys_full + 8 + 16 * Tiles::stages};
  ValueRing query_values{begin + Memory::query_values_begin, keys_full + 8 + 32 * Tiles::stages};

  // Blocks with the same keys of all heads follow each other: with a causal mask, the first keys are
  // seen by most queries.
  __device__ __forceinline__ explicit BackwardBlock(const AttentionShape& shape) : shape(shape) {
    const int kv_heads = shape.heads / shape.group, all = kv_heads * shape.batch;
    const int index = static_cast<int>(blockIdx.x);
    key = index / all * Tiles::keys;
    kv_head = index % all % kv_heads;
    batch = index % all / kv_heads;
    const int last_key = min(key + Tiles::keys, shape.seq_k) - 1;
    seen_by = {queries_of_key(shape, key).first / Tiles::queries * Tiles::queries,
               queries_of_key(shape, last_key).last};
  }

  __device__ __forceinline__ typename Tiles::Keys k() const { return {begin}; }
  __device__ __forceinline__ typename Tiles::Keys v() const {
    return {begin + Memory::v_begin};
  }
  // Two places for p or d_s of a tile, transposed.
  __device__ __forceinline__ typename Tiles::Weights weights(int place) const {
    return {begin + Memory::weights_begin + place * Tiles::Weights::bytes};
  }
  __device__ __forceinline__ typename Tiles::QueryGradients d_q(int consumer) const {
    return {begin + Memory::d_q_begin + consumer * Tiles::QueryGradients::bytes};
  }
  // Of a query: lse * log2(e), or what makes weights 0 or NaN; and delta.
  __device__ __forceinline__ Shared<float> shifts(Values of) const {
    return shared_memory<float>(of.begin - begin);
  }
  __device__ __forceinline__ Shared<float> deltas(Values of) const {
    return shifts(of) + Tiles::queries;
  }
  // Of a key: NaN where its row was not finite and became zeros, else 0.
  __device__ __forceinline__ Shared<float> key_values() const {
    return shared_memory<float>(Memory::key_values_begin);
  }

  // Calls body(head, query) for the tiles of queries.
  template <typename Body>
  __device__ __forceinline__ void for_tiles(const Body& body) const {
#pragma unroll 1
    for (int head = kv_head * shape.group; head < (kv_head + 1) * shape.group; ++head) {
#pragma unroll 1
      for (int query = seen_by.first; query < seen_by.last; query += Tiles::queries) {
        body(head, query);
      }
    }
  }
};

// By one thread.
template <typename Tiles>
__device__ __forceinline__ void bring_tiles(const BackwardBlock<Tiles>& block,
                                            const BackwardMaps& maps) {
  mbarrier_arrive_expect_tx(block.keys_full, 2 * Tiles::Keys::bytes);
  block.k().load(&maps.k, block.keys_full, block.key, block.kv_head, block.batch);
  block.v().load(&maps.v, block.keys_full, block.key, block.kv_head, block.batch);
  Turn<Tiles::stages> q_turn, d_out_turn;
  block.for_tiles([&](int head, int query) {
    block.q.load(q_turn, &maps.q, query, head, block.batch);
    block.d_out.load(d_out_turn, &maps.d_out, query, head, block.batch);
  });
}

// By one warp.
template <typename Tiles>
__device__ __forceinline__ void bring_query_values(const AttentionBackward& at,
                                                   const BackwardBlock<Tiles>& block) {
  const AttentionShape& shape = at.shape;
  const auto& ring = block.query_values;
  Turn<Tiles::stages> turn;
  block.for_tiles([&](int head, int query) {
    mbarrier_wait(ring.free(turn.stage), turn.parity ^ 1);
    const auto values = ring.tile(turn.stage);
    const int64_t row = (int64_t{block.batch} * shape.heads + head) * shape.seq_q + query;
#pragma unroll 1
    for (int i = threadIdx.x % 32; i < Tiles::queries; i += 32) {
      const bool there = query + i < shape.seq_q;
      const float lse = there ? at.lse[row + i] : -INFINITY;
      block.shifts(values)[i] = lse == -INFINITY ? INFINITY : lse * log2_e;  // sees no key
      block.deltas(values)[i] = there ? at.delta[row + i] : 0.0f;
    }
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(ring.full(turn.stage));
    turn.next();
  });
}

// Before the keys' first use, by both consumers; whether all are finite.
template <typename Tiles>
__device__ __forceinline__ bool set_keys_apart(const BackwardBlock<Tiles>& block) {
  const int thread = threadIdx.x - 128, lane = threadIdx.x % 32;
  if (thread < Tiles::keys && !zero_unless_finite(block.begin, block.k(), thread)) {
    block.key_values()[thread] = NAN;
  }
  fence_proxy_async();
  named_barrier_sync(both_consumers, 256);
  bool finite = true;
#pragma unroll
  for (int i = 0; i < Tiles::keys; i += 32) finite = finite && block.key_values()[i + lane] == 0;
  return __all_sync(0xffffffff, finite);
}

// Before the first use of a tile of queries, by both consumers.
template <typename Tiles>
__device__ __forceinline__ void set_queries_apart(const BackwardBlock<Tiles>& block,
                                                  typename Tiles::Queries q,
                                                  typename Tiles::Queries d_out,
                                                  QueryValues<Tiles::queries> values) {
  const int thread = threadIdx.x - 128, row = thread % 128;
  if (row < Tiles::queries && !zero_unless_finite(block.begin, thread < 128 ? q : d_out, row)) {
    block.shifts(values)[row] = NAN;
  }
  fence_proxy_async();
  named_barrier_sync(both_consumers, 256);
}

// A tile of queries, once it is here.
template <typename Tiles>
struct QueryTile {
  typename Tiles::Queries q;
  typename Tiles::Queries d_out;
  QueryValues<Tiles::queries> values;
  Interval every;  // the keys that all of the queries see
};

template <typename Tiles>
__device__ __forceinline__ QueryTile<Tiles> wait_for_queries(const BackwardBlock<Tiles>& block,
                                                             const Turn<Tiles::stages>& turn,
                                                             int query) {
  const QueryTile<Tiles> tile{block.q.wait(turn), block.d_out.wait(turn),
                              block.query_values.wait(turn),
                              keys_of_tile(block.shape, query, Tiles::queries).every};
  const bool packed = block.shape.keys_of_queries != nullptr;
  if (packed && (tile.every.first > block.key || tile.every.last < block.key + Tiles::keys)) {
    set_queries_apart(block, tile.q, tile.d_out, tile.values);
  }
  return tile;
}

// Zeros where a query, from `query` on, does not see a key, from `key` on; and NaN where it does and
// the key's value is NaN.
template <int n>
__device__ __forceinline__ void hide(const AttentionShape& shape, Sum<1, n>& weights,
                                     Sum<1, n>& d_scores, int query, int key,
                                     Shared<float> key_values) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int row = 8 * h + lane / 4;
    const Interval queries = queries_in_tile(shape, key + row, query);
    const float value = key_values[row];
#pragma unroll
    for (int j = 0; j < n; ++j) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int col = 8 * j + lane % 4 * 2 + e;
        const bool visible = queries.first <= col && col < queries.last;
        float& weight = weights.at[0][j][2 * h + e];
        float& d_score = d_scores.at[0][j][2 * h + e];
        weight = visible ? weight + value : 0.0f;
        d_score = visible ? d_score + value : 0.0f;
      }
    }
  }
}

// d_q of a tile, this consumer's part, to shared memory, and from there added to the sum.
template <typename Tiles, int n>
__device__ __forceinline__ void add_d_q(const BackwardBlock<Tiles>& block,
                                        const BackwardMaps& maps, const Sum<1, n>& d_q, int head,
                                        int query, int consumer) {
  const SwizzledTile<float, 64, 8 * n> to{block.begin + BackwardMemory<Tiles>::d_q_begin +
                                          consumer * Tiles::QueryGradients::bytes};
  const int lane = threadIdx.x % 32, row = threadIdx.x % 128 / 32 * 16 + lane / 4;
#pragma unroll
  for (int j = 0; j < n; ++j) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      store_vec(shared_memory<float>(to.at(row + 8 * h, 8 * j + lane % 4 * 2) - block.begin),
                Vec<float, 2>{d_q.at[0][j][2 * h], d_q.at[0][j][2 * h + 1]});
    }
  }
  fence_proxy_async();
  named_barrier_sync(one_consumer + consumer, 128);
  if (threadIdx.x % 128 == 0) {
    to.add(&maps.d_q_sum, consumer * Tiles::d_q_col, query + consumer * Tiles::d_q_row, head,
           block.batch);
    bulk_commit();
  }
}

// Before the barrier behind which d_q is written to shared memory again.
__device__ __forceinline__ void wait_for_added_d_q() {
  if (threadIdx.x % 128 == 0) bulk_wait_read<0>();
}

// This consumer's part of the gradients of keys and values, over what the block had in shared memory.
template <typename Tiles, int n>
__device__ __forceinline__ void store_key_gradients(const BackwardBlock<Tiles>& block,
                                                    const BackwardMaps& maps, const Sum<1, n>& d_k,
                                                    const Sum<1, n>& d_v, int consumer) {
  using Gradients = typename Tiles::KeyGradients;
  using T = typename Gradients::Element;
  static_assert(Gradients::cols == 8 * n);
  const int warp_row = threadIdx.x % 128 / 32 * 16;
  const Gradients to_k{block.k().begin + consumer * Gradients::bytes};
  const Gradients to_v{block.v().begin + consumer * Gradients::bytes};
  Fragment rows[n / 2][1];
  named_barrier_sync(both_consumers, 256);  // nobody reads keys and values
  round_all<T>(d_k, rows);
  store_rows(rows, to_k, warp_row, 0);
  round_all<T>(d_v, rows);
  store_rows(rows, to_v, warp_row, 0);
  fence_proxy_async();
  named_barrier_sync(one_consumer + consumer, 128);
  if (threadIdx.x % 128 == 0) {
    const int key = block.key + consumer * Tiles::key_row, col = consumer * Tiles::key_col;
    to_k.store(&maps.d_k, col, key, block.kv_head, block.batch);
    to_v.store(&maps.d_v, col, key, block.kv_head, block.batch);
    bulk_commit();
    bulk_wait<0>();
  }
}

}  // namespace megafm::cuda
