// Attention, the backward loops: compiled once per instruction set (isa.h).
//
// Per block of 64 keys and lanes of 64 rows, with delta = sum(d_out * out) - d_lse per row:
//   p = exp(k q^T - lse)      d_v += p d_out      d_s = p * (v d_out^T - delta)
//   d_k += d_s q              d_q += d_s^T k
// 10 * dim FLOPs a score. All sums are fp32; d_k and d_v of a chunk of keys stay in cache while the
// rows pass, and a task owns them: no order of threads shows in the bits. Factors that are pairs of
// bf16 (attention_operand.h) round p and d_s; each is then laid out along rows or along keys.

#include "cpu/attention_tile.h"

namespace megafm::cpu::MEGAFM_ISA {
namespace {

// Words of packed rows of keys and values, and columns of their gradients.
template <typename E>
struct Sizes {
  int64_t ld_k;
  int64_t ld_v;
  int64_t columns_k;
  int64_t columns_v;

  explicit Sizes(const AttentionShape& shape)
      : ld_k(round_up(steps_of<E>(shape.dim), column_multiple)),
        ld_v(round_up(steps_of<E>(shape.dim_v), column_multiple)),
        columns_k(round_up(shape.dim, column_multiple)),
        columns_v(round_up(shape.dim_v, column_multiple)) {}
};

// The packed matrices of a task. Those named _steps are for products that sum over their rows.
template <typename E>
struct Buffers {
  Sizes<E> sizes;
  E* keys;  // key_chunk x ld_k
  E* values;
  float* d_keys;  // key_chunk x columns_k
  float* d_values;
  E* queries;    // lanes x ld_k
  E* queries_t;  // ld_k x lanes
  E* d_out;
  E* d_out_t;
  float* scores;    // keys x lanes
  float* d_scores;  // keys x lanes
  float* lse;       // (lanes,)
  float* delta;
  E* keys_steps;
  E* queries_steps;
  E* d_out_steps;
  E* d_scores_steps;
};

template <typename E>
Buffers<E> take_buffers(const AttentionShape& shape, float* buffer) {
  Arena arena{buffer};
  const Sizes<E> sizes(shape);
  const auto [ld_k, ld_v, columns_k, columns_v] = sizes;
  const int64_t chunk = shape.key_chunk;
  return {sizes,
          arena.take<E>(chunk * ld_k),
          arena.take<E>(chunk * ld_v),
          arena.take(chunk * columns_k),
          arena.take(chunk * columns_v),
          arena.take<E>(lane_count * ld_k),
          arena.take<E>(lane_count * ld_k),
          arena.take<E>(lane_count * ld_v),
          arena.take<E>(lane_count * ld_v),
          arena.take(key_block * lane_count),
          arena.take(key_block * lane_count),
          arena.take(lane_count),
          arena.take(lane_count),
          arena.take<E>(words_of_steps<E>(chunk, columns_k)),
          arena.take<E>(words_of_steps<E>(lane_count, columns_k)),
          arena.take<E>(words_of_steps<E>(lane_count, columns_v)),
          arena.take<E>(words_of_steps<E>(key_block, lane_count))};
}

template <typename E>
int64_t buffer_floats(const AttentionShape& shape) {
  const auto [ld_k, ld_v, columns_k, columns_v] = Sizes<E>(shape);
  const int64_t chunk = shape.key_chunk;
  const int64_t rows = chunk * (ld_k + ld_v + columns_k + columns_v) +
                       2 * lane_count * (ld_k + ld_v + key_block + 1);
  const int64_t steps = words_of_steps<E>(chunk, columns_k) +
                        words_of_steps<E>(lane_count, columns_k + columns_v) +
                        words_of_steps<E>(key_block, lane_count);
  return rows + steps;
}

template <typename E, typename T>
void load_rows(const AttentionBackward<T>& at, const Lanes& lanes, Buffers<E>& to) {
  const AttentionShape& shape = at.shape;
  const auto [ld_k, ld_v, columns_k, columns_v] = to.sizes;
  pack_rows(at.q, lanes, shape.group, shape.dim, ld_k, scale_of_queries<E>(shape), to.queries);
  pack_rows(at.d_out, lanes, shape.group, shape.dim_v, ld_v, 1, to.d_out);
  transpose_rows(to.queries, ld_k, lanes.count, to.queries_t);
  transpose_rows(to.d_out, ld_v, lanes.count, to.d_out_t);
  to.queries_steps = to_steps(to.queries, ld_k, lanes.count, columns_k, to.queries_steps);
  to.d_out_steps = to_steps(to.d_out, ld_v, lanes.count, columns_v, to.d_out_steps);
  for (int64_t lane = 0; lane < lanes.count; ++lane) {
    const int64_t row = lanes.row + lane;
    const int64_t at_row = row % shape.group * shape.seq_q + row / shape.group;
    const bool seen = lane < lanes.rows && at.lse[at_row] != -__builtin_inff();
    to.lse[lane] = seen ? at.lse[at_row] : __builtin_inff();  // inf: all probabilities 0
    to.delta[lane] = seen ? at.delta[at_row] : 0;
  }
}

// From scores (q k) to probabilities, and from d_scores (gradients of probabilities) to gradients
// of the scores; keys x lanes. They take the place of what they come from.
template <typename E, bool masked, bool capped>
void softmax_block(const AttentionShape& shape, const Lanes& lanes, const Buffers<E>& at,
                   int32_t key, int64_t count) {
  const float scale = scale_of_scores<E>(shape);
  for (int64_t j = 0; j < count; j += 2) {
    for (int64_t lane = 0; lane < lanes.count; lane += vec_width) {
      float* scores = at.scores + j * lane_count;
      float* d_scores = at.d_scores + j * lane_count;
      vec p[2], d_score[2];
#pragma GCC unroll 2
      for (int u = 0; u < 2; ++u) {
        vec slope{}, logit = at_vec(scores + u * lane_count + lane) * scale;
        if (capped) {
          logit = cap_score(logit, shape.softcap);
          slope = 1.0f - (logit / shape.softcap) * (logit / shape.softcap);
        }
        p[u] = exp_of_negative(logit - at_vec(at.lse + lane));
        d_score[u] =
            p[u] * (at_vec(d_scores + u * lane_count + lane) - at_vec(at.delta + lane));
        if (capped) {
          d_score[u] *= slope;
        }
        if (masked) {  // last: the lse of the lane may be NaN
          const ivec seen = sees(lanes, lane, key + static_cast<int32_t>(j + u));
          p[u] = seen ? p[u] : vec{};
          d_score[u] = seen ? d_score[u] : vec{};
        }
      }
      store_rows(p, reinterpret_cast<E*>(scores) + steps_of<E>(lane));
      store_rows(d_score, reinterpret_cast<E*>(d_scores) + steps_of<E>(lane));
      if constexpr (is_paired<E>) {
        store_steps(d_score, at.d_scores_steps + j / 2 * lane_count + lane);
      }
    }
  }
}

template <typename E>
void backward_block(const AttentionShape& shape, const Lanes& lanes, const Buffers<E>& at,
                    int64_t offset, int32_t key, int64_t count, float* d_q) {
  const auto [ld_k, ld_v, columns_k, columns_v] = at.sizes;
  const int64_t rows = round_up(count, row_multiple);
  gemm<Start::zero>(Factor<E>{at.keys + offset * ld_k, ld_k, 1}, at.queries_t, lane_count,
                    at.scores, lane_count, rows, lanes.count, steps_of<E>(shape.dim));
  gemm<Start::zero>(Factor<E>{at.values + offset * ld_v, ld_v, 1}, at.d_out_t, lane_count,
                    at.d_scores, lane_count, rows, lanes.count, steps_of<E>(shape.dim_v));
  const bool masked = is_partial(lanes, key, count), capped = shape.softcap != 0;
  const auto softmax =
      masked ? capped ? softmax_block<E, true, true> : softmax_block<E, true, false>
      : capped ? softmax_block<E, false, true>
               : softmax_block<E, false, false>;
  softmax(shape, lanes, at, key, rows);
  const auto* p = reinterpret_cast<const E*>(at.scores);
  const auto* d_scores = reinterpret_cast<const E*>(at.d_scores);
  const E* d_scores_steps = is_paired<E> ? at.d_scores_steps : d_scores;
  gemm<Start::output>(Factor<E>{p, lane_count, 1}, at.d_out_steps, columns_v,
                      at.d_values + offset * columns_v, columns_v, rows, columns_v,
                      steps_of<E>(lanes.count));
  gemm<Start::output>(Factor<E>{d_scores, lane_count, 1}, at.queries_steps, columns_k,
                      at.d_keys + offset * columns_k, columns_k, rows, columns_k,
                      steps_of<E>(lanes.count));
  gemm<Start::output>(Factor<E>{d_scores_steps, 1, lane_count},
                      at.keys_steps + steps_of<E>(offset) * columns_k, columns_k, d_q, columns_k,
                      round_up(lanes.rows, row_multiple), columns_k, steps_of<E>(rows));
}

template <typename T>
void store_keys(const float* from, int64_t ld, int64_t count, int64_t dim, const HeadView<T>& view,
                int64_t key, float factor) {
  for (int64_t j = 0; j < count; ++j, from += ld) {
    T* to = view.data + (key + j) * view.stride;
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) {
      store(to[d], from[d] * factor);
    }
  }
}

}  // namespace

