#include "emulator/block.h"

#include <execinfo.h>
#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <map>
#include <new>

#include "emulator/async.h"
#include "emulator/report.h"
#include "emulator/warp.h"

namespace megafm::emulator {

thread_local constinit Thread* current = nullptr;

namespace {

constexpr size_t max_gap_bytes = 2048;
constexpr size_t memory_bytes = max_shared_bytes + max_gap_bytes + max_static_bytes;
constexpr size_t alignment = 1024;

}  // namespace

Block::Block()
    : memory_(static_cast<char*>(operator new(memory_bytes, std::align_val_t{alignment}))),
      async_(std::make_unique<AsyncState>()) {}

Block::~Block() {
  operator delete(memory_, std::align_val_t{alignment});
}

std::string Block::run(const Launch& launch, dim3 index) {
  start(launch, index);
  Thread& first = *take_ready();
  current = &first;
  worker_ = own_stack();
  switch_fiber(worker_, first.fiber);  // comes back from leave()
  current = nullptr;
  if (failure_.empty()) return {};
  return failure_ + source_lines(failure_frames_);
}

void Block::start(const Launch& launch, dim3 index) {
  launch_ = &launch;
  index_ = index;
  const dim3 size = launch.block;
  num_threads_ = alive_ = size.x * size.y * size.z;
  const uint32_t num_warps = (num_threads_ + warp_size - 1) / warp_size;
  failure_.clear();
  failure_frames_.clear();
  random_ = options().seed == 0 ? 0 : options().seed * 0x9e3779b97f4a7c15u + index.x + 1;

  shared_end_ = shared_base + launch.shared_bytes;
  static_begin_ = static_end_ = (shared_end_ + 1023) / 1024 * 1024 + 1024;
  static_arrays_.clear();
  std::memset(memory_, 0xff, launch.shared_bytes);  // NaN in every floating-point type
  shadow_on_ = options().shadow;
  if (shadow_on_) {
    const uint32_t dynamic = static_begin_ - shared_base;
    shadow_.reset(dynamic / 4, (dynamic + max_static_bytes) / 4, num_warps);
  }
  for (NamedBarrier& barrier : barriers_) barrier = {};

  threads_.resize(num_warps * warp_size);
  warps_.resize(num_warps);
  ready_.resize(std::max<size_t>(ready_.size(), std::bit_ceil(threads_.size())));
  ready_head_ = ready_count_ = 0;
  const Seen nothing = Seen::none(num_threads_ + num_engines);
  acquire_from_ = acquire_with_ = acquired_ = nothing;
  for (uint32_t w = 0; w < num_warps; ++w) {
    warps_[w] = {w, &threads_[w * warp_size], 0, {}, {}};
  }
  for (uint32_t id = 0; id < threads_.size(); ++id) {
    Thread& thread = threads_[id];
    thread.index = {id % size.x, id / size.x % size.y, id / (size.x * size.y)};
    thread.id = id;
    thread.lane = id % warp_size;
    thread.warp = &warps_[id / warp_size];
    thread.block = this;
    thread.wait = {};
    thread.done = id >= num_threads_;
    thread.clock = 1;
    thread.seen = thread.seen_at_fence = nothing;
    thread.proxy_fences.clear();
    thread.polls = 0;
    if (thread.done) continue;
    thread.fiber = stacks_.prepare(id, fiber_main);
    thread.warp->alive |= 1u << thread.lane;
    wake(thread);
  }
  async_->reset(*this);
}

void Block::fiber_main() {
  fiber_started();
  Block& block = *current->block;
  block.launch_->entry(block.launch_->closure);
  block.exit_thread();
}

// --- scheduling

void Block::wake(Thread& thread) {
  ready_[(ready_head_ + ready_count_++) & (ready_.size() - 1)] = &thread;
}

Thread* Block::take_ready() {
  if (ready_count_ == 0) return nullptr;
  const size_t mask = ready_.size() - 1;
  if (random_ != 0) {  // xorshift
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    std::swap(ready_[ready_head_ & mask],
              ready_[(ready_head_ + random_ % ready_count_) & mask]);
  }
  --ready_count_;
  return ready_[ready_head_++ & mask];
}

void Block::switch_to(Thread& next, bool ends) {
  Thread& from = *current;
  current = &next;
  if (&from != &next) switch_fiber(from.fiber, next.fiber, ends);
}

void Block::suspend(Wait wait) {
  current->wait = wait;
  Thread* next = take_ready();
  if (next == nullptr) {
    failure_ = "deadlock: no thread can go on\n" + describe_waits();
    leave();
  }
  switch_to(*next, false);
  current->wait = {};
}

void Block::yield() {
  wake(*current);
  switch_to(*take_ready(), false);
}

void Block::exit_thread() {
  Thread& self = *current;
  self.done = true;
  --alive_;
  Warp& warp = *self.warp;
  warp.alive &= ~(1u << self.lane);
  finish_gathers(warp);
  for (NamedBarrier& barrier : barriers_) {
    if (barrier.arrived != 0 && barrier_full(barrier)) barrier_open(barrier);
  }
  Thread* next = take_ready();
  if (next != nullptr) switch_to(*next, true);
  if (alive_ != 0) {
    failure_ = "deadlock: no thread can go on\n" + describe_waits();
  } else {
    check_end();
  }
  leave();
}

void Block::leave() {
  switch_fiber(current->fiber, worker_, true);
  __builtin_unreachable();
}

void Block::fail(const std::string& what) {
  const Thread& self = *current;
  char where[160];
  std::snprintf(where, sizeof where, "block (%u, %u, %u), thread (%u, %u, %u) = warp %u lane %u: ",
                index_.x, index_.y, index_.z, self.index.x, self.index.y, self.index.z,
                self.warp->id, self.lane);
  failure_ = where + what;
  void* frames[16];
  const int count = backtrace(frames, 16);
  failure_frames_.assign(frames, frames + count);
  leave();
}

void Block::check_end() {
  for (uint32_t id = 0; id < num_barriers; ++id) {
    const NamedBarrier& barrier = barriers_[id];
    if (barrier.arrived == 0) continue;
    char text[128];
    std::snprintf(text, sizeof text, "the block ended with %u of %u arrivals at named barrier %u",
                  barrier.arrived, barrier.expected, id);
    failure_ = text;
    return;
  }
  failure_ = async_->unfinished();
}

std::string Block::describe_waits() const {
  std::string text;
  for (const Warp& warp : warps_) {
    std::map<std::string, std::string> lanes;  // of each wait
    for (uint32_t lane = 0; lane < warp_size; ++lane) {
      const Thread& thread = warp.threads[lane];
      if (thread.done) continue;
      char wait[160];
      std::snprintf(wait, sizeof wait, thread.wait.format, thread.wait.first, thread.wait.second);
      lanes[wait] += ' ' + std::to_string(lane);
    }
    for (const auto& [wait, who] : lanes) {
      text += "  warp " + std::to_string(warp.id) + ", lanes" + who + ": " + wait + '\n';
    }
  }
  return text + async_->describe_mbarriers();
}

// --- barriers

bool Block::barrier_full(const NamedBarrier& barrier) const {
  return barrier.arrived >= (barrier.expected == 0 ? alive_ : barrier.expected);
}

void Block::barrier_arrive(uint32_t id, uint32_t count, bool waits, uint32_t predicate) {
  Thread& self = *current;
  if (id >= num_barriers) fail("named barriers are 0 to 15, this is " + std::to_string(id));
  if (count % warp_size != 0) {
    fail("a barrier counts whole warps, not " + std::to_string(count) + " threads");
  }
  NamedBarrier& barrier = barriers_[id];
  if (barrier.arrived != 0 && barrier.expected != count) {
    fail("barrier " + std::to_string(id) + " was entered for " + std::to_string(barrier.expected) +
         " threads, now for " + std::to_string(count));
  }
  barrier.expected = count;
  ++barrier.arrived;
  barrier.sum += predicate;
  release(self, barrier.arrivals);
  if (!waits) {
    if (barrier_full(barrier)) barrier_open(barrier);
    return;
  }
  barrier.waiting.push_back(&self);
  if (barrier_full(barrier)) {
    barrier_open(barrier);  // wakes this thread too
    switch_to(*take_ready(), false);
  } else {
    suspend({count == 0 ? "__syncthreads" : "named barrier %u of %u threads", id, count});
  }
}

void Block::barrier_open(NamedBarrier& barrier) {
  const Seen joined = shadow_on_ ? join(barrier.arrivals) : Seen();
  for (Thread* thread : barrier.waiting) {
    if (shadow_on_) acquire(*thread, joined);
    wake(*thread);
  }
  barrier.last_sum = barrier.sum;
  barrier.arrived = barrier.sum = 0;
  barrier.arrivals.clear();
  barrier.waiting.clear();
}

// --- vector clocks

void Block::release(Thread& thread, std::vector<Arrival>& arrivals) {
  if (!shadow_on_) return;
  arrivals.push_back({thread.id, thread.clock++, thread.seen});
}

Seen Block::join(const std::vector<Arrival>& arrivals) {
  Join join(arrivals.front().seen);
  for (const Arrival& arrival : arrivals) join.add(arrival.seen);
  for (const Arrival& arrival : arrivals) join.add(arrival.thread, arrival.clock);
  return join.take();
}

void Block::acquire(Thread& thread, const Seen& seen) {
  if (!(thread.seen == acquire_from_ && seen == acquire_with_)) {
    acquire_from_ = thread.seen;
    acquire_with_ = seen;
    Join join(thread.seen);
    join.add(seen);
    acquired_ = join.take();
  }
  thread.seen = acquired_;
}

// --- shared memory

void Block::check_shared(uint32_t address, uint32_t bytes, uint32_t alignment) {
  const uint64_t end = uint64_t{address} + bytes;
  const bool inside = (address >= shared_base && end <= shared_end_) ||
                      (address >= static_begin_ && end <= static_end_);
  if (inside && address % alignment == 0) return;
  char text[200];
  if (inside) {
    std::snprintf(text, sizeof text, "shared address %u is not a multiple of %u", address,
                  alignment);
  } else {
    std::snprintf(text, sizeof text, "%u bytes at shared address %u are outside [%u, %u)", bytes,
                  address, shared_base, shared_end_);
  }
  fail(text);
}

void Block::read(uint32_t address, uint32_t bytes, Access access) {
  if (shadow_on_) shadow_.read(*current, address - shared_base, bytes, access);
}

void Block::write(uint32_t address, uint32_t bytes, Access access) {
  if (shadow_on_) shadow_.write(*current, address - shared_base, bytes, access);
}

uint32_t Block::static_address(const void* key, uint32_t bytes, uint32_t alignment) {
  for (const StaticArray& array : static_arrays_) {
    if (array.key == key) return array.address;
  }
  const uint32_t address = (static_end_ + alignment - 1) / alignment * alignment;
  static_end_ = address + bytes;
  if (static_end_ > static_begin_ + max_static_bytes) {
    fail("more than " + std::to_string(max_static_bytes) + " bytes of static shared memory");
  }
  std::memset(shared(address), 0xff, bytes);
  if (shadow_on_) shadow_.grow((static_end_ - shared_base + 3) / 4);
  static_arrays_.push_back({key, address});
  return address;
}

}  // namespace megafm::emulator
