// What the forward and the backward loops of attention share: rows as lanes, packing, masks.
//
// Scores are held transposed, keys x rows, so that the lanes of a vector are rows: their maxima and
// sums need no shuffles, and keys and values are read as they lie, an element broadcast at a time.

#pragma once

#include "cpu/attention.h"
#include "cpu/attention_operand.h"
#include "cpu/transpose_tile.h"
#include "cpu/vector_math.h"

namespace megafm::cpu::MEGAFM_ISA {

// Hands out parts of a buffer, each aligned to vectors.
struct Arena {
  float* next;

  template <typename E = float>
  E* take(int64_t count) {
    static_assert(sizeof(E) == sizeof(float));
    float* part = next;
    next += round_up(count, column_multiple);
    return reinterpret_cast<E*>(part);
  }
};

// Up to lane_count rows. Lanes beyond `rows` repeat the last row's interval.
struct Lanes {
  int64_t row;    // the first
  int64_t rows;
  int64_t count;  // rows, rounded up to column_multiple
  int32_t begin;  // some row sees keys of [begin, end) only; begin == end: none sees any
  int32_t end;
  alignas(vector_bytes) int32_t first[lane_count];
  alignas(vector_bytes) int32_t last[lane_count];
};

static inline Lanes make_lanes(const AttentionShape& shape, int64_t row, int64_t end) {
  Lanes lanes;
  lanes.row = row;
  lanes.rows = end - row < lane_count ? end - row : lane_count;
  lanes.count = round_up(lanes.rows, column_multiple);
  lanes.begin = INT32_MAX;
  lanes.end = 0;
  for (int64_t lane = 0; lane < lanes.count; ++lane) {
    const int64_t real = lane < lanes.rows ? lane : lanes.rows - 1;
    const int64_t position = (row + real) / shape.group;
    const int32_t first = shape.first[position], last = shape.last[position];
    lanes.first[lane] = first;
    lanes.last[lane] = last;
    if (first < last) {
      lanes.begin = first < lanes.begin ? first : lanes.begin;
      lanes.end = last > lanes.end ? last : lanes.end;
    }
  }
  lanes.begin = lanes.begin < lanes.end ? lanes.begin : lanes.end;
  return lanes;
}

// Whether some lane sees less than all of keys [key, key + count).
static inline bool is_partial(const Lanes& lanes, int32_t key, int64_t count) {
  int32_t partial = count % row_multiple != 0;
#pragma omp simd reduction(| : partial)
  for (int64_t lane = 0; lane < lanes.count; ++lane) {
    partial |= lanes.first[lane] > key || lanes.last[lane] < key + count;
  }
  return partial != 0;
}

template <typename T>
static inline T* row_data(const RowsView<T>& view, int64_t row, int64_t group) {
  return view.data + row / group * view.position + row % group * view.head;
}

// count keys from `begin`, ld apart; zeros up to ld and to a multiple of rows.
template <typename T, typename E>
static void pack_keys(const HeadView<const T>& view, int64_t begin, int64_t count, int64_t dim,
                      int64_t ld, E* to) {
  for (int64_t j = 0; j < round_up(count, row_multiple); ++j, to += ld) {
    pack_row(view.data + (begin + j) * view.stride, j < count ? dim : 0, ld, 1, to);
  }
}

// The rows of `lanes`, floats times `factor`, lanes x ld, zeros beyond.
template <typename T, typename E>
static void pack_rows(const RowsView<const T>& view, const Lanes& lanes, int64_t group, int64_t dim,
                      int64_t ld, float factor, E* to) {
  for (int64_t lane = 0; lane < lanes.count; ++lane, to += ld) {
    const int64_t used = lane < lanes.rows ? dim : 0;
    pack_row(used == 0 ? nullptr : row_data(view, lanes.row + lane, group), used, ld, factor, to);
  }
}

// Packed rows (lanes x ld) to columns (ld x lanes, lane_count apart).
template <typename E>
static void transpose_rows(const E* rows, int64_t ld, int64_t lanes, E* to) {
  const auto* from = reinterpret_cast<const float*>(rows);
  for (int64_t lane = 0; lane < lanes; lane += vec_width) {
    for (int64_t d = 0; d < ld; d += vec_width) {
      transpose_tile(from + lane * ld + d, ld,
                     reinterpret_cast<float*>(to) + d * lane_count + lane, lane_count);
    }
  }
}

// What lies between the first of two multiples and the last is worked on in blocks of key_block.
static inline int32_t block_begin(int32_t key) {
  return key / static_cast<int32_t>(key_block) * static_cast<int32_t>(key_block);
}

// The lanes that see the key.
static inline ivec sees(const Lanes& lanes, int64_t lane, int32_t key) {
  const ivec first = *reinterpret_cast<const ivec*>(lanes.first + lane);
  const ivec last = *reinterpret_cast<const ivec*>(lanes.last + lane);
  return (first <= key) & (last > key);
}

// Writes a row of the output and its logsumexp: `total` sums exp(score - most), `sum` these times
// the values.
template <typename T>
static void end_row(const AttentionForward<T>& at, int64_t row, float most, float total,
                    const float* sum) {
  const AttentionShape& shape = at.shape;
  const int64_t head = row % shape.group;
  float scale = 1;
  if (at.sinks != nullptr) {
    const float above = at.sinks[head] > most ? at.sinks[head] : most;
    scale = most > -__builtin_inff() ? __builtin_expf(most - above) : 0;
    total = total * scale + __builtin_expf(at.sinks[head] - above);
    most = above;
  }
  const bool none = most == -__builtin_inff() && total == 0;
  scale = none ? 0 : scale / total;
  const bool infinite = none || most == __builtin_inff();  // then total says nothing
  at.lse[head * shape.seq_q + row / shape.group] = infinite ? most : most + __builtin_logf(total);
  T* to = row_data(at.out, row, shape.group);
#pragma omp simd
  for (int64_t d = 0; d < shape.dim_v; ++d) {
    store(to[d], sum[d] * scale);
  }
}

static inline vec cap_score(vec score, float softcap) {
  return softcap * tanh(score / softcap);
}

}  // namespace megafm::cpu::MEGAFM_ISA
