// One kernel per function of ptx_sm90.cuh, for test_ptx_sm90.py: the same on the emulator and on a
// GPU.

#include "harness.cuh"

namespace megafm::cuda {
namespace {

// Shared memory of every kernel here: an mbarrier behind the tile.
constexpr uint32_t tile_bytes = 16384, barrier_at = tile_bytes, shared_bytes = tile_bytes + 16;

__device__ uint32_t tile_address() {
  return shared_address(shared_memory<char>());
}

// Init one mbarrier of one arrival, for all threads and for copies.
__device__ uint32_t start_mbarrier() {
  const uint32_t mbarrier = shared_address(shared_memory<char>(barrier_at));
  if (threadIdx.x == 0) {
    mbarrier_init(mbarrier, 1);
    fence_mbarrier_init();
  }
  __syncthreads();
  return mbarrier;
}

template <int rank>
struct Corner {
  int32_t at[rank];
};

// The tile as it lies in shared memory after a load of the box at `corner`.
template <int rank>
__global__ void load_tile(const __grid_constant__ CUtensorMap map, Corner<rank> corner, int bytes,
                          char* image) {
  const uint32_t mbarrier = start_mbarrier();
  if (threadIdx.x == 0) {
    tma_prefetch(&map);
    mbarrier_arrive_expect_tx(mbarrier, bytes);
    tma_load<rank>(tile_address(), &map, mbarrier, corner.at);
  }
  mbarrier_wait(mbarrier, 0);
  const Shared<char> tile = shared_memory<char>();
  for (int i = threadIdx.x; i < bytes; i += blockDim.x) image[i] = tile[i];
}

// The inverse, or adding.
template <int rank>
__global__ void store_tile(const __grid_constant__ CUtensorMap map, Corner<rank> corner, int bytes,
                           const char* image, int adds) {
  const Shared<char> tile = shared_memory<char>();
  for (int i = threadIdx.x; i < bytes; i += blockDim.x) tile[i] = image[i];
  fence_proxy_async();
  __syncthreads();
  if (threadIdx.x / 32 == 0 && elect_one()) {
    if (adds) {
      tma_reduce_add<rank>(&map, tile_address(), corner.at);
    } else {
      tma_store<rank>(&map, tile_address(), corner.at);
    }
    bulk_commit();
    bulk_wait<0>();
  }
}

// to = from by way of shared memory, and sums += from, `bytes` of floats.
__global__ void copy_bulk(const float* from, float* to, float* sums, int bytes) {
  const uint32_t mbarrier = start_mbarrier();
  if (threadIdx.x == 0) {
    mbarrier_arrive_expect_tx(mbarrier, bytes);
    bulk_load(tile_address(), from, bytes, mbarrier);
    while (!mbarrier_try_wait(mbarrier, 0)) {
    }
    bulk_store(to, tile_address(), bytes);
    bulk_commit();
    bulk_reduce_add(sums, tile_address(), bytes);
    bulk_commit();
    bulk_wait_read<1>();
    bulk_wait<0>();
  }
}

// A ring of two slots between warp 0 and two other warps, round by round; then its mbarriers are
// made anew with another count.
__global__ void ring(const float* from, float* to, int rounds) {
  const Shared<float> slots = shared_memory<float>();
  const uint32_t full = shared_address(shared_memory<char>(barrier_at - 32)), empty = full + 16;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (threadIdx.x == 0) {
    for (int slot = 0; slot < 2; ++slot) {
      mbarrier_init(full + 8 * slot, 32);
      mbarrier_init(empty + 8 * slot, 2);
    }
  }
  __syncthreads();
  for (int round = 0; round < rounds; ++round) {
    const int slot = round % 2, parity = round / 2 % 2;
    if (warp == 0) {
      mbarrier_wait(empty + 8 * slot, parity ^ 1);  // at first: over
      slots[32 * slot + lane] = from[32 * round + lane];
      mbarrier_arrive(full + 8 * slot);
    } else {
      mbarrier_wait(full + 8 * slot, parity);
      to[(2 * round + warp - 1) * 32 + lane] = slots[32 * slot + 31 - lane];
      __syncwarp();
      if (lane == 0) mbarrier_arrive(empty + 8 * slot);
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    mbarrier_inval(full);
    mbarrier_init(full, 1);
    mbarrier_arrive(full);
  }
  __syncthreads();
  mbarrier_wait(full, 0);
}

__global__ void elections(int* counts) {
  const int elected = elect_one();
  const unsigned votes = __ballot_sync(0xffffffff, elected);
  if (elected) counts[threadIdx.x / 32] = __popc(votes);
}

template <int n, bool transposed>
__global__ void store_matrices(const uint32_t* from, uint16_t* to) {
  const Shared<uint16_t> tile = shared_memory<uint16_t>();
  uint32_t registers[n];
  for (int i = 0; i < n; ++i) registers[i] = from[n * threadIdx.x + i];
  stmatrix<n, transposed>(row_address(tile, n), registers);
  __syncwarp();
  for (int i = threadIdx.x; i < 64 * n; i += 32) to[i] = tile[i];
}

// A producer warpgroup hands registers to two others.
__global__ void __launch_bounds__(384, 1) move_registers(int* out) {
  if (threadIdx.x < 128) {
    setmaxnreg_dec<40>();
  } else {
    setmaxnreg_inc<232>();
  }
  out[threadIdx.x] = threadIdx.x;
}

template <typename Body>
void with_map(float* data, const int* sizes, const int* box, int swizzle, int rank, Body body) {
  uint64_t extents[5], strides[4];
  uint32_t boxes[5];
  uint64_t stride = sizeof(float);
  for (int dim = 0; dim < rank; ++dim) {
    extents[dim] = sizes[dim];
    boxes[dim] = box[dim];
    stride *= sizes[dim];
    if (dim < 4) strides[dim] = stride;
  }
  const auto of_rank = [&]<int r>(std::integral_constant<int, r>) {
    uint64_t e[r], s[r - 1];
    uint32_t b[r];
    std::copy_n(extents, r, e);
    std::copy_n(strides, r - 1, s);
    std::copy_n(boxes, r, b);
    body.template operator()<r>(make_tensor_map(data, e, s, b, static_cast<Swizzle>(swizzle)));
  };
  if (rank == 2) of_rank(std::integral_constant<int, 2>());
  if (rank == 3) of_rank(std::integral_constant<int, 3>());
  if (rank == 4) of_rank(std::integral_constant<int, 4>());
  if (rank == 5) of_rank(std::integral_constant<int, 5>());
}

int product(const int* factors, int count) {
  int total = 1;
  for (int i = 0; i < count; ++i) total *= factors[i];
  return total;
}

}  // namespace

// sizes, box and corner: dimension 0, the contiguous one, first.
EXPORT const char* run_load_tile(int rank, int swizzle, float* tensor, const int* sizes,
                                 const int* box, const int* corner, float* image) {
  return report_of([&] {
    OnDevice in(tensor, product(sizes, rank));
    OnDevice out(image, product(box, rank));
    const int bytes = 4 * product(box, rank);
    with_map(in.data(), sizes, box, swizzle, rank, [&]<int r>(const CUtensorMap& map) {
      Corner<r> at;
      std::copy_n(corner, r, at.at);
      launch(load_tile<r>, 1, 64, shared_bytes, nullptr, map, at, bytes,
             reinterpret_cast<char*>(out.data()));
    });
    out.fetch();
  });
}

EXPORT const char* run_store_tile(int rank, int swizzle, float* tensor, const int* sizes,
                                  const int* box, const int* corner, float* image, int adds) {
  return report_of([&] {
    OnDevice out(tensor, product(sizes, rank));
    OnDevice in(image, product(box, rank));
    const int bytes = 4 * product(box, rank);
    with_map(out.data(), sizes, box, swizzle, rank, [&]<int r>(const CUtensorMap& map) {
      Corner<r> at;
      std::copy_n(corner, r, at.at);
      launch(store_tile<r>, 1, 64, shared_bytes, nullptr, map, at, bytes,
             reinterpret_cast<const char*>(in.data()), adds);
    });
    out.fetch();
  });
}

EXPORT const char* run_copy_bulk(const float* from, float* to, float* sums, int count) {
  return report_of([&] {
    OnDevice in(from, count);
    OnDevice out(to, count);
    OnDevice added(sums, count);
    launch(copy_bulk, 1, 32, shared_bytes, nullptr, in.data(), out.data(), added.data(), 4 * count);
    out.fetch();
    added.fetch();
  });
}

EXPORT const char* run_ring(const float* from, float* to, int rounds) {
  return report_of([&] {
    OnDevice in(from, 32 * rounds);
    OnDevice out(to, 64 * rounds);
    launch(ring, 1, 96, shared_bytes, nullptr, in.data(), out.data(), rounds);
    out.fetch();
  });
}

EXPORT const char* run_elections(int* counts) {
  return report_of([&] {
    OnDevice out(counts, 3);
    launch(elections, 1, 96, 0, nullptr, out.data());
    out.fetch();
  });
}

EXPORT const char* run_store_matrices(int n, int transposed, const uint32_t* from, uint16_t* to) {
  return report_of([&] {
    OnDevice in(from, 32 * n);
    OnDevice out(to, 64 * n);
    const auto kernel =
        transposed ? of_count(n, store_matrices<1, true>, store_matrices<2, true>,
                              store_matrices<4, true>)
                   : of_count(n, store_matrices<1, false>, store_matrices<2, false>,
                              store_matrices<4, false>);
    launch(kernel, 1, 32, 128 * n, nullptr, in.data(), out.data());
    out.fetch();
  });
}

EXPORT const char* run_move_registers(int* ids) {
  return report_of([&] {
    OnDevice out(ids, 384);
    launch(move_registers, 1, 384, 0, nullptr, out.data());
    out.fetch();
  });
}

}  // namespace megafm::cuda
