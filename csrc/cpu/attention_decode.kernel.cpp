// Attention of one query, as in decoding a token: compiled once per instruction set (isa.h).
//
// The time goes into reading keys and values, so that nothing is packed or transposed: of a block
// of keys in cache, each query head that shares it takes its scores, an online softmax and the sum
// of the values in turn.

#include "cpu/attention_tile.h"

namespace megafm::cpu::MEGAFM_ISA {
namespace {

constexpr int64_t unrolled = 4;  // keys whose values are added together

// One query head.
struct Row {
  const float* query;  // times the scale
  float* out;          // (dim_v,) the sum of exp(score - most) * value
  float most;
  float total;
};

// The elements of a vector, as floats.
inline vec load_vec(const float* from) {
  return *reinterpret_cast<const unaligned_vec*>(from);
}

inline vec load_vec(const bf16* from) {
  typedef uint16_t halves
      __attribute__((vector_size(vector_bytes / 2), may_alias, aligned(alignof(bf16))));
  const auto bits = __builtin_convertvector(*reinterpret_cast<const halves*>(from), ivec);
  return __builtin_bit_cast(vec, bits << 16);
}

// scores of vec_width keys, `stride` apart
template <typename T>
void score_keys(const float* query, const T* keys, int64_t stride, int64_t dim, float* scores) {
  const int64_t whole = dim / vec_width * vec_width;
  vec sums[vec_width] = {};
  for (int64_t d = 0; d < whole; d += vec_width) {
    const vec q = at_vec(query + d);
#pragma GCC unroll 16
    for (int64_t j = 0; j < vec_width; ++j) {
      sums[j] += q * load_vec(keys + j * stride + d);
    }
  }
  at_vec(scores) = sum_of_each(sums);
  for (int64_t d = whole; d < dim; ++d) {
    for (int64_t j = 0; j < vec_width; ++j) {
      scores[j] += query[d] * load(keys[j * stride + d]);
    }
  }
}

// scores of `count` keys from `begin`, -inf behind them up to key_block.
template <typename T>
void score_block(const AttentionShape& shape, const float* query, const HeadView<const T>& k,
                 int64_t begin, int64_t count, float* scores) {
  const T* keys = k.data + begin * k.stride;
  int64_t j = 0;
  for (; j + vec_width <= count; j += vec_width, keys += vec_width * k.stride) {
    score_keys(query, keys, k.stride, shape.dim, scores + j);
  }
  for (; j < count; ++j, keys += k.stride) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t d = 0; d < shape.dim; ++d) {
      sum += query[d] * load(keys[d]);
    }
    scores[j] = sum;
  }
  if (shape.softcap != 0) {
    for (int64_t i = 0; i < count; i += vec_width) {
      vec& at = at_vec(scores + i);
      at = cap_score(at, shape.softcap);
    }
  }
  for (; j < key_block; ++j) {
    scores[j] = -__builtin_inff();
  }
}

// scores to weights exp(score - most), with the row brought up to date; the answer is what this
// makes of the earlier weights.
float weigh_block(Row& row, float* scores) {
  float most = row.most;
#pragma omp simd reduction(max : most)
  for (int64_t j = 0; j < key_block; ++j) {
    most = larger(scores[j], most);
  }
  const float shift = most > -__builtin_inff() ? most : 0;
  vec total = {};
  for (int64_t j = 0; j < key_block; j += vec_width) {
    vec& at = at_vec(scores + j);
    at = exp_of_negative(at - shift);
    total += at;
  }
  const float rescale = __builtin_expf(row.most - shift);
  row.most = most;
  row.total *= rescale;
  for (int64_t lane = 0; lane < vec_width; ++lane) {
    row.total += total[lane];
  }
  return rescale;
}

// out = out * rescale + weights v
template <typename T>
void add_values(const float* weights, const HeadView<const T>& v, int64_t begin, int64_t count,
                int64_t dim_v, float rescale, float* out) {
  const T* values = v.data + begin * v.stride;
  int64_t j = 0;
  for (; j + unrolled <= count; j += unrolled, values += unrolled * v.stride) {
    const float* w = weights + j;
#pragma omp simd
    for (int64_t d = 0; d < dim_v; ++d) {
      const float first = w[0] * load(values[d]) + w[1] * load(values[v.stride + d]);
      const float second =
          w[2] * load(values[2 * v.stride + d]) + w[3] * load(values[3 * v.stride + d]);
      out[d] = out[d] * rescale + (first + second);
    }
    rescale = 1;
  }
  for (; j < count; ++j, values += v.stride) {
#pragma omp simd
    for (int64_t d = 0; d < dim_v; ++d) {
      out[d] = out[d] * rescale + weights[j] * load(values[d]);
    }
    rescale = 1;
  }
}

}  // namespace

int64_t attention_decode_buffer(const AttentionShape& shape) {
  return key_block + shape.group * (round_up(shape.dim, column_multiple) +
                                    round_up(shape.dim_v, column_multiple));
}

template <typename T>
void attention_decode(const AttentionForward<T>& at, float* buffer) {
  const AttentionShape& shape = at.shape;
  Row rows[most_decode_rows<T>];
  Arena arena{buffer};
  float* scores = arena.take(key_block);
  for (int64_t head = 0; head < shape.group; ++head) {
    float* query = arena.take(shape.dim);
    pack_row(row_data(at.q, head, shape.group), shape.dim, shape.dim,
             shape.scale, query);
    float* out = arena.take(shape.dim_v);
    for (int64_t d = 0; d < shape.dim_v; ++d) {
      out[d] = 0;
    }
    rows[head] = {query, out, -__builtin_inff(), 0};
  }
  const int64_t last = shape.last[0];
  for (int64_t key = shape.first[0]; key < last; key += key_block) {
    const int64_t count = last - key < key_block ? last - key : key_block;
    for (int64_t head = 0; head < shape.group; ++head) {
      Row& row = rows[head];
      score_block(shape, row.query, at.k, key, count, scores);
      const float rescale = weigh_block(row, scores);
      add_values(scores, at.v, key, count, shape.dim_v, rescale, row.out);
    }
  }
  for (int64_t head = 0; head < shape.group; ++head) {
    const Row& row = rows[head];
    end_row(at, head, row.most, row.total, row.out);
  }
}

template void attention_decode(const AttentionForward<float>&, float*);
template void attention_decode(const AttentionForward<bf16>&, float*);

}  // namespace megafm::cpu::MEGAFM_ISA
