// Where the blocks of one launch over many tensors work, for test_multi_tensor.py: entries of any
// size, since no memory is touched.

#include "harness.cuh"

#include "cuda/multi_tensor.cuh"

namespace megafm::cuda {
namespace {

constexpr int chunk_size = 2048;

struct SizeOnly {
  int64_t size;
};

// Of each block asked for: entry, start, count.
__global__ void locate(const __grid_constant__ Batch<SizeOnly> batch, const int64_t* blocks,
                       int64_t* out) {
  const int i = threadIdx.x;
  const Chunk chunk = chunk_of<chunk_size>(batch, static_cast<uint32_t>(blocks[i]));
  out[3 * i] = chunk.entry;
  out[3 * i + 1] = chunk.start;
  out[3 * i + 2] = chunk.count;
}

}  // namespace
}  // namespace megafm::cuda

using namespace megafm::cuda;

// In the first batch of the entries; out[3 * num_blocks] is the number of blocks of all batches.
EXPORT const char* run_locate(int64_t* sizes, int num_sizes, int64_t* blocks, int num_blocks,
                              int64_t* out) {
  return report_of([&] {
    OnDevice<int64_t> asked(blocks, num_blocks), found(out, 3 * num_blocks + 1);
    const auto entries = reinterpret_cast<const SizeOnly*>(sizes);
    int64_t total = 0;
    const auto body = [&](const Batch<SizeOnly>& batch, uint32_t count) {
      if (total == 0) {
        launch(locate, dim3(1), dim3(num_blocks), 0, nullptr, batch, asked.data(), found.data());
      }
      total += count;
    };
    for_batches(std::span<const SizeOnly>(entries, num_sizes), chunk_size, body);
    found.fetch();
    out[3 * num_blocks] = total;
  });
}
