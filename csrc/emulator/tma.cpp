#include "emulator/tma.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "emulator/memory.h"

namespace megafm::emulator {
namespace {

// One row of a box: the part of it that lies within the tensor, and where it is.
struct BoxRow {
  char* global;         // of the first element within
  uint32_t to;          // its byte in the unswizzled tile
  uint32_t begin, end;  // the bytes of this row within
  uint32_t bytes;       // of the whole row
};

// Call visit(row) for every row of the box at `corner`, those outside included (begin == end).
template <typename Visit>
void for_each_row(const CUtensorMap& map, const int32_t* corner, Visit visit) {
  const uint32_t size = element_bytes(map.element), row_bytes = map.box[0] * size;
  uint32_t rows = 1;
  for (uint32_t dim = 1; dim < map.rank; ++dim) rows *= map.box[dim];
  for (uint32_t i = 0; i < rows; ++i) {
    bool inside = true;
    int64_t offset = 0;
    uint32_t rest = i;
    for (uint32_t dim = 1; dim < map.rank; ++dim) {
      const int64_t at = corner[dim] + int64_t{rest % map.box[dim]};
      rest /= map.box[dim];
      inside = inside && at >= 0 && at < static_cast<int64_t>(map.sizes[dim]);
      offset += at * static_cast<int64_t>(map.strides[dim]);
    }
    const int64_t begin = std::clamp<int64_t>(-int64_t{corner[0]}, 0, map.box[0]);
    const int64_t end = std::clamp<int64_t>(static_cast<int64_t>(map.sizes[0]) - corner[0], begin,
                                            map.box[0]);
    BoxRow row{nullptr, i * row_bytes, 0, 0, row_bytes};
    if (inside && begin < end) {
      row.begin = static_cast<uint32_t>(begin) * size;
      row.end = static_cast<uint32_t>(end) * size;
      row.global = map.data + offset + (corner[0] + begin) * size;
    }
    visit(row);
  }
}

// Call visit(shared address, offset within the bytes, count) for pieces of at most 16 bytes.
template <typename Visit>
void for_each_piece(uint32_t tile, uint32_t begin, uint32_t end, uint32_t span, Visit visit) {
  for (uint32_t at = begin; at < end;) {
    const uint32_t next = std::min(end, at / 16 * 16 + 16);
    visit(swizzled(tile + at, span), at - begin, next - at);
    at = next;
  }
}

uint32_t tile_bytes(const CUtensorMap& map) {
  uint32_t bytes = element_bytes(map.element);
  for (uint32_t dim = 0; dim < map.rank; ++dim) bytes *= map.box[dim];
  return bytes;
}

void check_tile(const CUtensorMap* map, uint32_t address, uint32_t rank) {
  Block& block = *current->block;
  if (map->rank != rank) {
    block.fail("a copy of rank " + std::to_string(rank) + " with a tensor map of rank " +
               std::to_string(map->rank));
  }
  block.check_shared(address, tile_bytes(*map), 128);
}

void land(Mbarrier& barrier, uint32_t address, uint32_t bytes) {
  if (Shadow* shadow = current->block->shadow()) {
    shadow->land_copy(address - shared_base, bytes, Access::copy, barrier.engine,
                      barrier.engine_clock);
  }
}

void load_tile(Mbarrier& barrier, const CUtensorMap& map, uint32_t to, const int32_t* corner) {
  Block& block = *current->block;
  ++barrier.engine_clock;
  land(barrier, to, tile_bytes(map));
  for_each_row(map, corner, [&](const BoxRow& row) {
    for_each_piece(to, row.to, row.to + row.bytes, map.span,
                   [&](uint32_t address, uint32_t, uint32_t count) {
                     std::memset(block.shared(address), 0, count);
                   });
    for_each_piece(to, row.to + row.begin, row.to + row.end, map.span,
                   [&](uint32_t address, uint32_t offset, uint32_t count) {
                     std::memcpy(block.shared(address), row.global + offset, count);
                   });
  });
  bring_bytes(barrier, tile_bytes(map));
}

template <typename T>
void add_elements(char* to, const char* from, uint32_t bytes) {
  for (uint32_t at = 0; at < bytes; at += sizeof(T)) {
    T x;
    std::memcpy(&x, from + at, sizeof x);
    if constexpr (std::is_same_v<T, float>) {
      std::atomic_ref<float>(*reinterpret_cast<float*>(to + at)) += x;
    } else {
      std::atomic_ref<uint16_t> cell(*reinterpret_cast<uint16_t*>(to + at));
      uint16_t old = cell.load();
      while (!cell.compare_exchange_weak(
          old, T(static_cast<float>(std::bit_cast<T>(old)) + static_cast<float>(x)).bits)) {
      }
    }
  }
}

void write_global(char* to, const char* from, uint32_t bytes, Element element, bool adds) {
  if (!adds) {
    std::memcpy(to, from, bytes);
  } else if (element == Element::f32) {
    add_elements<float>(to, from, bytes);
  } else if (element == Element::f16) {
    add_elements<__half>(to, from, bytes);
  } else {
    add_elements<__nv_bfloat16>(to, from, bytes);
  }
}

void store_tile(const CUtensorMap& map, uint32_t from, const int32_t* corner, bool adds) {
  Block& block = *current->block;
  block.read(from, tile_bytes(map), Access::copy);
  for_each_row(map, corner, [&](const BoxRow& row) {
    for_each_piece(from, row.to + row.begin, row.to + row.end, map.span,
                   [&](uint32_t address, uint32_t offset, uint32_t count) {
                     write_global(row.global + offset, block.shared(address), count, map.element,
                                  adds);
                   });
  });
}

BulkGroups& own_groups() {
  return current->block->async().bulk_groups[current->id];
}

void check_bulk(uint32_t bytes) {
  if (bytes == 0 || bytes % 16 != 0) {
    current->block->fail("a bulk copy of " + std::to_string(bytes) +
                         " bytes; it moves a multiple of 16");
  }
}

}  // namespace

CUtensorMap encode_tensor_map(Element element, uint32_t rank, const void* data,
                              const uint64_t* sizes, const uint64_t* strides, const uint32_t* box,
                              uint32_t span) {
  const uint32_t size = element_bytes(element);
  CUtensorMap map{};
  map.data = static_cast<char*>(const_cast<void*>(data));
  map.rank = rank;
  map.element = element;
  map.span = span;
  std::string refused;
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0) refused = "data not at a multiple of 16 bytes";
  if (rank < 1 || rank > 5) refused = "rank " + std::to_string(rank);
  for (uint32_t dim = 0; dim < std::min(rank, 5u); ++dim) {
    map.sizes[dim] = sizes[dim];
    map.box[dim] = box[dim];
    map.strides[dim] = dim == 0 ? size : strides[dim - 1];
    if (sizes[dim] == 0 || sizes[dim] > 1ull << 32) refused = "a size of " + std::to_string(sizes[dim]);
    if (box[dim] == 0 || box[dim] > 256) refused = "a box of " + std::to_string(box[dim]);
    if (dim > 0 && (map.strides[dim] % 16 != 0 || map.strides[dim] >= 1ull << 40)) {
      refused = "a stride of " + std::to_string(map.strides[dim]) + " bytes";
    }
  }
  const uint32_t row = box[0] * size;
  if (row % 16 != 0) refused = "box rows of " + std::to_string(row) + " bytes";
  if (span > 16 && row > span) refused = "box rows longer than the swizzle's span";
  if (!refused.empty()) throw std::runtime_error("emulator: tensor map: " + refused);
  if (span > 16 && row != span) {
    throw std::runtime_error("emulator: tensor map: swizzled rows must fill the span here");
  }
  return map;
}

