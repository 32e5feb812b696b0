#include "emulator/launch.h"

#include <atomic>
#include <cstdlib>
#include <mutex>
#include <stdexcept>
#include <thread>

namespace megafm::emulator {
namespace {

uint64_t environment(const char* name, uint64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

// Blocks keep their stacks and memory for the next launch.
class Pool {
 public:
  std::unique_ptr<Block> take() {
    const std::lock_guard guard(lock_);
    if (idle_.empty()) return std::make_unique<Block>();
    std::unique_ptr<Block> block = std::move(idle_.back());
    idle_.pop_back();
    return block;
  }
  void give(std::unique_ptr<Block> block) {
    const std::lock_guard guard(lock_);
    idle_.push_back(std::move(block));
  }

 private:
  std::mutex lock_;
  std::vector<std::unique_ptr<Block>> idle_;
};

void check_limits(const Launch& launch) {
  const dim3 grid = launch.grid, block = launch.block;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  const bool has_blocks = grid.x > 0 && grid.y > 0 && grid.z > 0 && grid.x <= INT32_MAX &&
                          grid.y <= UINT16_MAX && grid.z <= UINT16_MAX;
  if (!has_blocks || threads == 0 || threads > 1024 || block.z > 64 ||
      launch.shared_bytes > max_shared_bytes) {
    throw std::runtime_error("emulator: invalid launch: grid (" + std::to_string(grid.x) + ", " +
                             std::to_string(grid.y) + ", " + std::to_string(grid.z) + "), " +
                             std::to_string(threads) + " threads a block, " +
                             std::to_string(launch.shared_bytes) + " bytes of shared memory");
  }
}

}  // namespace

Options& options() {
  static Options options{
      environment("MEGAFM_EMULATOR_SEED", 0),
      static_cast<uint32_t>(environment("MEGAFM_EMULATOR_WORKERS",
                                        std::max(1u, std::thread::hardware_concurrency()))),
      environment("MEGAFM_EMULATOR_SHADOW", 1) != 0,
  };
  return options;
}

int compute_capability() {
  return static_cast<int>(environment("MEGAFM_EMULATOR_CAPABILITY", 80));
}

void run_grid(const Launch& launch) {
  check_limits(launch);
  static Pool pool;
  const dim3 grid = launch.grid;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  std::atomic<uint64_t> next = 0, failed = blocks;
  std::mutex lock;
  std::string failure;
  const auto work = [&] {
    std::unique_ptr<Block> block = pool.take();
    for (uint64_t i = next++; i < blocks && failed == blocks; i = next++) {
      const dim3 index(static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                       static_cast<unsigned>(i / grid.x / grid.y));
      const std::string report = block->run(launch, index);
      if (report.empty()) continue;
      const std::lock_guard guard(lock);
      if (i < failed) {
        failed = i;
        failure = report;
      }
    }
    pool.give(std::move(block));
  };
  std::vector<std::thread> others;
  for (uint64_t i = 1; i < std::min<uint64_t>(options().workers, blocks); ++i) {
    others.emplace_back(work);
  }
  work();
  for (std::thread& other : others) other.join();
  if (failed != blocks) throw std::runtime_error("emulator: " + failure);
}

}  // namespace megafm::emulator
