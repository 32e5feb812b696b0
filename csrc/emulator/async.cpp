#include "emulator/async.h"

#include <cstring>

#include "emulator/memory.h"

namespace megafm::emulator {
namespace {

CopyGroups& own_groups() {
  return current->block->async().copy_groups[current->id];
}

void make_copy(Block& block, const CopyGroups::Copy& copy) {
  char* to = block.shared(copy.to);
  std::memcpy(to, copy.from, copy.source_bytes);
  std::memset(to + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
  if (Shadow* shadow = block.shadow()) {
    shadow->land_copy(copy.to - shared_base, copy.bytes, Access::plain, current->id,
                      current->clock);
  }
}

}  // namespace

void AsyncState::reset(Block& block) {
  copy_groups.assign(block.num_threads(), {});
}

std::string AsyncState::unfinished() const {
  for (size_t thread = 0; thread < copy_groups.size(); ++thread) {
    if (copy_groups[thread].copies.empty()) continue;
    return "the block ended with " + std::to_string(copy_groups[thread].copies.size()) +
           " cp.async of thread " + std::to_string(thread) + " not waited for";
  }
  return {};
}

void cp_async(uint32_t to, const void* from, uint32_t bytes, int source_bytes) {
  Block& block = *current->block;
  if (source_bytes < 0 || source_bytes > static_cast<int>(bytes)) {
    block.fail("cp.async of " + std::to_string(source_bytes) + " bytes into " +
               std::to_string(bytes));
  }
  block.check_shared(to, bytes, bytes);
  if (source_bytes > 0) check_global(from, static_cast<size_t>(source_bytes), bytes);
  if (Shadow* shadow = block.shadow()) {
    shadow->begin_copy(*current, to - shared_base, bytes, Access::plain);
  }
  CopyGroups& groups = own_groups();
  groups.copies.push_back({to, bytes, static_cast<uint32_t>(source_bytes), groups.committed, from});
}

void cp_async_commit() {
  ++own_groups().committed;
}

void cp_async_wait(uint32_t pending) {
  CopyGroups& groups = own_groups();
  size_t done = 0;
  while (done < groups.copies.size() && groups.copies[done].group + pending < groups.committed) {
    make_copy(*current->block, groups.copies[done++]);
  }
  groups.copies.erase(groups.copies.begin(), groups.copies.begin() + static_cast<ptrdiff_t>(done));
}

}  // namespace megafm::emulator
