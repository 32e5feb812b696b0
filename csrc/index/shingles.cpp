// Normalisation, units and shingles in one pass over the bytes of a text.
//
// A word is a run of ASCII letters, digits, underscores and bytes above 127, less the punctuation
// below; everything else only separates. A character is a UTF-8 sequence, with each run of ASCII
// white space as one space and none at either end. megafm/data/index_reference.py says the same in
// Python, bit for bit.

#include "index/shingles.h"

#include <algorithm>

#include "index/hashing.h"

namespace megafm::index {
namespace {

constexpr uint64_t base = 0x9E3779B97F4A7C15;  // of the polynomial in the units of a shingle

bool is_space(uint8_t c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

bool is_word_byte(uint8_t c) {
  return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' ||
         c >= 128;
}

bool in(uint8_t c, int low, int high) {
  return c >= low && c <= high;
}

// Length of the UTF-8 punctuation at `at`, or 0: U+00A0 to U+00BF (Latin-1), U+2000 to U+207F
// (general punctuation), U+3000 to U+303F (CJK).
int64_t punctuation(std::string_view text, size_t at) {
  const auto byte = [&](size_t i) -> uint8_t { return at + i < text.size() ? text[at + i] : 0; };
  if (byte(0) == 0xC2) {
    return in(byte(1), 0xA0, 0xBF) ? 2 : 0;
  }
  const bool general = byte(0) == 0xE2 && in(byte(1), 0x80, 0x81);
  const bool cjk = byte(0) == 0xE3 && byte(1) == 0x80;
  return (general || cjk) && in(byte(2), 0x80, 0xBF) ? 3 : 0;
}

}  // namespace

Shingler::Shingler(const ShingleRule& rule) : rule_(rule) {
  for (int c = 0; c < 256; ++c) {
    fold_[c] = rule.lowercase && in(c, 'A', 'Z') ? c + ('a' - 'A') : c;
  }
}

void Shingler::operator()(std::string_view text, std::vector<uint64_t>& hashes) {
  units_.clear();
  hashes.clear();
  if (rule_.unit == Unit::words) {
    words_of(text);
  } else {
    characters_of(text);
  }
  if (units_.empty()) {
    hashes.push_back(0);
    return;
  }
  // Rolling: a shingle's polynomial is that of the one before, less its first unit.
  const size_t width = std::min<size_t>(rule_.width, units_.size());
  uint64_t leaving = 1;  // base ** width
  uint64_t value = 0;
  for (size_t i = 0; i < width; ++i) {
    leaving *= base;
    value = value * base + units_[i];
  }
  hashes.push_back(mix(value));
  for (size_t i = width; i < units_.size(); ++i) {
    value = value * base + units_[i] - units_[i - width] * leaving;
    hashes.push_back(mix(value));
  }
}

// A word's hash takes eight of its bytes at a time, the first in the lowest place.
void Shingler::words_of(std::string_view text) {
  uint64_t hash = 0;
  uint64_t eight = 0;
  int filled = 0;
  bool inside = false;
  const auto end_word = [&] {
    if (inside) {
      units_.push_back(filled > 0 ? mix(hash ^ eight) : hash);
      hash = eight = 0;
      filled = 0;
      inside = false;
    }
  };
  for (size_t at = 0; at < text.size(); ++at) {
    const uint8_t c = text[at];
    if (!is_word_byte(c)) {
      end_word();
    } else if (const int64_t length = c < 128 ? 0 : punctuation(text, at); length > 0) {
      end_word();
      at += length - 1;
    } else {
      inside = true;
      eight |= uint64_t{fold_[c]} << (8 * filled);
      if (++filled == 8) {
        hash = mix(hash ^ eight);
        eight = 0;
        filled = 0;
      }
    }
  }
  end_word();
}

// A character's bytes, the first in the highest place; a byte that continues none stands alone.
void Shingler::characters_of(std::string_view text) {
  bool space = false;
  for (size_t at = 0; at < text.size();) {
    const uint8_t first = text[at++];
    if (is_space(first)) {
      space = !units_.empty();
      continue;
    }
    if (space) {
      units_.push_back(mix(' '));
      space = false;
    }
    uint64_t character = fold_[first];
    const int more = first < 0xC0 ? 0 : first < 0xE0 ? 1 : first < 0xF0 ? 2 : 3;
    for (int i = 0; i < more && at < text.size() && in(text[at], 0x80, 0xBF); ++i) {
      character = character << 8 | uint8_t(text[at++]);
    }
    units_.push_back(mix(character));
  }
}

}  // namespace megafm::index
