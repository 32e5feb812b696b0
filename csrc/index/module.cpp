// The Python module megafm._index: arguments checked and unwrapped, the GIL released, results as
// numpy arrays. megafm/data/index_reference.py documents each function, and computes the same.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "index/blend.h"
#include "index/fingerprints.h"
#include "index/minhash.h"
#include "index/packing.h"
#include "index/parallel.h"
#include "index/repetition.h"
#include "index/rows.h"
#include "index/shingles.h"
#include "index/similar.h"

namespace py = pybind11;

namespace megafm::index {
namespace {

template <typename T>
using Array = py::array_t<T, py::array::c_style>;
using Texts = std::vector<py::bytes>;  // owns references: the caller's list may change

std::vector<std::string_view> views(const Texts& texts) {
  return {texts.begin(), texts.end()};
}

template <typename T, typename U = T>
Array<T> to_array(const std::vector<U>& values, std::vector<py::ssize_t> shape) {
  return Array<T>(std::move(shape), reinterpret_cast<const T*>(values.data()));
}

ShingleRule rule(const std::string& unit, int64_t width, bool lowercase) {
  if (unit != "words" && unit != "characters") {
    throw std::invalid_argument("unit=" + unit + ": set words or characters");
  }
  if (width < 1) {
    throw std::invalid_argument("width=" + std::to_string(width) + ": must be at least 1");
  }
  return {unit == "words" ? Unit::words : Unit::characters, width, lowercase};
}

Permutations permutations(const Array<uint32_t>& a, const Array<uint32_t>& b) {
  if (a.ndim() != 1 || b.ndim() != 1 || a.size() != b.size()) {
    throw std::invalid_argument("a, b: need one-dimensional arrays of one length");
  }
  return {a.data(), b.data(), a.size()};
}

// Sets that lie one after the other: set i is hashes[offsets[i]:offsets[i + 1]].
template <typename T>
void check_sets(const Array<T>& hashes, const Array<int64_t>& offsets) {
  const int64_t* ends = offsets.data();
  if (hashes.ndim() != 1 || offsets.ndim() != 1 || offsets.size() < 1 || ends[0] != 0 ||
      ends[offsets.size() - 1] != hashes.size() || !std::is_sorted(ends, ends + offsets.size())) {
    throw std::invalid_argument("offsets: must ascend from 0 to the number of hashes");
  }
}

void check_pairs(const Array<int64_t>& pairs, int64_t rows) {
  const int64_t* begin = pairs.data();
  if (pairs.ndim() != 2 || pairs.shape(1) != 2 ||
      !std::all_of(begin, begin + pairs.size(), [&](int64_t i) { return 0 <= i && i < rows; })) {
    throw std::invalid_argument("pairs: must be (number, 2), of rows below " +
                                std::to_string(rows));
  }
}

py::tuple shingles(const Texts& texts, const std::string& unit, int64_t width, bool lowercase,
                   int64_t threads) {
  const ShingleRule of = rule(unit, width, lowercase);
  const std::vector<std::string_view> all = views(texts);
  std::vector<std::vector<uint64_t>> sets(all.size());
  std::vector<int64_t> offsets{0};
  std::vector<uint64_t> flat;
  {
    const py::gil_scoped_release released;
    parallel_for(all.size(), threads, [&](int64_t begin, int64_t end) {
      Shingler shingler(of);
      for (int64_t i = begin; i < end; ++i) {
        shingler(all[i], sets[i]);
        std::sort(sets[i].begin(), sets[i].end());
        sets[i].erase(std::unique(sets[i].begin(), sets[i].end()), sets[i].end());
      }
    });
    for (const std::vector<uint64_t>& set : sets) {
      offsets.push_back(offsets.back() + static_cast<int64_t>(set.size()));
    }
    flat.reserve(offsets.back());
    for (const std::vector<uint64_t>& set : sets) {
      flat.insert(flat.end(), set.begin(), set.end());
    }
  }
  const py::ssize_t num_hashes = flat.size();
  const py::ssize_t num_offsets = offsets.size();
  return py::make_tuple(to_array<uint64_t>(flat, {num_hashes}),
                        to_array<int64_t>(offsets, {num_offsets}));
}

Array<uint32_t> minhash(const Texts& texts, const Array<uint32_t>& a, const Array<uint32_t>& b,
                        const std::string& unit, int64_t width, bool lowercase, int64_t threads) {
  const ShingleRule of = rule(unit, width, lowercase);
  const Permutations by = permutations(a, b);
  const std::vector<std::string_view> all = views(texts);
  Array<uint32_t> signatures({static_cast<py::ssize_t>(all.size()), a.size()});
  uint32_t* out = signatures.mutable_data();
  const py::gil_scoped_release released;
  parallel_for(all.size(), threads, [&](int64_t begin, int64_t end) {
    Shingler shingler(of);
    std::vector<uint64_t> hashes;
    std::vector<uint32_t> spread_hashes;
    for (int64_t i = begin; i < end; ++i) {
      shingler(all[i], hashes);
      spread_hashes.resize(hashes.size());
      std::transform(hashes.begin(), hashes.end(), spread_hashes.begin(),
                     [](uint64_t hash) { return spread(hash >> 32); });
      minima(spread_hashes, by, out + i * by.count);
    }
  });
  return signatures;
}

Array<uint32_t> signatures_of(const Array<uint32_t>& hashes, const Array<int64_t>& offsets,
                              const Array<uint32_t>& a, const Array<uint32_t>& b,
                              int64_t threads) {
  check_sets(hashes, offsets);
  const Permutations by = permutations(a, b);
  Array<uint32_t> signatures({offsets.size() - 1, a.size()});
  uint32_t* out = signatures.mutable_data();
  const uint32_t* in = hashes.data();
  const int64_t* ends = offsets.data();
  const py::gil_scoped_release released;
  parallel_for(offsets.size() - 1, threads, [&](int64_t begin, int64_t end) {
    std::vector<uint32_t> spread_hashes;
    for (int64_t i = begin; i < end; ++i) {
      spread_hashes.resize(ends[i + 1] - ends[i]);
      std::transform(in + ends[i], in + ends[i + 1], spread_hashes.begin(), spread);
      minima(spread_hashes, by, out + i * by.count);
    }
  });
  return signatures;
}

Array<int64_t> candidate_pairs(const Array<uint32_t>& signatures, int64_t num_bands,
                               int64_t max_bucket, int64_t threads) {
  if (signatures.ndim() != 2 || num_bands < 1 || signatures.shape(1) % num_bands != 0) {
    throw std::invalid_argument("num_bands=" + std::to_string(num_bands) +
                                ": must divide the columns of the signatures");
  }
  if (max_bucket < 1) {
    throw std::invalid_argument("max_bucket=" + std::to_string(max_bucket) +
                                ": must be at least 1");
  }
  const Signatures of{signatures.data(), signatures.shape(0), num_bands,
                      signatures.shape(1) / num_bands};
  std::vector<Pair> found;
  {
    const py::gil_scoped_release released;
    found = candidates(of, max_bucket, threads);
  }
  return to_array<int64_t>(found, {static_cast<py::ssize_t>(found.size()), 2});
}

Array<int64_t> overlaps(const Array<uint64_t>& hashes, const Array<int64_t>& offsets,
                        const Array<int64_t>& pairs, int64_t threads) {
  check_sets(hashes, offsets);
  check_pairs(pairs, offsets.size() - 1);
  Array<int64_t> sizes(pairs.shape(0));
  int64_t* out = sizes.mutable_data();
  const uint64_t* in = hashes.data();
  const int64_t* ends = offsets.data();
  const int64_t* rows = pairs.data();
  const py::gil_scoped_release released;
  parallel_for(pairs.shape(0), threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t one = rows[2 * i];
      const int64_t two = rows[2 * i + 1];
      out[i] = overlap(in + ends[one], in + ends[one + 1], in + ends[two], in + ends[two + 1]);
    }
  });
  return sizes;
}

