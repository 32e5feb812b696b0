// Copies that run behind their threads' backs: cp.async. A copy is made when its thread waits for
// it; until then nobody may touch the destination.

#pragma once

#include "emulator/block.h"

namespace megafm::emulator {

struct CopyGroups {
  struct Copy {
    uint32_t to, bytes, source_bytes, group;
    const void* from;
  };
  std::vector<Copy> copies;  // under way
  uint32_t committed = 0;    // groups so far; the open one has this number
};

struct AsyncState {
  std::vector<CopyGroups> copy_groups;  // per thread

  void reset(Block& block);
  // What is still under way as the block ends, or nothing.
  std::string unfinished() const;
};

void cp_async(uint32_t to, const void* from, uint32_t bytes, int source_bytes);
void cp_async_commit();
void cp_async_wait(uint32_t pending);

}  // namespace megafm::emulator
