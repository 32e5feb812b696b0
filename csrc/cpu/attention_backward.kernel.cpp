// Attention, the backward loops: compiled once per instruction set (isa.h).
//
// Per block of 64 keys and lanes of 64 rows, with delta = sum(d_out * out) - d_lse per row:
//   p = exp(k q^T - lse)      d_v += p d_out      d_s = p * (v d_out^T - delta)
//   d_k += d_s q              d_q += d_s^T k
// 10 * dim FLOPs a score. All sums are fp32; d_k and d_v of a chunk of keys stay in cache while the
// rows pass, and a task owns them: no order of threads shows in the bits.

#include "cpu/attention_tile.h"

namespace megafm::cpu::MEGAFM_ISA {
namespace {

// The packed matrices of a task. ld_k, ld_v: dim and dim_v rounded up to vectors.
struct Buffers {
  int64_t ld_k;
  int64_t ld_v;
  float* keys;  // key_chunk x ld_k
  float* values;
  float* d_keys;
  float* d_values;
  float* queries_t;  // dim x lanes, scaled
  float* queries;    // lanes x ld_k, scaled
  float* d_out_t;
  float* d_out;
  float* scores;    // keys x lanes
  float* d_scores;  // keys x lanes
  float* lse;       // (lanes,)
  float* delta;
};

Buffers take_buffers(const AttentionShape& shape, float* buffer) {
  Arena arena{buffer};
  const int64_t ld_k = round_up(shape.dim, column_multiple);
  const int64_t ld_v = round_up(shape.dim_v, column_multiple);
  const int64_t chunk = shape.key_chunk;
  return {ld_k,
          ld_v,
          arena.take(chunk * ld_k),
          arena.take(chunk * ld_v),
          arena.take(chunk * ld_k),
          arena.take(chunk * ld_v),
          arena.take(lane_count * ld_k),
          arena.take(lane_count * ld_k),
          arena.take(lane_count * ld_v),
          arena.take(lane_count * ld_v),
          arena.take(key_block * lane_count),
          arena.take(key_block * lane_count),
          arena.take(lane_count),
          arena.take(lane_count)};
}

template <typename T>
void load_rows(const AttentionBackward<T>& at, const Lanes& lanes, const Buffers& to) {
  const AttentionShape& shape = at.shape;
  pack_rows(at.q, lanes, shape.group, shape.dim, to.ld_k, shape.scale, to.queries);
  pack_rows(at.d_out, lanes, shape.group, shape.dim_v, to.ld_v, 1, to.d_out);
  transpose_rows(to.queries, to.ld_k, lanes.count, to.queries_t);
  transpose_rows(to.d_out, to.ld_v, lanes.count, to.d_out_t);
  for (int64_t lane = 0; lane < lanes.count; ++lane) {
    const int64_t row = lanes.row + lane;
    const int64_t at_row = row % shape.group * shape.seq_q + row / shape.group;
    const bool seen = lane < lanes.rows && at.lse[at_row] != -__builtin_inff();
    to.lse[lane] = seen ? at.lse[at_row] : __builtin_inff();  // inf: all probabilities 0
    to.delta[lane] = seen ? at.delta[at_row] : 0;
  }
}

// From scores (q k) to probabilities, and from d_scores (gradients of probabilities) to gradients
// of the scores; keys x lanes.
template <bool masked, bool capped>
void softmax_block(const AttentionShape& shape, const Lanes& lanes, const Buffers& at, int32_t key,
                   int64_t count) {
  for (int64_t j = 0; j < count; ++j) {
    for (int64_t lane = 0; lane < lanes.count; lane += vec_width) {
      vec& score = at_vec(at.scores + j * lane_count + lane);
      vec& d_score = at_vec(at.d_scores + j * lane_count + lane);
      vec slope{}, logit = score;
      if (capped) {
        logit = cap_score(score, shape.softcap);
        slope = 1.0f - (logit / shape.softcap) * (logit / shape.softcap);
      }
      score = exp_of_normal(logit - at_vec(at.lse + lane));
      d_score = score * (d_score - at_vec(at.delta + lane));
      if (capped) {
        d_score *= slope;
      }
      if (masked) {  // last: the lse of the lane may be NaN
        const ivec seen = sees(lanes, lane, key + static_cast<int32_t>(j));
        score = seen ? score : vec{};
        d_score = seen ? d_score : vec{};
      }
    }
  }
}

void backward_block(const AttentionShape& shape, const Lanes& lanes, const Buffers& at,
                    int64_t offset, int32_t key, int64_t count, float* d_q) {
  const float* keys = at.keys + offset * at.ld_k;
  const float* values = at.values + offset * at.ld_v;
  const int64_t rows = round_up(count, row_multiple);
  gemm<Start::zero>({keys, at.ld_k, 1}, at.queries_t, lane_count, at.scores, lane_count, rows,
                    lanes.count, shape.dim);
  gemm<Start::zero>({values, at.ld_v, 1}, at.d_out_t, lane_count, at.d_scores, lane_count, rows,
                    lanes.count, shape.dim_v);
  const bool masked = is_partial(lanes, key, count), capped = shape.softcap != 0;
  const auto softmax = masked ? capped ? softmax_block<true, true> : softmax_block<true, false>
                       : capped ? softmax_block<false, true>
                                : softmax_block<false, false>;
  softmax(shape, lanes, at, key, rows);
  gemm<Start::output>({at.scores, lane_count, 1}, at.d_out, at.ld_v,
                      at.d_values + offset * at.ld_v, at.ld_v, rows, at.ld_v, lanes.count);
  gemm<Start::output>({at.d_scores, lane_count, 1}, at.queries, at.ld_k,
                      at.d_keys + offset * at.ld_k, at.ld_k, rows, at.ld_k, lanes.count);
  gemm<Start::output>({at.d_scores, 1, lane_count}, keys, at.ld_k, d_q, at.ld_k,
                      round_up(lanes.rows, row_multiple), at.ld_k, rows);
}

template <typename T>
void store_keys(const float* from, int64_t ld, int64_t count, int64_t dim, const HeadView<T>& view,
                int64_t key) {
  for (int64_t j = 0; j < count; ++j, from += ld) {
    T* to = view.data + (key + j) * view.stride;
#pragma omp simd
    for (int64_t d = 0; d < dim; ++d) {
      store(to[d], from[d]);
    }
  }
}

}  // namespace

int64_t attention_backward_buffer(const AttentionShape& shape) {
  const int64_t ld = round_up(shape.dim, column_multiple) + round_up(shape.dim_v, column_multiple);
  return 2 * (shape.key_chunk + lane_count) * ld + 2 * lane_count * (key_block + 1);
}

template <typename T>
void attention_backward(const AttentionBackward<T>& at, int64_t key, float* d_q, float* buffer) {
  const AttentionShape& shape = at.shape;
  const Buffers buffers = take_buffers(shape, buffer);
  const int64_t ld_k = buffers.ld_k, ld_v = buffers.ld_v, rows = shape.seq_q * shape.group;
  const int64_t stop = key + shape.key_chunk < shape.seq_k ? key + shape.key_chunk : shape.seq_k;
  pack_keys(at.k, key, stop - key, shape.dim, ld_k, buffers.keys);
  pack_keys(at.v, key, stop - key, shape.dim_v, ld_v, buffers.values);
  for (int64_t i = 0; i < shape.key_chunk * ld_k; ++i) {
    buffers.d_keys[i] = 0;
  }
  for (int64_t i = 0; i < shape.key_chunk * ld_v; ++i) {
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
                     d_q + row * ld_k);
    }
  }
  store_keys(buffers.d_keys, ld_k, stop - key, shape.dim, at.d_k, key);
  store_keys(buffers.d_values, ld_v, stop - key, shape.dim_v, at.d_v, key);
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
  template void attention_backward(const AttentionBackward<T>&, int64_t, float*, float*);     \
  template void attention_sum_parts(const AttentionShape&, float*, int64_t, int64_t,    \
                                    const RowsView<T>&, int64_t, int64_t);                    \
  template float attention_delta(const AttentionDelta<T>&, float);
MEGAFM_INSTANTIATE(float)
MEGAFM_INSTANTIATE(bf16)

}  // namespace megafm::cpu::MEGAFM_ISA
