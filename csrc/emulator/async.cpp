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
  bulk_groups.assign(block.num_threads(), {});
  mbarriers.clear();
  mbarriers.reserve(num_engines);
  products.assign(block.num_warps(), {});
  registers.reset(block);
}

std::string AsyncState::unfinished() const {
  const std::string ended = "the block ended with ";
  for (size_t thread = 0; thread < copy_groups.size(); ++thread) {
    const std::string of_thread = " of thread " + std::to_string(thread) + " not waited for";
    if (!copy_groups[thread].copies.empty()) {
      return ended + std::to_string(copy_groups[thread].copies.size()) + " cp.async" + of_thread;
    }
    if (!bulk_groups[thread].copies.empty()) {
      return ended + std::to_string(bulk_groups[thread].copies.size()) + " bulk stores" + of_thread;
    }
  }
  for (size_t warp = 0; warp < products.size(); ++warp) {
    if (!products[warp].under_way.empty()) {
      return ended + "wgmma of warp " + std::to_string(warp) + " not waited for";
    }
    if (products[warp].issued.size() != products[warp / 4 * 4].issued.size()) {
      return ended + "warps of a warpgroup that issued different numbers of wgmma";
    }
  }
  const std::string left = describe_mbarriers();
  return left.empty() ? left : ended + "an mbarrier in use\n" + left;
}

std::string AsyncState::describe_mbarriers() const {
  std::string text;
  for (const Mbarrier& barrier : mbarriers) {
    if (barrier.pending == barrier.count && barrier.bytes == 0 && barrier.copies.empty()) continue;
    text += "  mbarrier at " + std::to_string(barrier.address) + ": phase " +
            std::to_string(barrier.phase) + " lacks " + std::to_string(barrier.pending) + " of " +
            std::to_string(barrier.count) + " arrivals and " + std::to_string(barrier.bytes) +
            " bytes, with " + std::to_string(barrier.copies.size()) + " copies under way\n";
  }
  return text;
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
