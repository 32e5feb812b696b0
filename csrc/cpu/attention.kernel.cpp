// Attention, the forward loops: compiled once per instruction set (isa.h).
//
// Per lanes of 64 rows and block of 64 keys: scores = k q^T, an online softmax (Milakov and
// Gimelshein 2018; Dao et al. 2022), out = out * rescale + weights v. 4 * dim FLOPs a score.

#include "cpu/attention_tile.h"

namespace megafm::cpu::MEGAFM_ISA {
namespace {

struct Sizes {
  int64_t ld_k;  // floats of a packed key, value
  int64_t ld_v;
};

Sizes sizes_of(const AttentionShape& shape) {
  return {round_up(shape.dim, column_multiple), round_up(shape.dim_v, column_multiple)};
}

// The state of the online softmax of one Lanes.
struct State {
  Lanes lanes;
  float* queries;  // ld_k x lane_count, scaled
  float* out;      // lane_count x ld_v
  float* most;     // (lane_count,) largest score so far
  float* total;    // sum of exp(score - most)
  float* rescale;  // what the last block made of the earlier ones
};

// scores (keys x lanes) to exp(score - most), with `most` and `total` brought up to date.
template <bool masked, bool capped>
void softmax_block(const AttentionShape& shape, State& state, int32_t key, int64_t count,
                   float* scores) {
  for (int64_t lane = 0; lane < state.lanes.count; lane += vec_width) {
    const vec before = at_vec(state.most + lane);
    vec most[row_multiple] = {before, before, before, before};
    for (int64_t j = 0; j < count; j += row_multiple) {
#pragma GCC unroll 4
      for (int u = 0; u < row_multiple; ++u) {
        vec& at = at_vec(scores + (j + u) * lane_count + lane);
        vec score = at;
        if (capped) {
          score = cap_score(score, shape.softcap);
        }
        if (masked) {
          const ivec seen = sees(state.lanes, lane, key + static_cast<int32_t>(j + u));
          score = seen ? score : vec{} - __builtin_inff();
        }
        if (capped || masked) {
          at = score;
        }
        most[u] = score > most[u] ? score : most[u];
      }
    }
    most[0] = most[0] > most[1] ? most[0] : most[1];
    most[2] = most[2] > most[3] ? most[2] : most[3];
    most[0] = most[0] > most[2] ? most[0] : most[2];
    const vec shift = most[0] > -__builtin_inff() ? most[0] : vec{};  // where no key is seen yet
    vec total[row_multiple] = {};
    for (int64_t j = 0; j < count; j += row_multiple) {
#pragma GCC unroll 4
      for (int u = 0; u < row_multiple; ++u) {
        vec& at = at_vec(scores + (j + u) * lane_count + lane);
        at = exp_of_normal(at - shift);
        total[u] += at;
      }
    }
    const vec rescale = exp_of_normal(before - shift);
    at_vec(state.most + lane) = most[0];
    at_vec(state.rescale + lane) = rescale;
    vec& sum = at_vec(state.total + lane);
    sum = sum * rescale + ((total[0] + total[1]) + (total[2] + total[3]));
  }
}

void attend_block(const AttentionShape& shape, State& state, const float* keys,
                  const float* values, int32_t key, int64_t count, float* scores) {
  const auto [ld_k, ld_v] = sizes_of(shape);
  const int64_t rows = round_up(count, row_multiple);
  gemm<Start::zero>({keys, ld_k, 1}, state.queries, lane_count, scores, lane_count, rows,
                    state.lanes.count, shape.dim);
  const bool masked = is_partial(state.lanes, key, count), capped = shape.softcap != 0;
  const auto softmax = masked ? capped ? softmax_block<true, true> : softmax_block<true, false>
                       : capped ? softmax_block<false, true>
                                : softmax_block<false, false>;
  softmax(shape, state, key, rows, scores);
  gemm<Start::scaled>({scores, 1, lane_count}, values, ld_v, state.out, ld_v,
                      round_up(state.lanes.rows, row_multiple), ld_v, rows, state.rescale);
}

template <typename T>
State begin_rows(const AttentionForward<T>& at, int64_t row, int64_t end, float* packed,
                 Arena& arena) {
  const AttentionShape& shape = at.shape;
  const auto [ld_k, ld_v] = sizes_of(shape);
  State state{make_lanes(shape, row, end), arena.take(ld_k * lane_count),
              arena.take(lane_count * ld_v), arena.take(lane_count),
              arena.take(lane_count),        arena.take(lane_count)};
  pack_rows(at.q, state.lanes, shape.group, shape.dim, ld_k, shape.scale, packed);
  transpose_rows(packed, ld_k, state.lanes.count, state.queries);
  for (int64_t i = 0; i < lane_count * ld_v; ++i) {
    state.out[i] = 0;
  }
  for (int64_t lane = 0; lane < lane_count; ++lane) {
    state.most[lane] = -__builtin_inff();
    state.total[lane] = 0;
  }
  return state;
}

template <typename T>
void end_rows(const AttentionForward<T>& at, const State& state) {
  const AttentionShape& shape = at.shape;
  const int64_t ld_v = sizes_of(shape).ld_v;
  for (int64_t lane = 0; lane < state.lanes.rows; ++lane) {
    const int64_t row = state.lanes.row + lane, head = row % shape.group;
    float most = state.most[lane], total = state.total[lane], scale = 1;
    if (at.sinks != nullptr) {
      const float above = at.sinks[head] > most ? at.sinks[head] : most;
      scale = most > -__builtin_inff() ? __builtin_expf(most - above) : 0;
      total = total * scale + __builtin_expf(at.sinks[head] - above);
      most = above;
    }
    const bool none = most == -__builtin_inff() && total == 0;
    scale = none ? 0 : scale / total;
    const bool infinite = none || most == __builtin_inff();  // then total says nothing
    at.lse[head * shape.seq_q + row / shape.group] =
        infinite ? most : most + __builtin_logf(total);
    T* to = row_data(at.out, row, shape.group);
    const float* from = state.out + lane * ld_v;
#pragma omp simd
    for (int64_t d = 0; d < shape.dim_v; ++d) {
      store(to[d], from[d] * scale);
    }
  }
}

}  // namespace

int64_t attention_buffer(const AttentionShape& shape) {
  const auto [ld_k, ld_v] = sizes_of(shape);
  const int64_t state = ld_k + ld_v + 3;
  const int64_t per_lane = key_block + ld_k + groups_per_task * state;
  return shape.key_chunk * (ld_k + ld_v) + lane_count * per_lane;
}

template <typename T>
void attention_forward(const AttentionForward<T>& at, int64_t begin, int64_t end, float* buffer) {
  const AttentionShape& shape = at.shape;
  const auto [ld_k, ld_v] = sizes_of(shape);
  Arena arena{buffer};
  float* keys = arena.take(shape.key_chunk * ld_k);
  float* values = arena.take(shape.key_chunk * ld_v);
  float* scores = arena.take(key_block * lane_count);
  float* packed = arena.take(lane_count * ld_k);  // rows, before they are transposed
  State states[groups_per_task];
  int64_t groups = 0;
  int32_t first = INT32_MAX, last = 0;
  for (int64_t row = begin; row < end; row += lane_count) {
    State& state = states[groups++] = begin_rows(at, row, end, packed, arena);
    first = state.lanes.begin < first ? state.lanes.begin : first;
    last = state.lanes.end > last ? state.lanes.end : last;
  }
  for (int64_t chunk = block_begin(first); chunk < last; chunk += shape.key_chunk) {
    const int64_t stop = chunk + shape.key_chunk < last ? chunk + shape.key_chunk : last;
    pack_keys(at.k, chunk, stop - chunk, shape.dim, ld_k, keys);
    pack_keys(at.v, chunk, stop - chunk, shape.dim_v, ld_v, values);
    for (int64_t group = 0; group < groups; ++group) {
      State& state = states[group];
      const int64_t from = block_begin(state.lanes.begin);
      const int64_t until = state.lanes.end < stop ? state.lanes.end : stop;
      for (int64_t key = from > chunk ? from : chunk; key < until; key += key_block) {
        const int64_t count = until - key < key_block ? until - key : key_block;
        attend_block(shape, state, keys + (key - chunk) * ld_k, values + (key - chunk) * ld_v,
                     static_cast<int32_t>(key), count, scores);
      }
    }
  }
  for (int64_t group = 0; group < groups; ++group) {
    end_rows(at, states[group]);
  }
}

template void attention_forward(const AttentionForward<float>&, int64_t, int64_t, float*);
template void attention_forward(const AttentionForward<bf16>&, int64_t, int64_t, float*);

}  // namespace megafm::cpu::MEGAFM_ISA
