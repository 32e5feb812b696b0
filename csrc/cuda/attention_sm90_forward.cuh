// Attention forward for sm_90a: wgmma on tiles that bulk tensor copies (TMA) bring.
//
// The method is FlashAttention-3 (Shah et al. 2024, sections 3.1 and 3.2): one warpgroup brings tiles
// to rings of shared memory, two work on 64 queries each. A consumer issues the scores of the next
// keys before the product with the values of these, and takes the softmax of the one while the other
// runs; the two take turns in issuing, so that one's softmax falls into the other's products. The
// blocks stay and take tile after tile of queries, the longest first. Masks are looked at only on
// tiles that some query does not see whole, and there both consumers keep what is not finite in other
// documents out of the product. Query heads of one kv head run side by side and meet its keys in the
// L2 cache; where there are few queries, several of them fill a tile together ("pack").
//
// 4 * seq_q * seq_k * dim operations a head, half of it when causal. Never run on a GPU so far: the
// emulator and the compiler's output are what it was held to.

#pragma once

#include <algorithm>

#include "cuda/attention_documents.cuh"
#include "cuda/attention_maps.cuh"
#include "cuda/attention_softmax.cuh"
#include "cuda/tma_ring.cuh"

namespace megafm::cuda {

template <typename T, int width>
struct ForwardTilesSm90 {
  static constexpr int consumers = 2;
  static constexpr int consumer_rows = 64;  // of a wgmma
  static constexpr int rows = consumers * consumer_rows;
  static constexpr int keys = width <= 128 ? 128 : width == 192 ? 96 : 64;
  static constexpr int num_threads = 128 * (1 + consumers);
  static constexpr int stages = 2;
  // Together the 168 a thread that the block starts with.
  static constexpr int producer_registers = 24;
  static constexpr int consumer_registers = 240;

  using Queries = SwizzledTile<T, consumer_rows, width>;  // of one consumer; its output too
  using Keys = SwizzledTile<T, keys, width>;

  static constexpr uint32_t keys_begin = consumers * Queries::bytes;
  static constexpr uint32_t values_begin = keys_begin + stages * Keys::bytes;
  static constexpr uint32_t mbarriers_begin = values_begin + stages * Keys::bytes;
  static constexpr uint32_t votes_begin = mbarriers_begin + 8 * (2 + 4 * stages);
  static constexpr uint32_t shared_bytes = votes_begin + 2 * 4 * consumers * sizeof(int);
  static_assert(shared_bytes <= 227 << 10);
};

struct ForwardMaps {
  CUtensorMap q;
  CUtensorMap k;
  CUtensorMap v;
  CUtensorMap out;
};

// Tile `index` of rows in the order of work: within a section of packs of heads whose keys and values
// the L2 cache holds together, the last rows of all first: with a causal mask the longest.
struct Work {
  int row;
  int pack;
  int batch;
};

__device__ __forceinline__ Work work_of(const AttentionShape& shape, int index, int num_tiles,
                                        int tile, int packs_of_section) {
  const int section = index / (packs_of_section * num_tiles);
  const int within = index - section * packs_of_section * num_tiles;
  const int first = section * packs_of_section, packs = shape.heads >> shape.pack;
  const int here = min(packs_of_section, shape.batch * packs - first);
  const int pack = first + within % here;
  return {(num_tiles - 1 - within / here) * tile, pack % packs, pack / packs};
}

// What producer and consumers agree on.
template <typename T, int width>
struct ForwardBlock {
  using Tiles = ForwardTilesSm90<T, width>;
  using KeyRing = Ring<typename Tiles::Keys, Tiles::stages>;
  using KeyTurn = Turn<Tiles::stages>;

  AttentionShape shape;
  int num_tiles;
  int packs_of_section;
  uint32_t begin = shared_address(shared_memory<char>());
  uint32_t q_full = begin + Tiles::mbarriers_begin;
  uint32_t q_free = q_full + 8;
  KeyRing keys{begin + Tiles::keys_begin, q_free + 8};
  KeyRing values{begin + Tiles::values_begin, q_free + 8 + 16 * Tiles::stages};

