#include "emulator/wgmma.h"

#include <algorithm>
#include <bit>

#include "emulator/async.h"
#include "emulator/tma.h"

namespace megafm::emulator {
namespace {

typedef float Row8 __attribute__((vector_size(32)));

constexpr uint32_t poison = 0x7fffdead;  // a NaN

// PTX ISA, "Matrix Descriptor Format" of wgmma.
struct Descriptor {
  uint32_t start, leading, stride;  // bytes
  uint32_t span;                    // of the swizzle, bytes

  explicit Descriptor(uint64_t bits)
      : start(static_cast<uint32_t>(bits & 0x3fff) << 4),
        leading(static_cast<uint32_t>(bits >> 16 & 0x3fff) << 4),
        stride(static_cast<uint32_t>(bits >> 32 & 0x3fff) << 4),
        span(bits >> 62 == 0 ? 16 : 256u >> (bits >> 62)) {
    if (bits >> 49 & 7) current->block->fail("a matrix descriptor with a base offset");
  }

  // Where 8 elements in a row, from (outer, k) on, lie. outer counts m or n. With T = 8 elements,
  // 16 bytes, the canonical layouts are, K major, ((8, m), (T, 2)) : ((span, stride), (1, T)), and
  // ((T, span / 16, m), (8, k)) : ((1, T, leading), (span, stride)) for the transposed.
  uint32_t chunk(uint32_t outer, uint32_t k, bool transposed) const {
    uint32_t at = start;
    if (!transposed) {
      at += outer / 8 * stride + outer % 8 * span;
      at += k / 8 * (span == 16 ? leading : 16);
    } else if (span == 16) {
      at += outer / 8 * stride + k / 8 * leading + k % 8 * 16;
    } else {
      const uint32_t width = span / 2;  // elements
      at += outer / width * leading + outer % width / 8 * 16 + k / 8 * stride + k % 8 * span;
    }
    return swizzled(at, span);
  }
};

template <typename T>
float to_float(uint16_t bits) {
  return std::bit_cast<T>(bits);
}

float element(uint16_t bits, bool is_bf16) {
  return is_bf16 ? to_float<__nv_bfloat16>(bits) : to_float<__half>(bits);
}

// Visit every 16-byte chunk of rows [begin, begin + count) of a matrix with k of 16:
// visit(address, outer, k), whose 8 elements go along k, or along outer if transposed.
template <typename Visit>
void for_each_chunk(uint64_t descriptor, bool transposed, uint32_t begin, uint32_t count,
                    Visit visit) {
  const Descriptor matrix(descriptor);
  const uint32_t outer_step = transposed ? 8 : 1, k_step = transposed ? 1 : 8;
  for (uint32_t outer = begin; outer < begin + count; outer += outer_step) {
    for (uint32_t k = 0; k < 16; k += k_step) {
      visit(matrix.chunk(outer, k, transposed), outer, k);
    }
  }
}

void look_at(uint64_t descriptor, bool transposed, uint32_t begin, uint32_t count,
             uint32_t bytes) {
  Block& block = *current->block;
  for_each_chunk(descriptor, transposed, begin, count, [&](uint32_t address, uint32_t, uint32_t) {
    block.check_shared(address, 16, 16);
    block.read(address, bytes, Access::copy);
  });
}

// Element (outer, k) goes to at(outer - begin, k).
template <typename At>
void load_matrix(uint64_t descriptor, bool transposed, uint32_t begin, uint32_t count,
                 bool is_bf16, At at) {
  Block& block = *current->block;
  for_each_chunk(descriptor, transposed, begin, count,
                 [&](uint32_t address, uint32_t outer, uint32_t k) {
                   const auto* bits = reinterpret_cast<const uint16_t*>(block.shared(address));
                   for (uint32_t i = 0; i < 8; ++i) {
                     float& to = transposed ? at(outer - begin + i, k) : at(outer - begin, k + i);
                     to = element(bits[i], is_bf16);
                   }
                 });
}

// The rows of a warpgroup's matrix that this warp makes.
uint32_t first_row() {
  return current->warp->id % 4 * 16;
}

// Accumulator i of a lane: row and column within the warp's 16 rows.
uint32_t row_of(uint32_t lane, uint32_t i) {
  return lane / 4 + 8 * (i / 2 % 2);
}
uint32_t column_of(uint32_t lane, uint32_t i) {
  return i / 4 * 8 + 2 * (lane % 4) + i % 2;
}

template <typename Visit>
void for_each_accumulator(WarpProducts::Sum& sum, Visit visit) {
  for (uint32_t lane = 0; lane < warp_size; ++lane) {
    for (uint32_t i = 0; i < sum.n / 2; ++i) {
      visit(sum.d[lane][i], sum.rows[row_of(lane, i)][column_of(lane, i)]);
    }
  }
}

void take_accumulators(WarpProducts::Sum& sum) {
  for_each_accumulator(sum, [](float& held, float& value) {
    value = held;
    held = std::bit_cast<float>(poison);
  });
}

void give_accumulators(WarpProducts::Sum& sum) {
  for_each_accumulator(sum, [](float& held, float& value) {
    if (std::bit_cast<uint32_t>(held) != poison) {
      current->block->fail("an accumulator was written while its wgmma was under way");
    }
    held = value;
  });
}

// `bytes` of each 16: all, or the first word.
void look_at_operands(const Wgmma& operation, uint32_t bytes) {
  if (operation.a_registers == nullptr) {
    look_at(operation.a, operation.transposed_a, first_row(), 16, bytes);
  }
  look_at(operation.b, operation.transposed_b, 0, operation.n, bytes);
}

void multiply(WarpProducts::Product& product) {
  const Wgmma& operation = product.operation;
  float a[16][16];
  alignas(32) float b[16][max_n];
  if (operation.a_registers == nullptr) {
    load_matrix(operation.a, operation.transposed_a, first_row(), 16, operation.is_bf16,
                [&](uint32_t row, uint32_t k) -> float& { return a[row][k]; });
  } else {
    for (uint32_t lane = 0; lane < warp_size; ++lane) {
      for (uint32_t i = 0; i < 8; ++i) {
        const uint32_t pair = product.a_registers[lane][i / 2];
        a[row_of(lane, i)][column_of(lane, i)] =
            element(static_cast<uint16_t>(pair >> (16 * (i % 2))), operation.is_bf16);
      }
    }
  }
  load_matrix(operation.b, operation.transposed_b, 0, operation.n, operation.is_bf16,
              [&](uint32_t column, uint32_t k) -> float& { return b[k][column]; });
  for (uint32_t row = 0; row < 16; ++row) {
    for (uint32_t column = 0; column < operation.n; column += 8) {
      auto* to = reinterpret_cast<Row8*>(&product.sum->rows[row][column]);
      Row8 sum = operation.accumulates ? *to : Row8{};
      for (uint32_t k = 0; k < 16; ++k) {
        sum += a[row][k] * *reinterpret_cast<const Row8*>(&b[k][column]);
      }
      *to = sum;
    }
  }
}

uint64_t digest(const Wgmma& operation) {
  const uint64_t a = operation.a_registers == nullptr ? operation.a : 0;
  return (a * 31 + operation.b) * 31 + operation.n;
}

// All warps of a warpgroup issue the same.
void check_warpgroup(WarpProducts& own, const Wgmma& operation) {
  Block& block = *current->block;
  auto& all = block.async().products;
  const size_t first = current->warp->id / 4 * 4;
  if (first + 4 > all.size()) block.fail("wgmma outside a warpgroup of four whole warps");
  own.issued.push_back(digest(operation));
  const size_t turn = own.issued.size() - 1;
  for (size_t warp = first; warp < first + 4; ++warp) {
    const auto& issued = all[warp].issued;
    if (issued.size() > turn && issued[turn] != own.issued[turn]) {
      block.fail("wgmma " + std::to_string(turn) + " differs from that of warp " +
                 std::to_string(warp) + " of the warpgroup");
    }
  }
}

WarpProducts& own_products() {
  return current->block->async().products[current->warp->id];
}

void check_whole(uint32_t lanes) {
  if (lanes != all_lanes) current->block->fail("wgmma by a part of a warp");
}

void issue(Wgmma* const* operands, uint32_t lanes) {
  check_whole(lanes);
  WarpProducts& own = own_products();
  const Wgmma& operation = *operands[0];
  check_warpgroup(own, operation);
  std::shared_ptr<WarpProducts::Sum> sum;
  for (auto& product : own.under_way) {
    if (product.sum->d[0] == operation.d) sum = product.sum;
  }
  if (sum == nullptr) {
    if (!own.fenced) current->block->fail("wgmma without wgmma_fence since the last wait");
    sum = std::make_shared<WarpProducts::Sum>();
    sum->n = operation.n;
    sum->products = 0;
    for (uint32_t lane = 0; lane < warp_size; ++lane) sum->d[lane] = operands[lane]->d;
    take_accumulators(*sum);
  }
  if (sum->n != operation.n) current->block->fail("one accumulator in wgmma of different n");
  ++sum->products;
  look_at_operands(operation, 4);
  WarpProducts::Product product{operation, {}, own.committed, sum};
  for (uint32_t lane = 0; operation.a_registers != nullptr && lane < warp_size; ++lane) {
    std::copy_n(operands[lane]->a_registers, 4, product.a_registers[lane]);
  }
  own.under_way.push_back(std::move(product));
}

void finish(WarpProducts& own, uint32_t pending) {
  size_t done = 0;
  for (; done < own.under_way.size(); ++done) {
    WarpProducts::Product& product = own.under_way[done];
    if (product.group + pending >= own.committed) break;
    look_at_operands(product.operation, 16);
    multiply(product);
    if (--product.sum->products == 0) give_accumulators(*product.sum);
  }
  own.under_way.erase(own.under_way.begin(), own.under_way.begin() + static_cast<ptrdiff_t>(done));
}

struct GroupWait {
  uint32_t pending;
};

void wait_all(GroupWait* const* operands, uint32_t lanes) {
  check_whole(lanes);
  own_products().fenced = false;
  finish(own_products(), operands[0]->pending);
}

void commit(Warp&, uint32_t lanes) {
  check_whole(lanes);
  ++own_products().committed;
}

void fence(Warp&, uint32_t lanes) {
  check_whole(lanes);
  own_products().fenced = true;
}

}  // namespace

void wgmma(const Wgmma& operation) {
  Wgmma operand = operation;
  gather<Wgmma, issue>("wgmma", all_lanes, operand);
}

void wgmma_fence() {
  gather(fence, "wgmma_fence", all_lanes, nullptr);
}

void wgmma_commit() {
  gather(commit, "wgmma_commit", all_lanes, nullptr);
}

void wgmma_wait(uint32_t pending) {
  GroupWait operand{pending};
  gather<GroupWait, wait_all>("wgmma_wait", all_lanes, operand);
}

void Registers::reset(Block& block) {
  const uint32_t most = std::min(256u, 65536 / block.num_threads() / 8 * 8);
  free = version = 0;
  per_thread.assign(block.num_warps(), most);
  waiting.clear();
}

namespace {

struct NewCount {
  uint32_t count;
  bool increases, granted;
  uint32_t version;
};

void change_count(NewCount* const* operands, uint32_t lanes) {
  check_whole(lanes);
  Block& block = *current->block;
  Registers& registers = block.async().registers;
  uint32_t& held = registers.per_thread[current->warp->id];
  const uint32_t count = operands[0]->count;
  const bool increases = operands[0]->increases;
  if (count % 8 != 0 || count < 24 || count > 256 || (increases ? count < held : count > held)) {
    block.fail("setmaxnreg from " + std::to_string(held) + " to " + std::to_string(count) +
               " registers a thread");
  }
  const bool granted = !increases || (count - held) * warp_size <= registers.free;
  if (granted) {
    registers.free += (held - count) * warp_size;  // modulo 2^32
    held = count;
    ++registers.version;
    for (Thread* thread : registers.waiting) block.wake(*thread);
    registers.waiting.clear();
  }
  for (uint32_t lane = 0; lane < warp_size; ++lane) {
    operands[lane]->granted = granted;
    operands[lane]->version = registers.version;
  }
}

}  // namespace

void set_max_registers(uint32_t count, bool increases) {
  Block& block = *current->block;
  Registers& registers = block.async().registers;
  NewCount operand{count, increases, false, 0};
  while (true) {
    gather<NewCount, change_count>("setmaxnreg", all_lanes, operand);
    if (operand.granted) return;
    if (operand.version != registers.version) continue;  // some came back since
    registers.waiting.push_back(current);
    block.suspend({"setmaxnreg to %u, of %u registers free", count, registers.free});
  }
}

void fence_proxy_async() {
  Thread& self = *current;
  fence_mbarrier_init();
  self.proxy_fences.push_back(self.clock++);
  self.seen_at_fence = self.seen;
}

}  // namespace megafm::emulator
