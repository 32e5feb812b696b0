#include "emulator/shadow.h"

#include <algorithm>
#include <cstdio>

#include "emulator/block.h"

namespace megafm::emulator {
namespace {

// A read: lane (5 bits), the word's bytes read (4), clock (23).
constexpr uint32_t clock_bits = 23, clock_mask = (1u << clock_bits) - 1;
constexpr uint16_t no_maker = 0xffff;  // a copy under way

bool is_ordered(const Thread& thread, uint32_t maker, uint32_t clock) {
  return maker == thread.id || clock <= thread.seen.of(maker);
}

// The bytes of a word that [offset, offset + bytes) covers.
uint32_t covered(uint32_t word, uint32_t offset, uint32_t end) {
  const uint32_t low = std::max(offset, 4 * word) - 4 * word;
  const uint32_t high = std::min(end, 4 * word + 4) - 4 * word;
  return (15u >> (4 - high)) & (15u << low);
}

// A write by a thread reaches the async proxy only through a proxy fence: of the writer, before a
// release that the reader has seen, or of the reader, after it had seen the write.
bool is_fenced(Thread& thread, Thread& writer, uint32_t clock) {
  const auto& fences = writer.proxy_fences;
  const auto fence = std::lower_bound(fences.begin(), fences.end(), clock);
  if (fence != fences.end() && (&writer == &thread || *fence < thread.seen.of(writer.id))) {
    return true;
  }
  return !thread.proxy_fences.empty() && &writer != &thread &&
         clock <= thread.seen_at_fence.of(writer.id);
}

}  // namespace

void Shadow::reset(size_t words, size_t most, size_t warps) {
  cells_.assign(words, Cell{});
  num_words_ = most;
  if (reads_.size() < most * warps) reads_.resize(most * warps);
}

void Shadow::check_read(Thread& thread, uint32_t word, uint32_t mask, Access access) {
  const Cell& cell = cells_[word];
  if (cell.state & (flight_flag | barrier_flag)) report(thread, word, "reads", cell.maker);
  if (~cell.written & mask) report(thread, word, "reads, uninitialised,", no_maker);
  if (cell.written >> 4 & mask && !is_ordered(thread, cell.maker, cell.clock)) {
    report(thread, word, "reads", cell.maker);
  }
  if (access == Access::copy && !(cell.state & copy_flag) &&
      !is_fenced(thread, thread.block->thread(cell.maker), cell.clock)) {
    report(thread, word, "lets the async proxy read, without fence.proxy.async,", cell.maker);
  }
}

void Shadow::read(Thread& thread, uint32_t offset, uint32_t bytes, Access access) {
  const uint32_t end = offset + bytes, warp = thread.warp->id;
  const uint32_t made = thread.lane << 27 | thread.clock;
  const Cell* last = nullptr;  // checked: those written together with it need no check
  for (uint32_t word = offset / 4; 4 * word < end; ++word) {
    Cell& cell = cells_[word];
    uint32_t mask = covered(word, offset, end);
    const bool same = last != nullptr && last->clock == cell.clock && last->maker == cell.maker &&
                      last->written == cell.written && last->state == cell.state && mask == 15;
    if (!same) check_read(thread, word, mask, access);
    last = mask == 15 ? &cell : nullptr;
    uint32_t& read = last_read(word, warp);
    if (cell.warps_read >> warp & 1 && (read & ~(15u << clock_bits)) == made) {
      mask |= read >> clock_bits & 15;
    }
    read = made | mask << clock_bits;
    cell.warps_read |= 1u << warp;
  }
}

void Shadow::check_write(Thread& thread, uint32_t word, uint32_t mask, Access access) {
  Cell& cell = cells_[word];
  if (cell.state & (flight_flag | barrier_flag)) report(thread, word, "writes", cell.maker);
  const bool both_atomic = access == Access::atomic && cell.state & atomic_flag;
  if (cell.written >> 4 & mask && !both_atomic && !is_ordered(thread, cell.maker, cell.clock)) {
    report(thread, word, "writes", cell.maker);
  }
  for (uint32_t warps = cell.warps_read; warps != 0; warps &= warps - 1) {
    const auto warp = static_cast<uint32_t>(__builtin_ctz(warps));
    const uint32_t read = last_read(word, warp);
    const uint32_t reader = warp * warp_size + (read >> 27);
    if (read >> clock_bits & mask && !is_ordered(thread, reader, read & clock_mask)) {
      report(thread, word, "writes what was read before:", reader);
    }
  }
}

void Shadow::write(Thread& thread, uint32_t offset, uint32_t bytes, Access access) {
  const uint32_t end = offset + bytes;
  for (uint32_t word = offset / 4; 4 * word < end; ++word) {
    const uint32_t mask = covered(word, offset, end);
    Cell& cell = cells_[word];
    if (access == Access::atomic && ~cell.written & mask) {
      report(thread, word, "updates", no_maker);
    }
    check_write(thread, word, mask, access);
    cell.clock = thread.clock;
    cell.maker = static_cast<uint16_t>(thread.id);
    cell.written = static_cast<uint8_t>((cell.written & 15) | mask | mask << 4);
    cell.state = access == Access::atomic ? atomic_flag : 0;
    if (mask == 15) cell.warps_read = 0;
  }
}

void Shadow::begin_copy(Thread& thread, uint32_t offset, uint32_t bytes, Access access) {
  const uint32_t end = offset + bytes;
  for (uint32_t word = offset / 4; 4 * word < end; ++word) {
    check_write(thread, word, covered(word, offset, end), access);
    cells_[word].state |= flight_flag;
    cells_[word].maker = static_cast<uint16_t>(thread.id);
  }
}

void Shadow::land_copy(uint32_t offset, uint32_t bytes, Access access, uint32_t maker,
                       uint32_t clock) {
  const uint32_t end = offset + bytes;
  for (uint32_t word = offset / 4; 4 * word < end; ++word) {
    const uint32_t mask = covered(word, offset, end);
    const auto written = static_cast<uint8_t>((cells_[word].written & 15) | mask | mask << 4);
    cells_[word] = Cell{clock, 0, static_cast<uint16_t>(maker), written,
                        access == Access::copy ? copy_flag : uint8_t{0}};
  }
}

void Shadow::mark_barrier(uint32_t offset, bool is_barrier) {
  for (uint32_t word = offset / 4; word < offset / 4 + 2; ++word) {
    uint8_t& state = cells_[word].state;
    state = static_cast<uint8_t>(is_barrier ? state | barrier_flag : state & ~barrier_flag);
  }
}

void Shadow::report(Thread& thread, uint32_t word, const char* what, uint32_t maker) {
  const Cell& cell = cells_[word];
  char text[256];
  const uint32_t address = shared_base + 4 * word;
  const char* why = cell.state & barrier_flag  ? "an mbarrier lies there"
                    : cell.state & flight_flag ? "an asynchronous copy to it is not waited for"
                                               : nullptr;
  if (why != nullptr) {
    std::snprintf(text, sizeof text, "%s shared word %u (byte %u): %s", what, word, address, why);
  } else if (maker == no_maker) {
    std::snprintf(text, sizeof text, "%s shared word %u (byte %u) that nobody wrote", what, word,
                  address);
  } else if (maker >= thread.block->num_threads()) {
    std::snprintf(text, sizeof text,
                  "%s shared word %u (byte %u), race with a copy whose mbarrier it did not wait on",
                  what, word, address);
  } else {
    std::snprintf(text, sizeof text,
                  "%s shared word %u (byte %u), race with thread %u (warp %u lane %u): "
                  "nothing orders the two",
                  what, word, address, maker, maker / warp_size, maker % warp_size);
  }
  thread.block->fail(text);
}

}  // namespace megafm::emulator
