// Attention backward for sm_90a, heads of up to 128: a block has 128 keys, a consumer 64 of them.
//
// So p and d_s of its keys stay in registers, as left operands for d_v and d_k. d_s alone goes through
// shared memory, to d_q, of which each consumer makes a part for all keys.

#pragma once

#include "cuda/attention_sm90_backward_block.cuh"

namespace megafm::cuda {

template <typename T, int width>
struct NarrowTiles : BackwardThreads {
  static constexpr int keys = 128;
  static constexpr int queries = width == 64 ? 128 : 64;
  static constexpr int stages = 2;

  using Keys = SwizzledTile<T, keys, width>;
  using Queries = SwizzledTile<T, queries, width>;
  using Weights = SwizzledTile<T, keys, queries>;

  // Where the second consumer's parts begin: of d_k and d_v, and of d_q, half of the queries or the
  // columns from 64 on, which are half but of 96.
  static constexpr int key_row = 64, key_col = 0;
  static constexpr int d_q_row = queries == 128 ? 64 : 0, d_q_col = queries == 128 ? 0 : 64;
  using KeyGradients = SwizzledTile<T, 64, width>;
  using QueryGradients = SwizzledTile<float, 64, 64>;
};

template <typename T, int width>
__device__ __forceinline__ void consume(const AttentionBackward& at,
                                        const BackwardBlock<NarrowTiles<T, width>>& block,
                                        const BackwardMaps& maps, int consumer) {
  using Tiles = NarrowTiles<T, width>;
  constexpr int steps = Tiles::queries / 16;
  const AttentionShape& shape = at.shape;
  const int warp_row = threadIdx.x % 128 / 32 * 16;
  const int row = consumer * Tiles::key_row, key = block.key + row;
  const ScoreRule rule(shape);
  Turn<Tiles::stages> turn;
  int place = 0;
  Sum<1, width / 8> d_k, d_v;
  d_k.clear();
  d_v.clear();
  mbarrier_wait(block.keys_full, 0);
  const bool keys_finite = shape.keys_of_queries == nullptr || set_keys_apart(block);

  block.for_tiles([&](int head, int query) {
    const auto tile = wait_for_queries(block, turn, query);
    Sum<1, Tiles::queries / 8> scores, d_weights;
    pin(scores.flat());
    pin(d_weights.flat());
    wgmma_fence();
    multiply_rows(scores, block.k(), row, tile.q, 0);
    wgmma_commit();
    multiply_rows(d_weights, block.v(), row, tile.d_out, 0);
    wgmma_commit();
    wgmma_wait<1>();
    pin(scores.flat());
    to_gradients(scores, d_weights, rule, ColumnValues{block.shifts(tile.values)},
                 ColumnValues{block.deltas(tile.values)});
    const bool whole = tile.every.first <= key && key + 64 <= tile.every.last &&
                       query + Tiles::queries <= shape.seq_q && keys_finite;
    if (!whole) {
      hide(shape, scores, d_weights, query, key + warp_row, block.key_values() + row + warp_row);
    }
    Fragment weights[steps][1], d_scores[steps][1];
    round_all<T>(scores, weights);
    round_all<T>(d_weights, d_scores);
    auto d_out_turn = turn, value_turn = turn;
    block.query_values.release(value_turn);

    wgmma_fence();
    add_product(d_v, weights, tile.d_out, 0);
    wgmma_commit();
    const auto add_d_k = [&] {
      wgmma_fence();
      add_product(d_k, d_scores, tile.q, 0);
      wgmma_commit();
      wgmma_wait<1>();
      pin(d_v.flat());
      block.d_out.release(d_out_turn);
    };
    const auto add_both = [&]<int n>() {
      const auto all_d_scores = block.weights(place);
      place ^= 1;
      store_rows(d_scores, all_d_scores, row + warp_row, 0);
      fence_proxy_async();
      wait_for_added_d_q();
      named_barrier_sync(both_consumers, 256);
      Sum<1, n> d_q;
      pin(d_q.flat());
      wgmma_fence();
      multiply_columns(d_q, all_d_scores, consumer * Tiles::d_q_row, block.k(),
                       consumer * Tiles::d_q_col);
      wgmma_commit();
      add_d_k();
      pin(d_q.flat());
      add_d_q(block, maps, d_q, head, query, consumer);
    };
    const auto finish_d_k = [&] {
      wgmma_wait<0>();
      pin(d_k.flat());
    };
    // Every branch waits itself: behind them the compiler may move what a wgmma still writes.
    if (at.d_q_sum == nullptr) {
      add_d_k();
      finish_d_k();
    } else if (width == 96 && consumer == 1) {
      add_both.template operator()<4>();
      finish_d_k();
    } else {
      add_both.template operator()<8>();
      finish_d_k();
    }
    block.q.release(turn);
  });

#pragma unroll
  for (float& x : d_k.flat()) x *= shape.scale;
  store_key_gradients(block, maps, d_k, d_v, consumer);
}

}  // namespace megafm::cuda
