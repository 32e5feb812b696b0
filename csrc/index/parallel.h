// Loops over documents, pairs or bands on several threads.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace megafm::index {

// Calls body(begin, end) for consecutive ranges that cover 0 .. count - 1, on up to `threads`
// threads; a range goes to whichever is free. What a body throws is thrown again here.
template <typename Body>
void parallel_for(int64_t count, int64_t threads, const Body& body) {
  threads = std::clamp<int64_t>(threads, 1, std::max<int64_t>(count, 1));
  if (threads == 1) {
    body(0, count);
    return;
  }
  const int64_t size = std::max<int64_t>(1, count / (threads * 16));
  std::atomic<int64_t> next{0};
  std::exception_ptr failure;
  std::mutex failing;
  const auto work = [&] {
    try {
      for (int64_t begin = next.fetch_add(size); begin < count; begin = next.fetch_add(size)) {
        body(begin, std::min(begin + size, count));
      }
    } catch (...) {
      const std::lock_guard lock(failing);
      failure = std::current_exception();
    }
  };
  std::vector<std::jthread> workers;
  for (int64_t i = 1; i < threads; ++i) {
    workers.emplace_back(work);
  }
  work();
  workers.clear();  // joins
  if (failure) {
    std::rethrow_exception(failure);
  }
}

}  // namespace megafm::index
