// Attention, the forward loops: compiled once per instruction set (isa.h).
//
// Per lanes of 64 rows and block of 64 keys: scores = k q^T, an online softmax (Milakov and
// Gimelshein 2018; Dao et al. 2022), out = out * rescale + weights v. 4 * dim FLOPs a score.

#include "cpu/attention_tile.h"

namespace megafm::cpu::MEGAFM_ISA {
namespace {

// Words of a packed key, and floats of a row of the output.
template <typename E>
struct Sizes {
  int64_t ld_k;
  int64_t ld_v;

  explicit Sizes(const AttentionShape& shape)
      : ld_k(round_up(steps_of<E>(shape.dim), column_multiple)),
        ld_v(round_up(shape.dim_v, column_multiple)) {}
};

// The state of the online softmax of one Lanes.
template <typename E>
struct State {
  Lanes lanes;
  E* queries;      // ld_k x lane_count
  float* out;      // lane_count x ld_v
  float* most;     // (lane_count,) largest score so far
  float* total;    // sum of exp(score - most)
  float* rescale;  // what the last block made of the earlier ones
};

// scores (keys x lanes) to weights exp(score - most), with `most` and `total` brought up to date.
// The weights take the place of the scores.
template <typename E, bool masked, bool capped>
void softmax_block(const AttentionShape& shape, State<E>& state, int32_t key, int64_t count,
                   float* scores) {
  const float scale = scale_of_scores<E>(shape);
  for (int64_t lane = 0; lane < state.lanes.count; lane += vec_width) {
    const vec before = at_vec(state.most + lane);
    vec most[row_multiple] = {before, before, before, before};
    for (int64_t j = 0; j < count; j += row_multiple) {
#pragma GCC unroll 4
      for (int u = 0; u < row_multiple; ++u) {
        vec& at = at_vec(scores + (j + u) * lane_count + lane);
        vec score = at * scale;
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
        most[u] = larger(score, most[u]);
      }
    }
    most[0] = larger(larger(most[0], most[1]), larger(most[2], most[3]));
    const vec shift = most[0] > -__builtin_inff() ? most[0] : vec{};  // where no key is seen yet
    vec total[row_multiple] = {};
    const float left = capped || masked ? 1 : scale;  // the others were not written back
    for (int64_t j = 0; j < count; j += row_multiple) {
      vec weights[row_multiple];
#pragma GCC unroll 4
      for (int u = 0; u < row_multiple; ++u) {
        const vec score = at_vec(scores + (j + u) * lane_count + lane);
        weights[u] = exp_of_negative(score * left - shift);
        total[u] += weights[u];
      }
      store_steps(weights, reinterpret_cast<E*>(scores) + steps_of<E>(j) * lane_count + lane);
    }
    const vec rescale = exp_of_negative(before - shift);
    at_vec(state.most + lane) = most[0];
    at_vec(state.rescale + lane) = rescale;
    vec& sum = at_vec(state.total + lane);
    sum = sum * rescale + ((total[0] + total[1]) + (total[2] + total[3]));
  }
}

template <typename E>
void attend_block(const AttentionShape& shape, State<E>& state, const E* keys, const E* values,
                  int32_t key, int64_t count, float* scores) {
  const Sizes<E> sizes(shape);
  const int64_t ld_v = sizes.ld_v, rows = round_up(count, row_multiple);
  gemm<Start::zero>(Factor<E>{keys, sizes.ld_k, 1}, state.queries, lane_count, scores, lane_count,
                    rows, state.lanes.count, steps_of<E>(shape.dim));
  const bool masked = is_partial(state.lanes, key, count), capped = shape.softcap != 0;
  const auto softmax =
      masked ? capped ? softmax_block<E, true, true> : softmax_block<E, true, false>
      : capped ? softmax_block<E, false, true>
               : softmax_block<E, false, false>;
  softmax(shape, state, key, rows, scores);
  gemm<Start::scaled>(Factor<E>{reinterpret_cast<E*>(scores), 1, lane_count}, values, ld_v,
                      state.out, ld_v, round_up(state.lanes.rows, row_multiple), ld_v,
                      steps_of<E>(rows), state.rescale);
}

template <typename E, typename T>
State<E> begin_rows(const AttentionForward<T>& at, int64_t row, int64_t end, E* packed,
                    Arena& arena) {
  const AttentionShape& shape = at.shape;
  const auto [ld_k, ld_v] = Sizes<E>(shape);
  State<E> state{make_lanes(shape, row, end),
                 arena.take<E>(ld_k * lane_count),
                 arena.take(lane_count * ld_v),
                 arena.take(lane_count),
                 arena.take(lane_count),
                 arena.take(lane_count)};
  pack_rows(at.q, state.lanes, shape.group, shape.dim, ld_k, scale_of_queries<E>(shape), packed);
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

template <typename E, typename T>
void end_rows(const AttentionForward<T>& at, const State<E>& state) {
  const int64_t ld_v = Sizes<E>(at.shape).ld_v;
  for (int64_t lane = 0; lane < state.lanes.rows; ++lane) {
    end_row(at, state.lanes.row + lane, state.most[lane], state.total[lane],
            state.out + lane * ld_v);
  }
}

// As pack_keys, for a product that sums over keys.
template <typename T>
void pack_steps(const HeadView<const T>& view, int64_t begin, int64_t count, int64_t dim,
                int64_t ld, float* to) {
  pack_keys(view, begin, count, dim, ld, to);
}

#if defined(__AVX512BF16__)
void pack_steps(const HeadView<const bf16>& view, int64_t begin, int64_t count, int64_t dim,
                int64_t ld, bf16_pair* to) {
  for (int64_t j = 0; j < round_up(count, row_multiple); j += 2, to += ld) {
    const bf16* first = view.data + (begin + j) * view.stride;
    pair_rows(first, j < count ? dim : 0, first + view.stride, j + 1 < count ? dim : 0, ld, to);
  }
}
#endif

}  // namespace

template <typename T>
int64_t attention_buffer(const AttentionShape& shape) {
  using E = typename Operand<T>::type;
  const auto [ld_k, ld_v] = Sizes<E>(shape);
  const int64_t state = ld_k + ld_v + 3;
  const int64_t per_lane = key_block + ld_k + groups_per_task * state;
  return shape.key_chunk * ld_k + steps_of<E>(shape.key_chunk) * ld_v + lane_count * per_lane;
}

template <typename T>
void attention_forward(const AttentionForward<T>& at, int64_t begin, int64_t end, float* buffer) {
  using E = typename Operand<T>::type;
  const AttentionShape& shape = at.shape;
  const auto [ld_k, ld_v] = Sizes<E>(shape);
  Arena arena{buffer};
  E* keys = arena.take<E>(shape.key_chunk * ld_k);
  E* values = arena.take<E>(steps_of<E>(shape.key_chunk) * ld_v);
  float* scores = arena.take(key_block * lane_count);
  E* packed = arena.take<E>(lane_count * ld_k);  // rows, before they are transposed
  State<E> states[groups_per_task];
  int64_t groups = 0;
  int32_t first = INT32_MAX, last = 0;
  for (int64_t row = begin; row < end; row += lane_count) {
    State<E>& state = states[groups++] = begin_rows(at, row, end, packed, arena);
    first = state.lanes.begin < first ? state.lanes.begin : first;
    last = state.lanes.end > last ? state.lanes.end : last;
  }
  for (int64_t chunk = block_begin(first); chunk < last; chunk += shape.key_chunk) {
    const int64_t stop = chunk + shape.key_chunk < last ? chunk + shape.key_chunk : last;
    pack_keys(at.k, chunk, stop - chunk, shape.dim, ld_k, keys);
    pack_steps(at.v, chunk, stop - chunk, shape.dim_v, ld_v, values);
    for (int64_t group = 0; group < groups; ++group) {
      State<E>& state = states[group];
      const int64_t from = block_begin(state.lanes.begin);
      const int64_t until = state.lanes.end < stop ? state.lanes.end : stop;
      for (int64_t key = from > chunk ? from : chunk; key < until; key += key_block) {
        const int64_t count = until - key < key_block ? until - key : key_block;
        const int64_t offset = key - chunk;
        attend_block(shape, state, keys + offset * ld_k, values + steps_of<E>(offset) * ld_v,
                     static_cast<int32_t>(key), count, scores);
      }
    }
  }
  for (int64_t group = 0; group < groups; ++group) {
    end_rows(at, states[group]);
  }
}

template int64_t attention_buffer<float>(const AttentionShape&);
template int64_t attention_buffer<bf16>(const AttentionShape&);
template void attention_forward(const AttentionForward<float>&, int64_t, int64_t, float*);
template void attention_forward(const AttentionForward<bf16>&, int64_t, int64_t, float*);

}  // namespace megafm::cpu::MEGAFM_ISA
