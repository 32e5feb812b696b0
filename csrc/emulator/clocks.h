// Vector clocks: which steps of other threads are ordered before what a thread does now.
//
// Every thread counts its releases (barrier arrivals, __syncwarp, ...). An access happened before
// the present if the clock it was made at is no later than the one that the present thread has
// seen of its maker. A maker is a thread, or a copy engine (one per mbarrier).

#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace megafm::emulator {

// An immutable array of clocks, shared by those who have seen the same. Not for several cores.
class Seen {
 public:
  Seen() = default;
  Seen(const Seen& other) : clocks_(other.clocks_) {
    if (clocks_ != nullptr) ++clocks_->owners;
  }
  Seen(Seen&& other) noexcept : clocks_(std::exchange(other.clocks_, nullptr)) {}
  Seen& operator=(Seen other) noexcept {
    std::swap(clocks_, other.clocks_);
    return *this;
  }
  ~Seen();

  // Nothing seen of `count` makers.
  static Seen none(size_t count);

  uint32_t of(size_t maker) const { return clocks_->at[maker]; }
  bool operator==(const Seen& other) const { return clocks_ == other.clocks_; }

  // A copy that is about to be changed and has no other owner.
  Seen copy() const;
  void set(size_t maker, uint32_t clock) { clocks_->at[maker] = clock; }
  void raise(const Seen& other);  // the later of both

 private:
  struct Clocks {
    uint32_t owners;
    std::vector<uint32_t> at;
  };
  Clocks* clocks_ = nullptr;
};

inline Seen::~Seen() {
  if (clocks_ != nullptr && --clocks_->owners == 0) delete clocks_;
}

inline Seen Seen::none(size_t count) {
  Seen seen;
  seen.clocks_ = new Clocks{1, std::vector<uint32_t>(count)};
  return seen;
}

inline Seen Seen::copy() const {
  Seen seen;
  seen.clocks_ = new Clocks{1, clocks_->at};
  return seen;
}

inline void Seen::raise(const Seen& other) {
  uint32_t* mine = clocks_->at.data();
  const uint32_t* theirs = other.clocks_->at.data();
  for (size_t i = 0; i < clocks_->at.size(); ++i) mine[i] = std::max(mine[i], theirs[i]);
}

// Joins what releases bring: of few distinct arrays, each is looked at once.
class Join {
 public:
  explicit Join(const Seen& first) : last_(first), joined_(first.copy()) {}

  void add(const Seen& seen) {
    if (seen == last_) return;
    joined_.raise(seen);
    last_ = seen;
  }
  void add(size_t maker, uint32_t clock) {
    if (joined_.of(maker) < clock) joined_.set(maker, clock);
  }
  Seen take() { return std::move(joined_); }

 private:
  Seen last_, joined_;
};

}  // namespace megafm::emulator
