// Rows of a training batch, gathered from the tokens of a shard.

#pragma once

#include <algorithm>
#include <cstdint>

namespace megafm::index {

// Where the pieces of each row lie: row i holds pieces ends[i] to ends[i + 1] - 1, one after the
// other; piece p is lengths[p] tokens from starts[p] on, each with the token after it as target.
struct Pieces {
  const int64_t* starts;
  const int64_t* lengths;
  const int64_t* ends;
  int64_t num_rows;
};

constexpr int64_t no_target = -100;  // megafm.data.samples.NO_TARGET

// tokens, targets and begins (where a piece or the padding begins) are num_rows x seq_len.
template <typename T>
void gather_rows(const T* data, const Pieces& pieces, int64_t seq_len, int64_t* tokens,
                 int64_t* targets, bool* begins) {
  std::fill_n(begins, pieces.num_rows * seq_len, false);
  for (int64_t row = 0; row < pieces.num_rows; ++row) {
    int64_t at = row * seq_len;
    for (int64_t p = pieces.ends[row]; p < pieces.ends[row + 1]; ++p) {
      const T* piece = data + pieces.starts[p];
      const int64_t length = pieces.lengths[p];
      std::copy_n(piece, length, tokens + at);
      std::copy_n(piece + 1, length, targets + at);
      begins[at] = true;
      at += length;
    }
    const int64_t end = (row + 1) * seq_len;
    if (at < end) {
      std::fill_n(tokens + at, end - at, 0);
      std::fill_n(targets + at, end - at, no_target);
      begins[at] = true;
    }
  }
}

}  // namespace megafm::index