// In place, so that what is known of the rows outlives any number of batches of pairs.
template <typename T, void update(T*, const Pair*, int64_t)>
void update_rows(Array<T>& rows, const Array<int64_t>& pairs) {
  check_pairs(pairs, rows.size());
  T* values = rows.mutable_data();
  const auto* begin = reinterpret_cast<const Pair*>(pairs.data());
  const py::gil_scoped_release released;
  update(values, begin, pairs.shape(0));
}

Array<int32_t> blend_order(const std::vector<int64_t>& weights) {
  constexpr int64_t most_sources = 1024;
  constexpr int64_t most = int64_t{1} << 24;
  int64_t total = 0;
  for (const int64_t weight : weights) {
    if (weight < 1 || weight > most) {
      throw std::invalid_argument("weight " + std::to_string(weight) + ": must be positive and at "
                                  "most 2**24");
    }
    total += weight;
  }
  if (weights.empty() || weights.size() > most_sources || total > most) {
    throw std::invalid_argument(std::to_string(weights.size()) + " weights with the sum " +
                                std::to_string(total) + ": need 1 to 1024, of 2**24 at most");
  }
  std::vector<int32_t> order;
  {
    const py::gil_scoped_release released;
    order = blend(weights);
  }
  return to_array<int32_t>(order, {total});
}

