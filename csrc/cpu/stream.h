// Results written to memory past the caches. Part of kernel files (see isa.h).
//
// An ordinary store to a line that no cache holds first reads that line from memory. Where an op's
// tensors are larger than the caches, results leave in whole lines by non-temporal stores, which
// read nothing.

#pragma once

#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace megafm::cpu {

constexpr int64_t line_bytes = 64;

#ifdef MEGAFM_ISA
namespace MEGAFM_ISA {

// `count` results to memory; both begin on a line and are whole lines.
template <typename T>
static inline void stream(const T* from, T* to, int64_t count) {
#if defined(__AVX512F__)
  constexpr int64_t step = line_bytes / sizeof(T);
  for (int64_t i = 0; i < count; i += step) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_load_si512(from + i));
  }
#elif defined(__x86_64__)
  constexpr int64_t step = sizeof(__m128i) / sizeof(T);
  for (int64_t i = 0; i < count; i += step) {
    _mm_stream_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm_load_si128(reinterpret_cast<const __m128i*>(from + i)));
  }
#else
  __builtin_memcpy(to, from, count * sizeof(T));
#endif
}

// The lines a page behind `count` elements: the hardware's own prefetch ends with each page.
template <typename T>
static inline void prefetch_page_ahead(const T* x, int64_t count) {
  constexpr int64_t page = 4096 / sizeof(T), step = line_bytes / sizeof(T);
  for (int64_t i = 0; i < count; i += step) {
    __builtin_prefetch(x + page + i);
  }
}

// The line at the same column of the next row of `dim` elements, a page ahead where rows are short:
// it arrives while results leave.
template <typename T>
static inline void prefetch_row_ahead(const T* x, int64_t dim) {
  constexpr int64_t page = 4096 / sizeof(T);
  __builtin_prefetch(x + (dim < page ? page : dim));
}

// What was streamed comes before whatever tells other threads that it is there.
static inline void end_stream() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Writes rows of `dim` results that are formed together: body(column, count, to) writes to[k][i],
// i in [0, count), for column + i of row k.
template <bool past_caches, typename T, int num_rows, typename Body>
static inline void write_rows(T* const (&rows)[num_rows], int64_t dim, const Body& body) {
  if constexpr (!past_caches) {
    body(0, dim, rows);
    return;
  }
  constexpr int64_t per_line = line_bytes / sizeof(T);
  alignas(line_bytes) T lines[num_rows][per_line];
  T* to[num_rows];
  for (int k = 0; k < num_rows; ++k) {
    to[k] = lines[k];
  }
  for (int64_t column = 0; column < dim; column += per_line) {
    body(column, per_line, to);
    for (int k = 0; k < num_rows; ++k) {
      stream(lines[k], rows[k] + column, per_line);
    }
  }
}

}  // namespace MEGAFM_ISA
#endif

}  // namespace megafm::cpu