  __device__ __forceinline__ typename Tiles::Queries queries(int consumer) const {
    return {begin + consumer * Tiles::Queries::bytes};
  }
  __device__ __forceinline__ bool has(int index) const {
    return index < num_tiles * (shape.heads >> shape.pack) * shape.batch;
  }
  __device__ __forceinline__ Work work(int index) const {
    return work_of(shape, index, num_tiles, Tiles::rows, packs_of_section);
  }
  // The tiles of keys that some row of the block sees: [first, last), first a multiple of a tile.
  __device__ __forceinline__ Interval keys_of(const Work& work) const {
    const Interval any = keys_of_tile(shape, work.row, Tiles::rows).any;
    return {any.first / Tiles::keys * Tiles::keys, any.last};
  }
};

// By one thread.
template <typename T, int width>
__device__ __forceinline__ void produce(const ForwardBlock<T, width>& block,
                                        const ForwardMaps& maps) {
  using Tiles = ForwardTilesSm90<T, width>;
  typename ForwardBlock<T, width>::KeyTurn key_turn, value_turn;
  uint32_t q_parity = 0;
  for (int index = blockIdx.x; block.has(index); index += gridDim.x) {
    const Work work = block.work(index);
    const Interval seen = block.keys_of(work);
    const int kv_head = (work.pack << block.shape.pack) / block.shape.group;
    const auto load_keys = [&](int key) {
      block.keys.load(key_turn, &maps.k, key, kv_head, work.batch);
    };
    if (seen.first < seen.last) load_keys(seen.first);  // while the output leaves its place
    mbarrier_wait(block.q_free, q_parity ^ 1);
    q_parity ^= 1;
    mbarrier_arrive_expect_tx(block.q_full, Tiles::consumers * Tiles::Queries::bytes);
    for (int i = 0; i < Tiles::consumers; ++i) {
      const int row = work.row + i * Tiles::consumer_rows;
      block.queries(i).load(&maps.q, block.q_full, 0, row >> block.shape.pack, work.pack,
                            work.batch);
    }
    for (int key = seen.first; key < seen.last; key += Tiles::keys) {
      if (key + Tiles::keys < seen.last) load_keys(key + Tiles::keys);
      block.values.load(value_turn, &maps.v, key, kv_head, work.batch);
    }
  }
}

// Named barriers, one for each consumer: its turn to issue.
__device__ __forceinline__ void wait_for_turn(int consumer) {
  named_barrier_sync(1 + consumer, 256);
}
__device__ __forceinline__ void pass_turn(int consumer) {
  named_barrier_arrive(2 - consumer, 256);
}

// Keeps what is not finite in the values of other documents from this consumer's rows. Both call it,
// on the same tile of values, which is here; `turn` counts the calls.
template <typename T, int width, int n>
__device__ __forceinline__ void set_values_apart(const ForwardBlock<T, width>& block,
                                                 Sum<1, n>& out,
                                                 typename ForwardTilesSm90<T, width>::Keys values,
                                                 int first_row, int key, int turn) {
  using Tiles = ForwardTilesSm90<T, width>;
  constexpr int num_warps = 4 * Tiles::consumers, num_threads = 32 * num_warps, rows = Tiles::keys;
  const int thread = threadIdx.x - 128, lane = thread % 32;
  const auto at = [&](int row, int col) {
    return shared_memory<T>(values.at(row, col) - block.begin);
  };
  // A vote of every warp; in two places by turns, one barrier a vote is enough.
  const auto votes = shared_memory<int>(Tiles::votes_begin) + turn % 2 * num_warps;
  const bool finite = finite_runs<num_threads, rows, width>(at, thread);
  const bool warp_finite = __all_sync(0xffffffff, finite);
  if (lane == 0) votes[thread / 32] = warp_finite;
  named_barrier_sync(5, num_threads);
  const int vote = votes[lane % num_warps];
  if (__all_sync(0xffffffff, vote)) return;
  add_what_is_not_finite<rows>(out, at, thread % 128 / 32 * 16, 0, [&](int row) {
    return keys_in_tile(block.shape, first_row + row, key);
  });
  named_barrier_sync(5, num_threads);
  zero_what_is_not_finite<num_threads, rows, width>(at, thread);
  fence_proxy_async();
  named_barrier_sync(5, num_threads);
}

// The output over the consumer's queries, and from there to global memory.
template <typename T, typename Queries, int n>
__device__ __forceinline__ void store_output(const Sum<1, n>& out, Queries to,
                                             const CUtensorMap* map, int query, const Work& work,
                                             int consumer, uint32_t q_free) {
  const int thread = threadIdx.x % 128, lane = thread % 32;
  named_barrier_sync(3 + consumer, 128);  // nobody reads the queries
#pragma unroll
  for (int j = 0; j < n; j += 2) {
    Fragment block[1];
    round_columns<T>(out, j / 2, block);
    stmatrix<4>(to.at(thread / 32 * 16 + lane % 16, 8 * j + lane / 16 * 8), block[0].word);
  }
  fence_proxy_async();
  named_barrier_sync(3 + consumer, 128);
  if (thread == 0) {
    to.store(map, 0, 0, query, work.pack, work.batch);
    bulk_commit();
    bulk_wait_read<0>();
    mbarrier_arrive(q_free);
  }
}

template <typename T, int width>
__device__ __forceinline__ void consume(const AttentionForward& at,
                                        const ForwardBlock<T, width>& block,
                                        const ForwardMaps& maps, int consumer) {
  using Tiles = ForwardTilesSm90<T, width>;
  constexpr int n = Tiles::keys / 8, steps = Tiles::keys / 16;
  const AttentionShape& shape = at.shape;
  const int lane = threadIdx.x % 32, warp_row = threadIdx.x % 128 / 32 * 16;
  const typename Tiles::Queries q = block.queries(consumer);
  const ScoreRule rule(shape);
  typename ForwardBlock<T, width>::KeyTurn key_turn, value_turn;
  uint32_t q_parity = 0;
  int num_votes = 0;
  Sum<1, n> scores;
  Sum<1, width / 8> out;
  Fragment weights[steps][1];

  if (consumer == 1) pass_turn(consumer);
  for (int index = blockIdx.x; block.has(index); index += gridDim.x) {
    const Work work = block.work(index);
    const Interval seen = block.keys_of(work);
    const int row = work.row + consumer * Tiles::consumer_rows;
    const Interval every = keys_of_tile(shape, row, Tiles::consumer_rows).every;
    RunningSoftmax<1> softmax;
    const auto exponentials = [&](int key) {
      apply_rule(rule, scores);
      if (key < every.first || key + Tiles::keys > every.last) {
        mask_scores(shape, scores, row + warp_row, key);
      }
      return softmax.update(scores, rule.to_log2);
    };
    const auto round_weights = [&] {
#pragma unroll
      for (int step = 0; step < steps; ++step) round_columns<T>(scores, step, weights[step]);
    };
    const Interval every_of_block = keys_of_tile(shape, work.row, Tiles::rows).every;
    const auto set_apart_at = [&](int key) {
      if (shape.keys_of_queries == nullptr) return;
      if (every_of_block.first <= key && key + Tiles::keys <= every_of_block.last) return;
      set_values_apart(block, out, block.values.wait(value_turn), row, key, num_votes++);
    };
    out.clear();
    mbarrier_wait(block.q_full, q_parity);
    q_parity ^= 1;
    if (seen.first < seen.last) {
      const auto k = block.keys.wait(key_turn);
      pin(scores.flat());
      wgmma_fence();
      multiply_rows(scores, q, 0, k, 0);
      wgmma_commit();
      wgmma_wait<0>();
      pin(scores.flat());
      block.keys.release(key_turn);
      exponentials(seen.first);
      round_weights();
      int key = seen.first + Tiles::keys;
      for (; key < seen.last; key += Tiles::keys) {
        set_apart_at(key - Tiles::keys);
        const auto next_k = block.keys.wait(key_turn);
        wait_for_turn(consumer);
        wgmma_fence();
        multiply_rows(scores, q, 0, next_k, 0);
        wgmma_commit();
        const auto v = block.values.wait(value_turn);
        wgmma_fence();
        add_product(out, weights, v, 0);
        wgmma_commit();
        pass_turn(consumer);
        wgmma_wait<1>();
        pin(scores.flat());
        block.keys.release(key_turn);
        const RowFactors<1> shrinks = exponentials(key);
        wgmma_wait<0>();
        pin(out.flat());
        block.values.release(value_turn);
        scale_rows(out, shrinks);
        round_weights();
      }
      set_apart_at(key - Tiles::keys);
      const auto v = block.values.wait(value_turn);
      wgmma_fence();
      add_product(out, weights, v, 0);
      wgmma_commit();
      wgmma_wait<0>();
      pin(out.flat());
      block.values.release(value_turn);
    }

    RowFactors<1> factors;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      const int own = row + warp_row + 8 * h + lane / 4;
      const int head = (work.pack << shape.pack) + (own & ((1 << shape.pack) - 1));
      const float sink = at.sinks == nullptr ? -INFINITY : at.sinks[head] * log2_e;
      const RowEnd end = softmax.finish(0, h, rule.to_log2, sink);
      factors.at[0][h] = end.factor;
      if (lane % 4 == 0 && own < num_rows(shape)) {
        at.lse[(int64_t{work.batch} * shape.heads + head) * shape.seq_q + (own >> shape.pack)] =
            end.lse;
      }
    }
    scale_rows(out, factors);
    store_output<T>(out, q, &maps.out, row >> shape.pack, work, consumer, block.q_free);
  }
  if (consumer == 0) wait_for_turn(consumer);  // the last that was passed
  if (threadIdx.x % 128 == 0) bulk_wait<0>();
}