py::tuple pack_documents(const Array<int64_t>& lengths, int64_t capacity) {
  const int64_t* begin = lengths.data();
  const int64_t* end = begin + lengths.size();
  const int64_t* bad = std::find_if(begin, end, [&](int64_t n) { return n < 1 || n > capacity; });
  if (lengths.ndim() != 1 || bad != end) {
    throw std::invalid_argument("lengths: must be one-dimensional, each in 1 to capacity=" +
                                std::to_string(capacity));
  }
  Packing packing;
  {
    const py::gil_scoped_release released;
    packing = pack(begin, end - begin, capacity);
  }
  const py::ssize_t num_ends = packing.ends.size();
  return py::make_tuple(to_array<int64_t>(packing.order, {lengths.size()}),
                        to_array<int64_t>(packing.ends, {num_ends}));
}

Array<int64_t> repetition_counts(const Texts& texts, int64_t threads) {
  constexpr py::ssize_t num_counts = sizeof(Repetition) / sizeof(int64_t);
  const std::vector<std::string_view> all = views(texts);
  Array<int64_t> counts({static_cast<py::ssize_t>(all.size()), num_counts});
  auto* out = reinterpret_cast<Repetition*>(counts.mutable_data());
  const py::gil_scoped_release released;
  parallel_for(all.size(), threads, [&](int64_t begin, int64_t end) {
    std::transform(all.begin() + begin, all.begin() + end, out + begin, repetition);
  });
  return counts;
}

void check_pieces(const Array<int64_t>& starts, const Array<int64_t>& lengths,
                  const Array<int64_t>& ends, int64_t num_tokens, int64_t seq_len) {
  check_sets(starts, ends);
  if (lengths.ndim() != 1 || lengths.size() != starts.size()) {
    throw std::invalid_argument("lengths: need one per start");
  }
  const auto first = starts.unchecked<1>();
  const auto count = lengths.unchecked<1>();
  const auto end = ends.unchecked<1>();
  for (py::ssize_t row = 0; row + 1 < ends.size(); ++row) {
    int64_t room = seq_len;
    for (int64_t p = end(row); p < end(row + 1); ++p) {
      // Each piece has a token after its last.
      if (count(p) < 1 || count(p) > room || first(p) < 0 || first(p) >= num_tokens - count(p)) {
        throw std::invalid_argument("piece " + std::to_string(p) + ": " +
                                    std::to_string(count(p)) + " tokens from " +
                                    std::to_string(first(p)) + " on do not lie in the " +
                                    std::to_string(num_tokens) + " of the shard or the row");
      }
      room -= count(p);
    }
  }
}

template <typename T>
bool gather_from(const py::array& data, const Pieces& pieces, int64_t seq_len, int64_t* tokens,
                 int64_t* targets, bool* begins) {
  if (!py::isinstance<Array<T>>(data)) {
    return false;
  }
  const T* from = static_cast<const T*>(data.data());
  const py::gil_scoped_release released;  // pages of a mapped file may have to be read
  gather_rows(from, pieces, seq_len, tokens, targets, begins);
  return true;
}

