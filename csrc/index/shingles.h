// A text as a set of hashed shingles: runs of words, or of characters.

#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace megafm::index {

enum class Unit { words, characters };

struct ShingleRule {
  Unit unit;
  int64_t width;   // units in a shingle; a text of fewer has one shingle of all of them
  bool lowercase;  // fold A-Z
};

// Hashes the shingles of one text after another; keeps its buffer.
class Shingler {
 public:
  explicit Shingler(const ShingleRule& rule);

  // The hashes of all shingles of `text` in their order, with repeats, into `hashes`. A text
  // without any unit has one shingle, 0.
  void operator()(std::string_view text, std::vector<uint64_t>& hashes);

 private:
  void words_of(std::string_view text);
  void characters_of(std::string_view text);

  ShingleRule rule_;
  uint8_t fold_[256];
  std::vector<uint64_t> units_;  // a hash each
};

}  // namespace megafm::index