template <typename T, int width>
__global__ void __launch_bounds__(ForwardTilesSm90<T, width>::num_threads, 1)
    attention_forward_sm90_kernel(const AttentionForward at,
                                  const __grid_constant__ ForwardMaps maps, int num_tiles,
                                  int packs_of_section) {
  using Tiles = ForwardTilesSm90<T, width>;
  const ForwardBlock<T, width> block{at.shape, num_tiles, packs_of_section};
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), consumer = warp / 4 - 1;
  if (threadIdx.x == 0) {
    prefetch(maps.k, maps.q, maps.v);
    mbarrier_init(block.q_full, 1);
    mbarrier_init(block.q_free, Tiles::consumers);
    block.keys.init(4 * Tiles::consumers);
    block.values.init(4 * Tiles::consumers);
    fence_mbarrier_init();
  }
  __syncthreads();
  if (consumer < 0) {
    setmaxnreg_dec<Tiles::producer_registers>();
    if (warp == 0 && elect_one()) produce(block, maps);
  } else {
    setmaxnreg_inc<Tiles::consumer_registers>();
    consume(at, block, maps, consumer);
  }
}

// Packs of query heads whose keys and values fit into half of the L2 cache, at least those of one kv
// head.
inline int packs_of_section(const AttentionShape& shape) {
  const int64_t of_kv_head = int64_t{shape.seq_k} * (shape.dim + shape.dim_v) * 2;
  const int64_t kv_heads = std::max<int64_t>(1, l2_cache_bytes() / 2 / of_kv_head);
  return static_cast<int>(
      std::min<int64_t>(kv_heads * shape.group, int64_t{shape.batch} * shape.heads) >> shape.pack);
}

