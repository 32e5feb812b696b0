#include "emulator/mbarrier.h"

#include "emulator/async.h"

namespace megafm::emulator {
namespace {

constexpr uint32_t most_polls = 1u << 20;  // try_wait in a loop, in vain

Mbarrier* find(uint32_t address) {
  for (Mbarrier& barrier : current->block->async().mbarriers) {
    if (barrier.address == address) return &barrier;
  }
  return nullptr;
}

Mbarrier& get(uint32_t address, const char* what) {
  Thread& self = *current;
  self.block->check_shared(address, 8, 8);
  Mbarrier* barrier = find(address);
  const bool ordered = barrier != nullptr && (self.block->shadow() == nullptr ||
                                              barrier->initialiser == self.id ||
                                              barrier->initialised_at <=
                                                  self.seen.of(barrier->initialiser));
  if (!ordered) {
    const std::string name = std::string(what) + " of the mbarrier at " + std::to_string(address);
    if (barrier == nullptr) self.block->fail(name + ", which is not initialised");
    self.block->fail(name + ": nothing orders it behind the init by thread " +
                     std::to_string(barrier->initialiser));
  }
  return *barrier;
}

void complete_if_due(Mbarrier& barrier) {
  if (barrier.pending != 0 || barrier.bytes != 0) return;
  Block& block = *current->block;
  if (block.shadow() != nullptr) {
    Join join(Block::join(barrier.arrivals));
    join.add(barrier.released);
    join.add(barrier.engine, barrier.engine_clock);
    barrier.released = join.take();
    barrier.arrivals.clear();
  }
  barrier.pending = barrier.count;
  ++barrier.phase;
  for (Thread* thread : barrier.waiting) block.wake(*thread);
  barrier.waiting.clear();
}

bool has_passed(const Mbarrier& barrier, uint32_t parity) {
  return (barrier.phase & 1) != parity;
}

// Whether the phase of this parity is over. If not, the copies under way are made first.
bool is_over(uint32_t address, uint32_t parity) {
  Mbarrier& barrier = get(address, "wait");
  if (parity > 1) current->block->fail("a phase's parity is 0 or 1");
  if (!has_passed(barrier, parity)) {
    const auto copies = std::move(barrier.copies);
    barrier.copies.clear();
    for (const auto& copy : copies) copy(barrier);
  }
  if (!has_passed(barrier, parity)) return false;
  if (current->block->shadow() != nullptr) current->block->acquire(*current, barrier.released);
  return true;
}

}  // namespace

void mbarrier_init(uint32_t address, uint32_t count) {
  Block& block = *current->block;
  block.check_shared(address, 8, 8);
  if (count == 0 || count >= 1u << 20) {
    block.fail("an mbarrier counts 1 to 2^20 - 1 arrivals, not " + std::to_string(count));
  }
  if (find(address) != nullptr) block.fail("mbarrier_init of a live mbarrier");
  block.write(address, 8, Access::plain);
  if (Shadow* shadow = block.shadow()) shadow->mark_barrier(address - shared_base, true);
  Mbarrier barrier{};
  barrier.address = address;
  barrier.count = barrier.pending = count;
  barrier.initialiser = current->id;
  barrier.initialised_at = current->clock;
  auto& all = block.async().mbarriers;
  barrier.engine = block.num_threads() + static_cast<uint32_t>(all.size()) % num_engines;
  barrier.released = current->seen;
  all.push_back(std::move(barrier));
}

void mbarrier_inval(uint32_t address) {
  Block& block = *current->block;
  const Mbarrier& barrier = get(address, "invalidation");
  if (!barrier.waiting.empty() || !barrier.copies.empty()) {
    block.fail("mbarrier_inval of an mbarrier in use");
  }
  if (Shadow* shadow = block.shadow()) shadow->mark_barrier(address - shared_base, false);
  block.write(address, 8, Access::plain);
  auto& all = block.async().mbarriers;
  all.erase(all.begin() + (&barrier - all.data()));
}

void mbarrier_arrive(uint32_t address, uint32_t expected_bytes) {
  Mbarrier& barrier = get(address, "arrival");
  if (barrier.pending == 0) {
    current->block->fail("arrives at the mbarrier at " + std::to_string(address) +
                         " more often than its " + std::to_string(barrier.count) + " times");
  }
  current->block->release(*current, barrier.arrivals);
  barrier.bytes += expected_bytes;
  --barrier.pending;
  complete_if_due(barrier);
}

bool mbarrier_try_wait(uint32_t address, uint32_t parity) {
  if (is_over(address, parity)) return true;
  current->block->yield();
  const bool over = is_over(address, parity);
  current->polls = over ? 0 : current->polls + 1;
  if (current->polls > most_polls) {
    current->block->fail("polls the mbarrier at " + std::to_string(address) + " in vain");
  }
  return over;
}

void mbarrier_wait(uint32_t address, uint32_t parity) {
  uint32_t began = 0;
  for (bool first = true; !is_over(address, parity); first = false) {
    Mbarrier& barrier = get(address, "wait");
    if (first) began = barrier.phase;
    if (barrier.phase >= began + 2) {
      current->block->fail("two phases of the mbarrier at " + std::to_string(address) +
                           " went by while it waited for the first: nothing held the second back");
    }
    barrier.waiting.push_back(current);
    current->block->suspend({"mbarrier at %u, parity %u", address, parity});
  }
}

void fence_mbarrier_init() {
  for (Mbarrier& barrier : current->block->async().mbarriers) {
    if (barrier.initialiser == current->id) barrier.fenced = true;
  }
}

void start_copy(uint32_t address, std::function<void(Mbarrier&)> copy) {
  Mbarrier& barrier = get(address, "copy");
  if (!barrier.fenced) {
    current->block->fail("a copy on the mbarrier at " + std::to_string(address) +
                         ", whose init no fence_mbarrier_init made visible");
  }
  barrier.copies.push_back(std::move(copy));
  for (Thread* thread : barrier.waiting) current->block->wake(*thread);
  barrier.waiting.clear();
}

void bring_bytes(Mbarrier& barrier, uint32_t bytes) {
  barrier.bytes -= bytes;
  complete_if_due(barrier);
}

}  // namespace megafm::emulator
