// Attention backward for sm_90a, heads of more than 128: a block has 64 keys, and a consumer half of
// the columns of their gradients, which all columns would need more registers than there are.
//
// Of p and d_s a consumer makes half of the queries; both go through shared memory, to the other too.

#pragma once

#include "cuda/attention_sm90_backward_block.cuh"

namespace megafm::cuda {

template <typename T, int width>
struct WideTiles : BackwardThreads {
  static constexpr int keys = 64;
  static constexpr int queries = 64;
  static constexpr int stages = width == 256 ? 1 : 2;
  static constexpr int half = width / 2;
  static constexpr int own_queries = queries / 2;
  static constexpr int box_bytes = half % 64 == 0 ? 128 : 64;  // of a row: a half has whole boxes

  using Keys = SwizzledTile<T, keys, width, box_bytes>;
  using Queries = SwizzledTile<T, queries, width, box_bytes>;
  using Weights = SwizzledTile<T, keys, queries>;

  // Where the second consumer's parts begin.
  static constexpr int key_row = 0, key_col = half;
  static constexpr int d_q_row = 0, d_q_col = half;
  using KeyGradients = SwizzledTile<T, keys, half, box_bytes>;
  using QueryGradients = SwizzledTile<float, queries, half>;
};

template <typename T, int width>
__device__ __forceinline__ void consume(const AttentionBackward& at,
                                        const BackwardBlock<WideTiles<T, width>>& block,
                                        const BackwardMaps& maps, int consumer) {
  using Tiles = WideTiles<T, width>;
  const AttentionShape& shape = at.shape;
  const int warp_row = threadIdx.x % 128 / 32 * 16;
  const int first = consumer * Tiles::own_queries, col = consumer * Tiles::half;
  const ScoreRule rule(shape);
  const auto weights = block.weights(0), d_scores = block.weights(1);
  Turn<Tiles::stages> turn;
  Sum<1, Tiles::half / 8> d_k, d_v;
  d_k.clear();
  d_v.clear();
  mbarrier_wait(block.keys_full, 0);
  const bool keys_finite = shape.keys_of_queries == nullptr || set_keys_apart(block);

  block.for_tiles([&](int head, int query) {
    const auto tile = wait_for_queries(block, turn, query);
    Sum<1, Tiles::own_queries / 8> own_weights, own_d_scores;
    pin(own_weights.flat());
    pin(own_d_scores.flat());
    wgmma_fence();
    multiply_rows(own_weights, block.k(), 0, tile.q, first);
    wgmma_commit();
    multiply_rows(own_d_scores, block.v(), 0, tile.d_out, first);
    wgmma_commit();
    wgmma_wait<1>();
    pin(own_weights.flat());
    to_gradients(own_weights, own_d_scores, rule, ColumnValues{block.shifts(tile.values) + first},
                 ColumnValues{block.deltas(tile.values) + first});
    const bool whole = tile.every.first <= block.key && block.key + 64 <= tile.every.last &&
                       query + Tiles::queries <= shape.seq_q && keys_finite;
    if (!whole) {
      hide(shape, own_weights, own_d_scores, query + first, block.key + warp_row,
           block.key_values() + warp_row);
    }
    auto d_out_turn = turn, value_turn = turn;
    block.query_values.release(value_turn);
    Fragment rows[Tiles::own_queries / 16][1];
    wait_for_added_d_q();
    named_barrier_sync(both_consumers, 256);  // nobody reads the weights before
    round_all<T>(own_weights, rows);
    store_rows(rows, weights, warp_row, first);
    round_all<T>(own_d_scores, rows);
    store_rows(rows, d_scores, warp_row, first);
    fence_proxy_async();
    named_barrier_sync(both_consumers, 256);

    wgmma_fence();
    add_product(d_v, weights, tile.d_out, col);
    wgmma_commit();
    const auto add_d_k = [&] {
      add_product(d_k, d_scores, tile.q, col);
      wgmma_commit();
      wgmma_wait<1>();
      pin(d_v.flat());
      block.d_out.release(d_out_turn);
    };
    const auto finish_d_k = [&] {
      wgmma_wait<0>();
      pin(d_k.flat());
    };
    // Either branch waits itself: behind them the compiler may move what a wgmma still writes.
    if (at.d_q_sum == nullptr) {
      wgmma_fence();
      add_d_k();
      finish_d_k();
    } else {
      Sum<1, Tiles::half / 8> d_q;
      pin(d_q.flat());
      wgmma_fence();
      multiply_columns(d_q, d_scores, 0, block.k(), col);
      wgmma_commit();
      add_d_k();
      pin(d_q.flat());
      add_d_q(block, maps, d_q, head, query, consumer);
      finish_d_k();
    }
    block.q.release(turn);
  });

#pragma unroll
  for (float& x : d_k.flat()) x *= shape.scale;
  store_key_gradients(block, maps, d_k, d_v, consumer);
}

}  // namespace megafm::cuda
