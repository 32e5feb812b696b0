// A thread block under emulation: a fiber per thread, what they wait for, their shared memory.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "emulator/clocks.h"
#include "emulator/fiber.h"
#include "emulator/shadow.h"
#include "emulator/types.h"

namespace megafm::emulator {

class Block;
struct Warp;
struct AsyncState;  // async.h: copies and products under way

constexpr uint32_t warp_size = 32;
constexpr uint32_t num_barriers = 16;       // named barriers of a block
constexpr uint32_t num_engines = 64;        // copy engines that clocks tell apart
constexpr uint32_t max_shared_bytes = 227 << 10;
constexpr uint32_t max_static_bytes = 48 << 10;
constexpr uint32_t shared_base = 1024;      // the first shared address; 0 is none

// Read from the environment at the first launch (README.md).
struct Options {
  uint64_t seed = 0;
  uint32_t workers = 1;
  bool shadow = true;
};
Options& options();

struct Launch {
  dim3 grid, block;
  uint32_t shared_bytes;
  void (*entry)(const void* closure);
  const void* closure;
};

// What a thread waits for: a printf format and its two values.
struct Wait {
  const char* format = nullptr;
  uint32_t first = 0, second = 0;
};

struct Thread {
  uint3 index;  // threadIdx
  uint32_t id, lane;
  Warp* warp;
  Block* block;
  Fiber fiber;
  Wait wait;
  bool done;
  uint32_t clock;  // of its next release
  Seen seen;
  std::vector<uint32_t> proxy_fences;  // clocks of its fence.proxy.async
  Seen seen_at_fence;
  uint32_t polls;  // of mbarriers, in vain, in a row
};

// Operations that lanes of a warp do together: the last lane to arrive does them for all.
using WarpOperation = void (*)(Warp& warp, uint32_t lanes);

struct Warp {
  struct Gather {
    WarpOperation operation;
    const char* name;
    uint32_t mask, arrived;
  };
  uint32_t id;
  Thread* threads;  // 32, those beyond the block's end are not alive
  uint32_t alive;   // a bit per lane
  void* operand[warp_size];
  std::vector<Gather> gathers;
};

// An arrival at a barrier: what the thread had seen, and its own clock.
struct Arrival {
  uint32_t thread;
  uint32_t clock;
  Seen seen;
};

struct NamedBarrier {
  uint32_t expected = 0;  // 0: every thread that is alive
  uint32_t arrived = 0;
  uint32_t sum = 0;       // of the predicates of __syncthreads_count
  uint32_t last_sum = 0;
  std::vector<Arrival> arrivals;
  std::vector<Thread*> waiting;
};

class Block {
 public:
  Block();
  ~Block();

  // Run block `index` to its end. The answer is empty, or a report of what went wrong.
  std::string run(const Launch& launch, dim3 index);

  // --- for the running thread
  void suspend(Wait wait);  // until someone wakes it
  void yield();             // let the others run
  void wake(Thread& thread);
  [[noreturn]] void fail(const std::string& what);

  void barrier_arrive(uint32_t id, uint32_t count, bool waits, uint32_t predicate = 0);
  uint32_t barrier_sum(uint32_t id) const { return barriers_[id].last_sum; }

  // Shared memory. Addresses are those of PTX, from shared_base on.
  char* shared(uint32_t address) { return memory_ + (address - shared_base); }
  void check_shared(uint32_t address, uint32_t bytes, uint32_t alignment);
  void read(uint32_t address, uint32_t bytes, Access access);
  void write(uint32_t address, uint32_t bytes, Access access);
  uint32_t static_address(const void* key, uint32_t bytes, uint32_t alignment);

  // --- what has been seen
  void release(Thread& thread, std::vector<Arrival>& arrivals);
  void acquire(Thread& thread, const Seen& seen);
  static Seen join(const std::vector<Arrival>& arrivals);

  uint32_t num_threads() const { return num_threads_; }
  uint32_t num_alive() const { return alive_; }
  Thread& thread(uint32_t id) { return threads_[id]; }
  Warp& warp(uint32_t id) { return warps_[id]; }
  uint32_t num_warps() const { return static_cast<uint32_t>(warps_.size()); }
  Shadow* shadow() { return shadow_on_ ? &shadow_ : nullptr; }
  AsyncState& async() { return *async_; }
  const dim3& index() const { return index_; }
  const Launch& launch() const { return *launch_; }

 private:
  void start(const Launch& launch, dim3 index);
  [[noreturn]] void leave();  // to the worker, for good
  void exit_thread();
  void switch_to(Thread& next, bool ends);
  Thread* take_ready();
  bool barrier_full(const NamedBarrier& barrier) const;
  void barrier_open(NamedBarrier& barrier);
  void check_end();
  std::string describe_waits() const;
  static void fiber_main();

  const Launch* launch_ = nullptr;
  dim3 index_;
  uint32_t num_threads_ = 0, alive_ = 0;
  std::vector<Thread> threads_;
  std::vector<Warp> warps_;
  std::vector<Thread*> ready_;  // a ring of a power of two
  size_t ready_head_ = 0, ready_count_ = 0;
  uint64_t random_ = 0;
  Stacks stacks_;
  Fiber worker_;
  NamedBarrier barriers_[num_barriers];
  std::string failure_;
  std::vector<void*> failure_frames_;

  char* memory_;
  uint32_t shared_end_ = 0;   // of the dynamic memory
  uint32_t static_begin_ = 0, static_end_ = 0;  // behind a gap
  struct StaticArray {
    const void* key;
    uint32_t address;
  };
  std::vector<StaticArray> static_arrays_;
  bool shadow_on_ = true;
  Shadow shadow_;
  Seen acquire_from_, acquire_with_, acquired_;  // the last join, which the next lane asks again
  std::unique_ptr<AsyncState> async_;
};

// The thread that this core runs.
extern thread_local constinit Thread* current __attribute__((tls_model("initial-exec")));

}  // namespace megafm::emulator