void tma_load(uint32_t to, const CUtensorMap* map, uint32_t mbarrier, const int32_t* corner,
              uint32_t rank) {
  Block& block = *current->block;
  check_tile(map, to, rank);
  for_each_row(*map, corner, [&](const BoxRow& row) {
    if (row.global != nullptr) check_global(row.global, row.end - row.begin, 1);
  });
  if (Shadow* shadow = block.shadow()) {
    shadow->begin_copy(*current, to - shared_base, tile_bytes(*map), Access::copy);
  }
  std::vector<int32_t> at(corner, corner + rank);
  start_copy(mbarrier, [map = *map, to, at](Mbarrier& barrier) {
    load_tile(barrier, map, to, at.data());
  });
}

void tma_store(const CUtensorMap* map, uint32_t from, const int32_t* corner, uint32_t rank,
               bool adds) {
  check_tile(map, from, rank);
  for_each_row(*map, corner, [&](const BoxRow& row) {
    if (row.global != nullptr) check_global(row.global, row.end - row.begin, 1);
  });
  current->block->read(from, tile_bytes(*map), Access::copy);
  std::vector<int32_t> at(corner, corner + rank);
  own_groups().add([map = *map, from, at, adds] { store_tile(map, from, at.data(), adds); });
}

void bulk_load(uint32_t to, const void* from, uint32_t bytes, uint32_t mbarrier) {
  Block& block = *current->block;
  check_bulk(bytes);
  block.check_shared(to, bytes, 16);
  check_global(from, bytes, 16);
  if (Shadow* shadow = block.shadow()) {
    shadow->begin_copy(*current, to - shared_base, bytes, Access::copy);
  }
  start_copy(mbarrier, [to, from, bytes](Mbarrier& barrier) {
    ++barrier.engine_clock;
    land(barrier, to, bytes);
    std::memcpy(current->block->shared(to), from, bytes);
    bring_bytes(barrier, bytes);
  });
}

void bulk_store(void* to, uint32_t from, uint32_t bytes, bool adds) {
  check_bulk(bytes);
  current->block->check_shared(from, bytes, 16);
  check_global(to, bytes, 16);
  current->block->read(from, bytes, Access::copy);
  own_groups().add([to, from, bytes, adds] {
    current->block->read(from, bytes, Access::copy);
    write_global(static_cast<char*>(to), current->block->shared(from), bytes, Element::f32, adds);
  });
}

void bulk_commit() {
  ++own_groups().committed;
}

void bulk_wait(uint32_t pending) {
  BulkGroups& groups = own_groups();
  while (!groups.copies.empty() && groups.copies.front().group + pending < groups.committed) {
    const auto copy = std::move(groups.copies.front().copy);
    groups.copies.erase(groups.copies.begin());
    copy();
  }
}

}  // namespace megafm::emulator