template <typename T>
int64_t attention_backward_buffer(const AttentionShape& shape) {
  return buffer_floats<typename Operand<T>::type>(shape);
}

template <typename T>
void attention_backward(const AttentionBackward<T>& at, int64_t key, float* d_q, float* buffer) {
  using E = typename Operand<T>::type;
  const AttentionShape& shape = at.shape;
  Buffers<E> buffers = take_buffers<E>(shape, buffer);
  const auto [ld_k, ld_v, columns_k, columns_v] = buffers.sizes;
  const int64_t rows = shape.seq_q * shape.group;
  const int64_t stop = key + shape.key_chunk < shape.seq_k ? key + shape.key_chunk : shape.seq_k;
  pack_keys(at.k, key, stop - key, shape.dim, ld_k, buffers.keys);
  pack_keys(at.v, key, stop - key, shape.dim_v, ld_v, buffers.values);
  buffers.keys_steps = to_steps(buffers.keys, ld_k, round_up(stop - key, row_multiple), columns_k,
                                buffers.keys_steps);
  for (int64_t i = 0; i < shape.key_chunk * columns_k; ++i) {
    buffers.d_keys[i] = 0;
  }
  for (int64_t i = 0; i < shape.key_chunk * columns_v; ++i) {
    buffers.d_values[i] = 0;
  }
  for (int64_t row = 0; row < rows; row += lane_count) {
    const Lanes lanes = make_lanes(shape, row, rows);
    const int64_t from = block_begin(lanes.begin) > key ? block_begin(lanes.begin) : key;
    const int64_t until = lanes.end < stop ? lanes.end : stop;
    if (from >= until) {
      continue;
    }
    load_rows(at, lanes, buffers);
    for (int64_t block = from; block < until; block += key_block) {
      const int64_t count = until - block < key_block ? until - block : key_block;
      backward_block(shape, lanes, buffers, block - key, static_cast<int32_t>(block), count,
                     d_q + row * columns_k);
    }
  }
  store_keys(buffers.d_keys, columns_k, stop - key, shape.dim, at.d_k, key,
             scale_of_scores<E>(shape));
  store_keys(buffers.d_values, columns_v, stop - key, shape.dim_v, at.d_v, key, 1);
}