py::tuple rows_of(const py::array& data, const Array<int64_t>& starts,
                  const Array<int64_t>& lengths, const Array<int64_t>& ends, int64_t seq_len) {
  check_pieces(starts, lengths, ends, data.size(), seq_len);
  const py::ssize_t num_rows = ends.size() - 1;
  Array<int64_t> tokens({num_rows, seq_len});
  Array<int64_t> targets({num_rows, seq_len});
  Array<bool> begins({num_rows, seq_len});
  const Pieces pieces{starts.data(), lengths.data(), ends.data(), num_rows};
  const auto gather = [&]<typename... T>() {
    return (gather_from<T>(data, pieces, seq_len, tokens.mutable_data(), targets.mutable_data(),
                           begins.mutable_data()) ||
            ...);
  };
  if (!gather.operator()<uint16_t, int32_t, uint8_t, int8_t, int16_t, int64_t>()) {
    throw std::invalid_argument("data: of dtype " + std::string(py::str(data.dtype())) +
                                ", which holds no tokens");
  }
  return py::make_tuple(tokens, targets, begins);
}

Array<uint64_t> simhashes(const Texts& texts, const std::string& unit, int64_t width,
                          bool lowercase, int64_t threads) {
  const ShingleRule of = rule(unit, width, lowercase);
  const std::vector<std::string_view> all = views(texts);
  Array<uint64_t> fingerprints(static_cast<py::ssize_t>(all.size()));
  uint64_t* out = fingerprints.mutable_data();
  const py::gil_scoped_release released;
  parallel_for(all.size(), threads, [&](int64_t begin, int64_t end) {
    Shingler shingler(of);
    std::vector<uint64_t> hashes;
    for (int64_t i = begin; i < end; ++i) {
      shingler(all[i], hashes);
      out[i] = simhash(hashes);
    }
  });
  return fingerprints;
}

Array<int64_t> fingerprint_pairs(const Array<uint64_t>& fingerprints, int64_t most,
                                 int64_t max_bucket) {
  if (fingerprints.ndim() != 1 || most < 0 || most > 15 || max_bucket < 1) {
    throw std::invalid_argument("most=" + std::to_string(most) + ", max_bucket=" +
                                std::to_string(max_bucket) +
                                ": need one fingerprint a row, 0 to 15 bits, a bucket of 1");
  }
  std::vector<Pair> found;
  {
    const uint64_t* begin = fingerprints.data();
    const py::gil_scoped_release released;
    found = near_fingerprints(begin, fingerprints.size(), most, max_bucket);
  }
  return to_array<int64_t>(found, {static_cast<py::ssize_t>(found.size()), 2});
}

}  // namespace

PYBIND11_MODULE(_index, module) {
  module.doc() = "Loops over documents and samples; megafm.data.index_reference defines them.";
  // noconvert: an array of another dtype is a mistake, not something to copy and round.
  const auto arg = [](const char* name) { return py::arg(name).noconvert(); };
  module.def("shingles", shingles, arg("texts"), arg("unit"), arg("width"), arg("lowercase"),
             arg("threads"));
  module.def("minhash", minhash, arg("texts"), arg("a"), arg("b"), arg("unit"), arg("width"),
             arg("lowercase"), arg("threads"));
  module.def("signatures", signatures_of, arg("hashes"), arg("offsets"), arg("a"), arg("b"),
             arg("threads"));
  module.def("candidates", candidate_pairs, arg("signatures"), arg("num_bands"),
             arg("max_bucket"), arg("threads"));
  module.def("overlaps", overlaps, arg("hashes"), arg("offsets"), arg("pairs"), arg("threads"));
  module.def("unite", update_rows<int64_t, unite>, arg("parent"), arg("pairs"));
  module.def("remove_similar", update_rows<bool, remove_similar>, arg("removed"), arg("pairs"));
  module.def("blend", blend_order, arg("weights"));
  module.def("simhash", simhashes, arg("texts"), arg("unit"), arg("width"), arg("lowercase"),
             arg("threads"));
  module.def("near_fingerprints", fingerprint_pairs, arg("fingerprints"), arg("most"),
             arg("max_bucket"));
  module.def("gather_rows", rows_of, arg("data"), arg("starts"), arg("lengths"), arg("ends"),
             arg("seq_len"));
  module.def("repetition", repetition_counts, arg("texts"), arg("threads"));
  module.def("pack", pack_documents, arg("lengths"), arg("capacity"));
}

}  // namespace megafm::index
