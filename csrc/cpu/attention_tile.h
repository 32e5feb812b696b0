// What the forward and the backward loops of attention share: rows as lanes, packing, masks.
//
// Scores are held transposed, keys x rows, so that the lanes of a vector are rows: their maxima and
// sums need no shuffles, and keys and values are read as they lie, an element broadcast at a time.

#pragma once

#include "cpu/attention.h"
#include "cpu/gemm_tile.h"
#include "cpu/transpose_tile.h"
#include "cpu/vector_math.h"

namespace megafm::cpu::MEGAFM_ISA {

static inline vec& at_vec(float* data) {
  return *reinterpret_cast<vec*>(data);
}

static inline const vec& at_vec(const float* data) {
  return *reinterpret_cast<const vec*>(data);
}

// Hands out parts of a buffer, each aligned to vectors.
struct Arena {
  float* next;

  float* take(int64_t floats) {
    float* part = next;
    next += round_up(floats, column_multiple);
    return part;
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

// count keys from `begin` as floats, ld apart; zeros up to ld and to a multiple of rows.
template <typename T>
static void pack_keys(const HeadView<const T>& view, int64_t begin, int64_t count, int64_t dim,
                      int64_t ld, float* to) {
  for (int64_t j = 0; j < round_up(count, row_multiple); ++j, to += ld) {
    const int64_t used = j < count ? dim : 0;
    const T* from = view.data + (begin + j) * view.stride;
#pragma omp simd
    for (int64_t d = 0; d < used; ++d) {
      to[d] = load(from[d]);
    }
    for (int64_t d = used; d < ld; ++d) {
      to[d] = 0;
    }
  }
}

// The rows of `lanes` times `factor`, lanes x ld, zeros beyond.
template <typename T>
static void pack_rows(const RowsView<const T>& view, const Lanes& lanes, int64_t group, int64_t dim,
                      int64_t ld, float factor, float* to) {
  for (int64_t lane = 0; lane < lanes.count; ++lane, to += ld) {
    const int64_t used = lane < lanes.rows ? dim : 0;
    const T* from = used == 0 ? nullptr : row_data(view, lanes.row + lane, group);
#pragma omp simd
    for (int64_t d = 0; d < used; ++d) {
      to[d] = load(from[d]) * factor;
    }
    for (int64_t d = used; d < ld; ++d) {
      to[d] = 0;
    }
  }
}

// Packed rows (lanes x ld) to columns (ld x lanes, lane_count apart).
static void transpose_rows(const float* rows, int64_t ld, int64_t lanes, float* to) {
  for (int64_t lane = 0; lane < lanes; lane += vec_width) {
    for (int64_t d = 0; d < ld; d += vec_width) {
      transpose_tile(rows + lane * ld + d, ld, to + d * lane_count + lane, lane_count);
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

static inline vec cap_score(vec score, float softcap) {
  return softcap * tanh(score / softcap);
}

}  // namespace megafm::cpu::MEGAFM_ISA
