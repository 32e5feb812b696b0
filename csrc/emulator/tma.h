// Bulk copies: tiles of tensors and plain bytes, between global and shared memory.

#pragma once

#include "emulator/async.h"

namespace megafm::emulator {

enum class Element : uint32_t { f32, f16, bf16 };

inline uint32_t element_bytes(Element element) {
  return element == Element::f32 ? 4 : 2;
}

// The 16-byte chunks of a row change places by the address bits above them: span is 16 (none), 32,
// 64 or 128 bytes. It is an involution on absolute shared addresses.
inline uint32_t swizzled(uint32_t address, uint32_t span) {
  return address ^ ((address >> 7) & (span / 16 - 1)) << 4;
}

}  // namespace megafm::emulator

// What cuTensorMapEncodeTiled makes; dimension 0 is contiguous.
struct alignas(64) CUtensorMap {
  char* data;
  uint64_t sizes[5];
  uint64_t strides[5];  // bytes
  uint32_t box[5];
  uint32_t rank;
  megafm::emulator::Element element;
  uint32_t span;  // of the swizzle, bytes
};

namespace megafm::emulator {

// Throws std::runtime_error where the driver would refuse.
CUtensorMap encode_tensor_map(Element element, uint32_t rank, const void* data,
                              const uint64_t* sizes, const uint64_t* strides, const uint32_t* box,
                              uint32_t span);

void tma_load(uint32_t to, const CUtensorMap* map, uint32_t mbarrier, const int32_t* corner,
              uint32_t rank);
void tma_store(const CUtensorMap* map, uint32_t from, const int32_t* corner, uint32_t rank,
               bool adds);
void bulk_load(uint32_t to, const void* from, uint32_t bytes, uint32_t mbarrier);
void bulk_store(void* to, uint32_t from, uint32_t bytes, bool adds);
void bulk_commit();
void bulk_wait(uint32_t pending);

}  // namespace megafm::emulator
