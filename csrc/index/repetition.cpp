// Source of the measures: Rae et al., Scaling Language Models (Gopher), 2021, table A1.

#include "index/repetition.h"

#include <algorithm>
#include <compare>
#include <unordered_set>
#include <vector>

#include "index/hashing.h"

namespace megafm::index {
namespace {

int64_t num_characters(std::string_view text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

struct Parts {
  int64_t count = 0, duplicates = 0, duplicate_characters = 0;
};

// Parts between runs of at least `newlines` newlines; empty ones do not count.
Parts duplicates(std::string_view text, size_t newlines) {
  Parts parts;
  std::unordered_set<std::string_view> seen;
  size_t begin = text.find_first_not_of('\n');
  while (begin < text.size()) {
    size_t end = text.find('\n', begin);
    size_t next = text.find_first_not_of('\n', end);
    while (next < text.size() && next - end < newlines) {  // this run is too short to end it
      end = text.find('\n', next);
      next = text.find_first_not_of('\n', end);
    }
    const std::string_view part = text.substr(begin, std::min(end, text.size()) - begin);
    ++parts.count;
    if (!seen.insert(part).second) {
      ++parts.duplicates;
      parts.duplicate_characters += num_characters(part);
    }
    begin = end == std::string_view::npos ? end : next;
  }
  return parts;
}

struct Word {
  uint64_t hash;
  int64_t characters;
};

std::vector<Word> words_of(std::string_view text) {
  constexpr std::string_view spaces = " \t\n\v\f\r";
  std::vector<Word> words;
  size_t begin = text.find_first_not_of(spaces);
  while (begin < text.size()) {
    const size_t end = std::min(text.find_first_of(spaces, begin), text.size());
    const std::string_view word = text.substr(begin, end - begin);
    words.push_back({hash_bytes(word), num_characters(word)});
    begin = text.find_first_not_of(spaces, end);
  }
  return words;
}

struct Gram {
  uint64_t hash;
  int64_t first;  // word

  auto operator<=>(const Gram&) const = default;
};

// All n-grams, equal ones together in the order of the text.
std::vector<Gram> sorted_grams(const std::vector<Word>& words, int64_t n) {
  std::vector<Gram> grams;
  for (int64_t first = 0; first + n <= static_cast<int64_t>(words.size()); ++first) {
    uint64_t hash = 0;
    for (int64_t i = first; i < first + n; ++i) {
      hash = mix(hash ^ words[i].hash);
    }
    grams.push_back({hash, first});
  }
  std::sort(grams.begin(), grams.end());
  return grams;
}

// Of n-grams that are equally frequent, the longest counts; one that does not repeat does not.
int64_t in_top_gram(const std::vector<Word>& words, int64_t n) {
  const std::vector<Gram> grams = sorted_grams(words, n);
  int64_t most = 1;
  int64_t characters = 0;
  for (size_t begin = 0, end = 0; begin < grams.size(); begin = end) {
    while (end < grams.size() && grams[end].hash == grams[begin].hash) {
      ++end;
    }
    const int64_t count = end - begin;
    int64_t length = 0;
    for (int64_t i = 0; i < n; ++i) {
      length += words[grams[begin].first + i].characters;
    }
    if (count > most) {
      most = count;
      characters = count * length;
    } else if (count == most && count > 1) {
      characters = std::max(characters, count * length);
    }
  }
  return characters;
}

int64_t in_duplicate_grams(const std::vector<Word>& words, int64_t n) {
  const std::vector<Gram> grams = sorted_grams(words, n);
  std::vector<bool> covered(words.size(), false);
  for (size_t i = 1; i < grams.size(); ++i) {
    if (grams[i].hash == grams[i - 1].hash) {
      std::fill_n(covered.begin() + grams[i].first, n, true);
    }
  }
  int64_t characters = 0;
  for (size_t i = 0; i < words.size(); ++i) {
    characters += covered[i] ? words[i].characters : 0;
  }
  return characters;
}

}  // namespace

Repetition repetition(std::string_view text) {
  const Parts lines = duplicates(text, 1);
  const Parts paragraphs = duplicates(text, 2);
  const std::vector<Word> words = words_of(text);
  Repetition found{num_characters(text),
                   lines.count,
                   lines.duplicates,
                   lines.duplicate_characters,
                   paragraphs.count,
                   paragraphs.duplicates,
                   paragraphs.duplicate_characters,
                   {},
                   {}};
  for (int64_t n = 2; n <= 4; ++n) {
    found.top[n - 2] = in_top_gram(words, n);
  }
  for (int64_t n = 5; n <= 10; ++n) {
    found.duplicated[n - 5] = in_duplicate_grams(words, n);
  }
  return found;
}

}  // namespace megafm::index
