// wgmma: products of a warpgroup on matrices in shared memory, asynchronous; and setmaxnreg.
//
// Each warp makes its 16 rows of the product when it waits for it. From the issue on, accumulators
// hold a NaN; operands in shared memory are looked at when issued (a word in four) and when waited
// for, so that a write in between is found.

#pragma once

#include <memory>

#include "emulator/warp.h"

namespace megafm::emulator {

constexpr uint32_t max_n = 256;

// What one lane passes: d += a b or d = a b, a 64 x 16 (16 rows a warp), b 16 x n.
struct Wgmma {
  float* d;                     // n / 2
  const uint32_t* a_registers;  // 4, or nullptr: the descriptor
  uint64_t a, b;
  uint32_t n;
  bool is_bf16, transposed_a, transposed_b, accumulates;
};

struct WarpProducts {
  struct Sum {  // of this warp, one per accumulator array
    float* d[warp_size];
    uint32_t n;
    uint32_t products;  // under way
    alignas(32) float rows[16][max_n];
  };
  struct Product {
    Wgmma operation;
    uint32_t a_registers[warp_size][4];
    uint32_t group;
    std::shared_ptr<Sum> sum;
  };
  std::vector<Product> under_way;
  std::vector<uint64_t> issued;  // a digest of each, which the warps of a warpgroup share
  uint32_t committed = 0;
  bool fenced = false;  // wgmma_fence since the last wait
};

void wgmma(const Wgmma& operation);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(uint32_t pending);

// The registers of a block, which setmaxnreg moves between its warps.
struct Registers {
  uint32_t free;     // given back and not yet taken
  uint32_t version;  // how often that changed
  std::vector<uint32_t> per_thread;  // of each warp
  std::vector<Thread*> waiting;

  void reset(Block& block);
};
void set_max_registers(uint32_t count, bool increases);

void fence_proxy_async();

}  // namespace megafm::emulator