template <typename T>
void attention_sum_parts(const AttentionShape& shape, float* parts, int64_t count,
                         int64_t part_stride, const RowsView<T>& d_q, int64_t begin, int64_t end) {
  const int64_t ld = round_up(shape.dim, column_multiple);
  for (int64_t row = begin; row < end; ++row) {
    float* sum = parts + row * ld;
    for (int64_t part = 1; part < count; ++part) {
      const float* addend = sum + part * part_stride;
#pragma omp simd
      for (int64_t d = 0; d < shape.dim; ++d) {
        sum[d] += addend[d];
      }
    }
    T* to = row_data(d_q, row, shape.group);
#pragma omp simd
    for (int64_t d = 0; d < shape.dim; ++d) {
      store(to[d], sum[d] * shape.scale);
    }
  }
}

template <typename T>
float attention_delta(const AttentionDelta<T>& at, float sink) {
  float d_sink = 0;
  for (int64_t i = 0; i < at.seq; ++i) {
    const T* out = at.out.data + i * at.out.stride;
    const T* d_out = at.d_out.data + i * at.d_out.stride;
    float dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t d = 0; d < at.dim_v; ++d) {
      dot += load(out[d]) * load(d_out[d]);
    }
    at.delta[i] = at.d_lse == nullptr ? dot : dot - at.d_lse[i];
    if (sink != -__builtin_inff()) {
      d_sink -= __builtin_expf(sink - at.lse[i]) * at.delta[i];
    }
  }
  return d_sink;
}

#define MEGAFM_INSTANTIATE(T)                                                                 \
  template int64_t attention_backward_buffer<T>(const AttentionShape&);                       \
  template void attention_backward(const AttentionBackward<T>&, int64_t, float*, float*);     \
  template void attention_sum_parts(const AttentionShape&, float*, int64_t, int64_t,    \
                                    const RowsView<T>&, int64_t, int64_t);                    \
  template float attention_delta(const AttentionDelta<T>&, float);
MEGAFM_INSTANTIATE(float)
MEGAFM_INSTANTIATE(bf16)

}  // namespace megafm::cpu::MEGAFM_ISA
