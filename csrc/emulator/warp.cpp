#include "emulator/warp.h"

#include <cstdio>

namespace megafm::emulator {
namespace {

bool is_complete(const Warp& warp, const Warp::Gather& gather) {
  return (gather.mask & warp.alive & ~gather.arrived) == 0;
}

// Run the gather, which is over, and wake its lanes but the running one.
void finish(Warp& warp, size_t index) {
  const Warp::Gather gather = warp.gathers[index];
  warp.gathers.erase(warp.gathers.begin() + static_cast<ptrdiff_t>(index));
  gather.operation(warp, gather.arrived);
  for (uint32_t rest = gather.arrived; rest != 0; rest &= rest - 1) {
    Thread& thread = warp.threads[__builtin_ctz(rest)];
    if (&thread != current) thread.block->wake(thread);
  }
}

[[noreturn]] void fail_mismatch(const char* name, uint32_t mask, const Warp::Gather& other) {
  char text[200];
  std::snprintf(text, sizeof text,
                "%s with mask %08x, while lanes %08x of the warp wait in %s with mask %08x", name,
                mask, other.arrived, other.name, other.mask);
  current->block->fail(text);
}

}  // namespace

void gather(WarpOperation operation, const char* name, uint32_t mask, void* operand) {
  Thread& self = *current;
  Warp& warp = *self.warp;
  const uint32_t lane_bit = 1u << self.lane;
  if (!(mask & lane_bit)) self.block->fail(std::string(name) + ": the mask lacks the caller");
  warp.operand[self.lane] = operand;
  size_t index = 0;
  for (; index < warp.gathers.size(); ++index) {
    const Warp::Gather& other = warp.gathers[index];
    if (other.operation == operation && other.mask == mask) break;
    if (other.mask & mask) fail_mismatch(name, mask, other);
  }
  if (index == warp.gathers.size()) warp.gathers.push_back({operation, name, mask, 0});
  warp.gathers[index].arrived |= lane_bit;
  if (is_complete(warp, warp.gathers[index])) {
    finish(warp, index);
  } else {
    self.block->suspend({name, mask, 0});
  }
}

void finish_gathers(Warp& warp) {
  for (size_t index = 0; index < warp.gathers.size();) {
    if (is_complete(warp, warp.gathers[index])) {
      finish(warp, index);
    } else {
      ++index;
    }
  }
}

void sync_warp(Warp& warp, uint32_t lanes) {
  Block& block = *warp.threads->block;
  if (block.shadow() == nullptr) return;
  static thread_local std::vector<Arrival> arrivals;
  arrivals.clear();
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    block.release(warp.threads[__builtin_ctz(rest)], arrivals);
  }
  const Seen joined = Block::join(arrivals);
  for (const Arrival& arrival : arrivals) block.thread(arrival.thread).seen = joined;
  arrivals.clear();
}

void shuffle(Shuffle* const* operands, uint32_t lanes) {
  uint64_t values[warp_size];
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const auto lane = static_cast<uint32_t>(__builtin_ctz(rest));
    const uint32_t source = operands[lane]->source;
    if (!(lanes >> source & 1)) {
      current->block->fail("lane " + std::to_string(lane) + " shuffles from lane " +
                           std::to_string(source) + ", which does not take part");
    }
    values[lane] = operands[source]->value;
  }
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    operands[__builtin_ctz(rest)]->value = values[__builtin_ctz(rest)];
  }
}

void ballot(Vote* const* operands, uint32_t lanes) {
  uint32_t votes = 0;
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    const auto lane = static_cast<uint32_t>(__builtin_ctz(rest));
    votes |= operands[lane]->value << lane;
  }
  for (uint32_t rest = lanes; rest != 0; rest &= rest - 1) {
    operands[__builtin_ctz(rest)]->value = votes;
  }
}

}  // namespace megafm::emulator