// As many heads side by side as saves a tenth of the tiles: all rows of few queries, none of many.
inline int pack_of(const AttentionShape& shape, int rows) {
  const auto num_tiles = [&](int pack) {
    return ((int64_t{shape.seq_q} << pack) + rows - 1) / rows * (shape.heads >> pack);
  };
  int best = 0;
  for (int pack = 1; shape.group % (1 << pack) == 0 && 1 << pack <= rows / 2; ++pack) {
    if (10 * num_tiles(pack) < 9 * num_tiles(best)) best = pack;
  }
  return best;
}

template <typename T, int width>
void launch_attention_forward_sm90(AttentionForward at, void* stream) {
  using Tiles = ForwardTilesSm90<T, width>;
  at.shape.pack = pack_of(at.shape, Tiles::rows);
  const AttentionShape& shape = at.shape;
  using Queries = typename Tiles::Queries;
  using Keys = typename Tiles::Keys;
  const ForwardMaps maps{
      .q = rows_map<Queries>(shape, at.q, shape.dim),
      .k = keys_map<Keys>(shape, at.k, shape.dim),
      .v = keys_map<Keys>(shape, at.v, shape.dim_v),
      .out = rows_map<Queries>(shape, at.out, shape.dim_v),
  };
  const int rows = shape.seq_q << shape.pack, num_tiles = (rows + Tiles::rows - 1) / Tiles::rows;
  const int64_t total = int64_t{num_tiles} * (shape.heads >> shape.pack) * shape.batch;
  launch(attention_forward_sm90_kernel<T, width>,
         dim3(static_cast<unsigned>(std::min<int64_t>(total, num_multiprocessors()))),
         dim3(Tiles::num_threads), Tiles::shared_bytes, static_cast<cudaStream_t>(stream), at, maps,
         num_tiles, packs_of_section(shape));
}

template <int width>
void attention_forward_sm90(const AttentionForward& at, void* stream) {
  if (at.storage == Storage::bf16) {
    launch_attention_forward_sm90<__nv_bfloat16, width>(at, stream);
  } else {
    launch_attention_forward_sm90<__half, width>(at, stream);
  }
}

}  // namespace megafm::cuda
