// What runs behind the threads' backs: cp.async, bulk copies, mbarriers, wgmma. It is done when
// its thread waits for it; until then nobody may touch the destination.

#pragma once

#include <functional>

#include "emulator/mbarrier.h"
#include "emulator/wgmma.h"

namespace megafm::emulator {

struct CopyGroups {
  struct Copy {
    uint32_t to, bytes, source_bytes, group;
    const void* from;
  };
  std::vector<Copy> copies;  // under way
  uint32_t committed = 0;    // groups so far; the open one has this number
};

// Bulk copies from shared to global memory.
struct BulkGroups {
  struct Copy {
    uint32_t group;
    std::function<void()> copy;
  };
  std::vector<Copy> copies;
  uint32_t committed = 0;

  void add(std::function<void()> copy) { copies.push_back({committed, std::move(copy)}); }
};

struct AsyncState {
  std::vector<CopyGroups> copy_groups;  // per thread
  std::vector<BulkGroups> bulk_groups;  // per thread
  std::vector<Mbarrier> mbarriers;
  std::vector<WarpProducts> products;   // per warp
  Registers registers;

  void reset(Block& block);
  // What is still under way as the block ends, or nothing.
  std::string unfinished() const;
  // The mbarriers of which something is missing, a line each.
  std::string describe_mbarriers() const;
};

void cp_async(uint32_t to, const void* from, uint32_t bytes, int source_bytes);
void cp_async_commit();
void cp_async_wait(uint32_t pending);

}  // namespace megafm::emulator
