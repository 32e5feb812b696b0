#include "emulator/tensor_core.h"

#include "emulator/shared.h"

namespace megafm::emulator {
namespace {

typedef float Row8 __attribute__((vector_size(32)));

struct Matrices {
  uint32_t* registers;
  int count;
  bool transposed;
  uint32_t row;
};

void check_all_lanes(const char* name, uint32_t lanes) {
  if (lanes != all_lanes) current->block->fail(std::string(name) + " by a part of a warp");
}

// Element (row, column) of an 8 x 8 matrix: its lane, and which half of its register.
struct Place {
  int lane, half;
};
Place place_of(int row, int column, bool transposed) {
  if (transposed) std::swap(row, column);
  return {4 * row + column / 2, column % 2};
}

// Apply move(register of 32 bits as two 16-bit halves, place in shared memory) to all elements; each
// row is accessed by the lane that gave its address.
template <typename Move>
void for_each_element(Matrices* const* operands, bool is_load, Move move) {
  Block& block = *current->block;
  Thread* self = current;
  const int count = operands[0]->count;
  const bool transposed = operands[0]->transposed;
  for (int i = 0; i < 8 * count; ++i) {
    const uint32_t address = operands[i]->row;
    current = &self->warp->threads[i];  // who is blamed
    block.check_shared(address, 16, 16);
    if (is_load) {
      block.read(address, 16, Access::plain);
    } else {
      block.write(address, 16, Access::plain);
    }
    current = self;
    auto* row = reinterpret_cast<uint16_t*>(block.shared(address));
    for (int column = 0; column < 8; ++column) {
      const Place place = place_of(i % 8, column, transposed);
      auto* halves = reinterpret_cast<uint16_t*>(&operands[place.lane]->registers[i / 8]);
      move(halves[place.half], row[column]);
    }
  }
}

void load_matrices(Matrices* const* operands, uint32_t lanes) {
  check_all_lanes("ldmatrix", lanes);
  for_each_element(operands, true, [](uint16_t& held, uint16_t& shared) { held = shared; });
}

void store_matrices(Matrices* const* operands, uint32_t lanes) {
  check_all_lanes("stmatrix", lanes);
  for_each_element(operands, false, [](uint16_t& held, uint16_t& shared) { shared = held; });
}

// Both halves of a register as floats.
template <typename T>
void unpack(uint32_t pair, float& low, float& high) {
  T element;
  element.bits = static_cast<uint16_t>(pair);
  low = element;
  element.bits = static_cast<uint16_t>(pair >> 16);
  high = element;
}

}  // namespace

void ldmatrix(uint32_t* registers, int count, bool transposed, uint32_t row) {
  Matrices operand{registers, count, transposed, row};
  gather<Matrices, load_matrices>("ldmatrix", all_lanes, operand);
}

void stmatrix(const uint32_t* registers, int count, bool transposed, uint32_t row) {
  Matrices operand{const_cast<uint32_t*>(registers), count, transposed, row};
  gather<Matrices, store_matrices>("stmatrix", all_lanes, operand);
}

template <typename T>
void multiply(Mma* const* operands, uint32_t lanes) {
  check_all_lanes("mma.sync", lanes);
  float a[16][16];
  alignas(32) float b[16][8], d[16][8];
  for (int lane = 0; lane < 32; ++lane) {
    const Mma& own = *operands[lane];
    const int g = lane / 4, k = 2 * (lane % 4);
    for (int i = 0; i < 4; ++i) {
      float* pair = &a[g + 8 * (i % 2)][k + 8 * (i / 2)];
      unpack<T>(own.a[i], pair[0], pair[1]);
    }
    for (int i = 0; i < 2; ++i) unpack<T>(own.b[i], b[k + 8 * i][g], b[k + 8 * i + 1][g]);
    for (int i = 0; i < 4; ++i) d[g + 8 * (i / 2)][k + i % 2] = own.d[i];
  }
  for (int row = 0; row < 16; ++row) {
    auto* sum = reinterpret_cast<Row8*>(d[row]);
    for (int k = 0; k < 16; ++k) *sum += a[row][k] * *reinterpret_cast<const Row8*>(b[k]);
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, k = 2 * (lane % 4);
    for (int i = 0; i < 4; ++i) operands[lane]->d[i] = d[g + 8 * (i / 2)][k + i % 2];
  }
}

template void multiply<__nv_bfloat16>(Mma* const* operands, uint32_t lanes);
template void multiply<__half>(Mma* const* operands, uint32_t lanes);

}  // namespace megafm::emulator
