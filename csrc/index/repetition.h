// How much of a text repeats itself: counts for the rules of Gopher.

#pragma once

#include <cstdint>
#include <string_view>

namespace megafm::index {

// Characters are code points. A line or paragraph is a duplicate if an equal one stands before it.
struct Repetition {
  int64_t characters;
  int64_t lines, duplicate_lines, duplicate_line_characters;
  int64_t paragraphs, duplicate_paragraphs, duplicate_paragraph_characters;
  int64_t top[3];         // in the most frequent n-gram of 2, 3, 4 words, all its occurrences
  int64_t duplicated[6];  // in n-grams of 5 to 10 words that stand before too, each one once
};

Repetition repetition(std::string_view text);

}  // namespace megafm::index
