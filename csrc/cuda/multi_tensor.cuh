// One launch over many tensors: a block for each chunk of each. What is known of a tensor, its entry,
// travels in the kernel's parameters, of which every driver takes 4 KiB: no table is copied to the
// device, and a list of any length becomes a few launches.

#pragma once

#include <algorithm>
#include <cstdint>
#include <span>

#include "cuda/storage.cuh"

namespace megafm::cuda {

constexpr int most_entries = 64;  // of a launch; a power of two

// An Entry has a `size`, in elements.
template <typename Entry>
struct Batch {
  Entry entries[most_entries];
  uint32_t first_block[most_entries];  // of each entry; of those that are not there, UINT32_MAX
};

// What a block works on: elements [start, start + count) of an entry.
struct Chunk {
  int entry;
  int64_t start;
  int count;
};

template <int chunk_size, typename Entry>
__device__ inline Chunk chunk_of(const Batch<Entry>& batch, uint32_t block) {
  int entry = 0;
#pragma unroll
  for (int step = most_entries / 2; step > 0; step /= 2) {
    entry += batch.first_block[entry + step] <= block ? step : 0;
  }
  const int64_t start = int64_t{block - batch.first_block[entry]} * chunk_size;
  const int64_t left = batch.entries[entry].size - start;
  return {entry, start, static_cast<int>(left < chunk_size ? left : chunk_size)};
}

// Calls body(batch, number of blocks) for as many batches as the entries fill; empty ones are left
// out. A batch of 2^31 blocks would be terabytes.
template <typename Entry, typename Body>
void for_batches(std::span<const Entry> entries, int64_t chunk_size, const Body& body) {
  Batch<Entry> batch;
  int count = 0;
  uint32_t blocks = 0;
  const auto flush = [&] {
    if (count > 0) {
      std::fill(batch.first_block + count, batch.first_block + most_entries, UINT32_MAX);
      body(batch, blocks);
    }
    count = 0;
    blocks = 0;
  };
  for (const Entry& entry : entries) {
    if (entry.size == 0) {
      continue;
    }
    batch.entries[count] = entry;
    batch.first_block[count] = blocks;
    blocks += static_cast<uint32_t>((entry.size + chunk_size - 1) / chunk_size);
    if (++count == most_entries) {
      flush();
    }
  }
  flush();
}

}  // namespace megafm::cuda
