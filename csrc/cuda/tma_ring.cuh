// Rings of tiles in shared memory, which one thread fills by bulk tensor copies and warps empty.

#pragma once

#include "cuda/ptx_sm90.cuh"

namespace megafm::cuda {

// Fetches tensor maps ahead of their first use.
template <typename... Maps>
__device__ __forceinline__ void prefetch(const Maps&... maps) {
  (tma_prefetch(&maps), ...);
}

// A place of a ring, and the parity of the phase in which it is filled.
template <int stages>
struct Turn {
  int stage = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void next() {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

// Tiles in shared memory, each with an mbarrier that says that it is full and one that it is free.
template <typename Tile, int stages>
struct Ring {
  uint32_t tiles;
  uint32_t mbarriers;

  __device__ __forceinline__ Tile tile(int stage) const {
    return {tiles + stage * Tile::bytes};
  }
  __device__ __forceinline__ uint32_t full(int stage) const { return mbarriers + 16 * stage; }
  __device__ __forceinline__ uint32_t free(int stage) const { return full(stage) + 8; }

  // By one thread.
  __device__ __forceinline__ void init(int num_releases) const {
    for (int stage = 0; stage < stages; ++stage) {
      mbarrier_init(full(stage), 1);
      mbarrier_init(free(stage), num_releases);
    }
  }

  __device__ __forceinline__ void load(Turn<stages>& turn, const CUtensorMap* map, int row,
                                       int head, int batch) const {
    mbarrier_wait(free(turn.stage), turn.parity ^ 1);
    mbarrier_arrive_expect_tx(full(turn.stage), Tile::bytes);
    tile(turn.stage).load(map, full(turn.stage), row, head, batch);
    turn.next();
  }

  __device__ __forceinline__ Tile wait(const Turn<stages>& turn) const {
    mbarrier_wait(full(turn.stage), turn.parity);
    return tile(turn.stage);
  }

  // By every warp that read it.
  __device__ __forceinline__ void release(Turn<stages>& turn) const {
    __syncwarp();
    if (threadIdx.x % 32 == 0) mbarrier_arrive(free(turn.stage));
    turn.next();
  }
};

}  // namespace megafm::cuda
