// Lengths and rooms are integers up to the capacity, so both orders are tables: documents are
// counted into place, and bins of equal room form a list. A bitmap says which lists have one, so
// that the next larger room is found 64 at a time. Source: Johnson, Near-optimal bin packing
// algorithms (1973); of documents: Ding et al., Fewer Truncations Improve Language Modeling (2024).

#include "index/packing.h"

#include <bit>
#include <cstddef>
#include <numeric>

namespace megafm::index {
namespace {

// Bins by the room that is left in them.
class Rooms {
 public:
  explicit Rooms(int64_t capacity) : last_(capacity + 1, -1), any_(capacity / 64 + 1, 0) {}

  void add(int64_t bin, int64_t room) {
    if (bin >= static_cast<int64_t>(before_.size())) {
      before_.resize(bin + 1);
    }
    before_[bin] = last_[room];
    last_[room] = bin;
    any_[room / 64] |= uint64_t{1} << (room % 64);
  }

  // The least room of at least `length`, or -1.
  int64_t least(int64_t length) const {
    uint64_t word = any_[length / 64] & (~uint64_t{0} << (length % 64));
    for (std::size_t i = length / 64;; word = any_[i]) {
      if (word != 0) {
        return i * 64 + std::countr_zero(word);
      }
      if (++i == any_.size()) {
        return -1;
      }
    }
  }

  int64_t take(int64_t room) {
    const int64_t bin = last_[room];
    last_[room] = before_[bin];
    if (last_[room] < 0) {
      any_[room / 64] &= ~(uint64_t{1} << (room % 64));
    }
    return bin;
  }

 private:
  std::vector<int64_t> last_;    // per room a bin, or -1
  std::vector<int64_t> before_;  // per bin the next one of its list
  std::vector<uint64_t> any_;    // a bit per room
};

// Indices sorted by their keys in 0 .. num_keys - 1, stable; also where each key begins.
std::vector<int64_t> counting_sort(const std::vector<int64_t>& keys, int64_t num_keys,
                                   std::vector<int64_t>& begins) {
  begins.assign(num_keys + 1, 0);
  for (const int64_t key : keys) {
    ++begins[key + 1];
  }
  std::partial_sum(begins.begin(), begins.end(), begins.begin());
  std::vector<int64_t> next(begins.begin(), begins.end() - 1);
  std::vector<int64_t> order(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) {
    order[next[keys[i]]++] = i;
  }
  return order;
}

}  // namespace

Packing pack(const int64_t* lengths, int64_t num_documents, int64_t capacity) {
  std::vector<int64_t> keys(num_documents);
  for (int64_t i = 0; i < num_documents; ++i) {
    keys[i] = capacity - lengths[i];
  }
  std::vector<int64_t> begins;
  const std::vector<int64_t> longest_first = counting_sort(keys, capacity, begins);

  Rooms rooms(capacity);
  std::vector<int64_t> bin_of(num_documents);  // by place in longest_first
  int64_t num_bins = 0;
  for (int64_t place = 0; place < num_documents; ++place) {
    const int64_t length = lengths[longest_first[place]];
    const int64_t found = rooms.least(length);
    const int64_t bin = found < 0 ? num_bins++ : rooms.take(found);
    const int64_t room = (found < 0 ? capacity : found) - length;
    if (room > 0) {
      rooms.add(bin, room);
    }
    bin_of[place] = bin;
  }

  Packing packing;
  packing.order = counting_sort(bin_of, num_bins, packing.ends);
  for (int64_t& document : packing.order) {
    document = longest_first[document];
  }
  return packing;
}

}  // namespace megafm::index
