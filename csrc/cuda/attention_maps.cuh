// Tensor maps of attention's tensors.

#pragma once

#include "cuda/attention.h"
#include "cuda/swizzled_tile.cuh"

namespace megafm::cuda {

// Of queries, keys or what has their shape, for tiles of that kind.
template <typename Tile>
CUtensorMap queries_map(const AttentionShape& shape, const Heads& x, int dim) {
  return tile_map<Tile>(static_cast<const typename Tile::Element*>(x.data), shape.batch,
                        shape.seq_q, shape.heads, dim,
                        {x.seq_stride, x.head_stride, x.batch_stride});
}

// Of queries whose rows are packed: heads of a pack, queries, packs, batch.
template <typename Tile>
CUtensorMap rows_map(const AttentionShape& shape, const Heads& x, int dim) {
  using T = typename Tile::Element;
  const auto size = [](int64_t of) { return static_cast<uint64_t>(of); };
  const auto bytes = [](int64_t elements) { return static_cast<uint64_t>(elements) * sizeof(T); };
  const int heads = 1 << shape.pack;
  return make_tensor_map<T, 5>(
      static_cast<const T*>(x.data),
      {size(dim), size(heads), size(shape.seq_q), size(shape.heads / heads), size(shape.batch)},
      {bytes(x.head_stride), bytes(x.seq_stride), bytes(x.head_stride * heads),
       bytes(x.batch_stride)},
      {Tile::box_cols, static_cast<uint32_t>(heads), static_cast<uint32_t>(Tile::rows / heads), 1,
       1},
      Tile::swizzle);
}

template <typename Tile>
CUtensorMap keys_map(const AttentionShape& shape, const Heads& x, int dim) {
  return tile_map<Tile>(static_cast<const typename Tile::Element*>(x.data), shape.batch,
                        shape.seq_k, shape.heads / shape.group, dim,
                        {x.seq_stride, x.head_stride, x.batch_stride});
}

}  // namespace megafm::cuda
