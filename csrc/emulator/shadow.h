// Shadow of a block's shared memory: a cell per 4 bytes tells who wrote and read it, and when.

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace megafm::emulator {

struct Thread;

enum class Access : uint8_t {
  plain,   // loads and stores of threads (the generic proxy)
  atomic,  // of threads; two of them never race
  copy,    // by the async proxy: TMA and wgmma
};

class Shadow {
 public:
  // Forget everything; `words` cells, which may grow to `most`, readers kept per warp.
  void reset(size_t words, size_t most, size_t warps);
  void grow(size_t words) { cells_.resize(words); }

  // `thread` (or, with a maker, that copy engine on behalf of it) reads or writes bytes that lie
  // within the memory. A race or a read of what was never written ends the launch.
  void read(Thread& thread, uint32_t offset, uint32_t bytes, Access access);
  void write(Thread& thread, uint32_t offset, uint32_t bytes, Access access);

  // Copies under way: from `begin` on, nobody may touch the destination, until `land` is called by
  // whoever sees the copy's end. `maker` and `clock` then stand for the write.
  void begin_copy(Thread& thread, uint32_t offset, uint32_t bytes, Access access);
  void land_copy(uint32_t offset, uint32_t bytes, Access access, uint32_t maker, uint32_t clock);

  // The words of an mbarrier: no plain access may touch them until they are unmarked.
  void mark_barrier(uint32_t offset, bool is_barrier);

 private:
  struct Cell {
    uint32_t clock = 0;       // of the last write; 0: none
    uint32_t warps_read = 0;  // since the last write of the whole word: a bit per warp
    uint16_t maker = 0;       // of the last write
    uint8_t written = 0;      // bytes: low half ever, high half by the last write
    uint8_t state = 0;        // flags below
  };
  static constexpr uint8_t atomic_flag = 1, copy_flag = 2, flight_flag = 4, barrier_flag = 8;

  uint32_t& last_read(uint32_t word, uint32_t warp) { return reads_[warp * num_words_ + word]; }
  void check_read(Thread& thread, uint32_t word, uint32_t mask, Access access);
  void check_write(Thread& thread, uint32_t word, uint32_t mask, Access access);
  [[noreturn]] void report(Thread& thread, uint32_t word, const char* what, uint32_t maker);

  std::vector<Cell> cells_;
  std::vector<uint32_t> reads_;  // per warp and cell: lane, bytes, clock of the last read
  size_t num_words_ = 0;
};

}  // namespace megafm::emulator
