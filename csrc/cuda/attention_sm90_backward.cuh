// Attention backward for sm_90a: wgmma on tiles that bulk tensor copies (TMA) bring.
//
//   p = exp(score - lse)      d_v = p.T d_out      d_s = p * (d_out v.T - delta) * slope
//   d_k = scale d_s.T q       d_q = scale d_s k
//
// A block of threads holds a tile of keys; one warpgroup brings the queries that see any of them, of
// all heads that share them, and two compute, with scores transposed: rows are keys. It is the method
// of FlashAttention-3 (Shah et al. 2024, appendix B.1), but that d_q is added up in memory by bulk
// reductions of the warpgroups that made it. In deterministic mode d_q is left to
// attention_sm90_backward_queries.cuh. How the work is divided depends on the width, and is said in
// attention_sm90_backward_narrow.cuh and _wide.cuh.
//
// 10 * seq_q * seq_k * dim operations a head, half of it when causal. Never run on a GPU so far: the
// emulator and the compiler's output are what it was held to.

#pragma once

#include "cuda/attention_sm90_backward_narrow.cuh"
#include "cuda/attention_sm90_backward_queries.cuh"
#include "cuda/attention_sm90_backward_wide.cuh"

namespace megafm::cuda {

template <typename T, int width>
using BackwardTilesSm90 =
    std::conditional_t<(width <= 128), NarrowTiles<T, width>, WideTiles<T, width>>;

template <typename Tiles>
__global__ void __launch_bounds__(Tiles::num_threads, 1)
    attention_backward_keys_sm90_kernel(const AttentionBackward at,
                                   const __grid_constant__ BackwardMaps maps) {
  const BackwardBlock<Tiles> block(at.shape);
  const int warp = __shfl_sync(0xffffffff, threadIdx.x / 32, 0), consumer = warp / 4 - 1;
  if (threadIdx.x == 0) {
    constexpr int num_warps = 4 * Tiles::consumers;
    prefetch(maps.k, maps.v, maps.q, maps.d_out);
    mbarrier_init(block.keys_full, 1);
    block.q.init(num_warps);
    block.d_out.init(num_warps);
    block.query_values.init(num_warps);
    fence_mbarrier_init();
  }
  if (threadIdx.x < Tiles::keys) block.key_values()[threadIdx.x] = 0;
  __syncthreads();
  if (consumer < 0) {
    setmaxnreg_dec<Tiles::producer_registers>();
    if (warp == 0) {
      if (elect_one()) bring_tiles(block, maps);
    } else if (warp == 1) {
      bring_query_values(at, block);
    }
  } else {
    setmaxnreg_inc<Tiles::consumer_registers>();
    consume(at, block, maps, consumer);
  }
}

template <typename Tiles>
void launch_keys_sm90(const AttentionBackward& at, void* stream) {
  const AttentionShape& shape = at.shape;
  using Queries = typename Tiles::Queries;
  using Keys = typename Tiles::Keys;
  using Gradients = typename Tiles::KeyGradients;
  BackwardMaps maps{
      .q = queries_map<Queries>(shape, at.q, shape.dim),
      .d_out = queries_map<Queries>(shape, at.d_out, shape.dim_v),
      .k = keys_map<Keys>(shape, at.k, shape.dim),
      .v = keys_map<Keys>(shape, at.v, shape.dim_v),
      .d_q_sum = {},
      .d_k = keys_map<Gradients>(shape, at.d_k, shape.dim),
      .d_v = keys_map<Gradients>(shape, at.d_v, shape.dim_v),
  };
  if (at.d_q_sum != nullptr) {
    const int64_t row = int64_t{shape.heads} * shape.dim;
    maps.d_q_sum = tile_map<typename Tiles::QueryGradients>(
        at.d_q_sum, shape.batch, shape.seq_q, shape.heads, shape.dim,
        {row, shape.dim, shape.seq_q * row});
  }
  const int64_t num_tiles = (shape.seq_k + Tiles::keys - 1) / Tiles::keys;
  launch(attention_backward_keys_sm90_kernel<Tiles>,
         dim3(static_cast<unsigned>(num_tiles * shape.heads / shape.group * shape.batch)), dim3(Tiles::num_threads),
         BackwardMemory<Tiles>::bytes, static_cast<cudaStream_t>(stream), at, maps);
}

template <typename T, int width>
void launch_attention_backward_sm90(const AttentionBackward& at, void* stream) {
  launch_keys_sm90<BackwardTilesSm90<T, width>>(at, stream);
  if (at.d_q_sum == nullptr) {
    launch_queries_sm90<QueryTiles<T, width>>(at, stream);
  }
}

template <int width>
void attention_backward_sm90(const AttentionBackward& at, void* stream) {
  if (at.storage == Storage::bf16) {
    launch_attention_backward_sm90<__nv_bfloat16, width>(at, stream);
  } else {
    launch_attention_backward_sm90<__half, width>(at, stream);
  }
}

}  // namespace megafm::cuda
