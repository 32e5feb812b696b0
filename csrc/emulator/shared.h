// Shared memory as kernels see it: views whose every access is checked (README.md).

#pragma once

#include <cstring>
#include <type_traits>

#include "emulator/block.h"

namespace megafm::emulator {

template <typename T>
class Shared;

template <typename T>
std::remove_const_t<T> load_shared(uint32_t address, uint32_t alignment = alignof(T)) {
  Block& block = *current->block;
  block.check_shared(address, sizeof(T), alignment);
  block.read(address, sizeof(T), Access::plain);
  std::remove_const_t<T> value;
  std::memcpy(&value, block.shared(address), sizeof value);
  return value;
}

template <typename T>
void store_shared(uint32_t address, const T& value) {
  Block& block = *current->block;
  block.check_shared(address, sizeof value, alignof(T));
  block.write(address, sizeof value, Access::plain);
  std::memcpy(block.shared(address), &value, sizeof value);
}

// What `s[i]` is: read when converted to T, written when assigned.
template <typename T>
class SharedReference {
 public:
  explicit SharedReference(uint32_t address) : address_(address) {}
  SharedReference(const SharedReference&) = default;

  operator std::remove_const_t<T>() const { return load_shared<T>(address_); }
  template <typename U>
    requires(std::is_convertible_v<T, U> && !std::is_same_v<std::remove_const_t<T>, U>)
  explicit operator U() const {
    return static_cast<U>(load_shared<T>(address_));
  }
  const SharedReference& operator=(const T& value) const {
    store_shared<T>(address_, value);
    return *this;
  }
  const SharedReference& operator=(const SharedReference& other) const {
    return *this = static_cast<T>(other);
  }
  Shared<T> operator&() const { return Shared<T>(address_); }

  const SharedReference& operator+=(const T& x) const { return *this = T(*this) + x; }
  const SharedReference& operator-=(const T& x) const { return *this = T(*this) - x; }
  const SharedReference& operator*=(const T& x) const { return *this = T(*this) * x; }
  const SharedReference& operator|=(const T& x) const { return *this = T(*this) | x; }

 private:
  uint32_t address_;
};

// A typed pointer into the block's shared memory.
template <typename T>
class Shared {
 public:
  Shared() = default;
  explicit Shared(uint32_t address) : address_(address) {}
  template <typename U>
    requires std::is_same_v<const U, T>
  Shared(Shared<U> other) : address_(other.address()) {}

  uint32_t address() const { return address_; }
  SharedReference<T> operator*() const { return SharedReference<T>(address_); }
  SharedReference<T> operator[](int64_t index) const { return *(*this + index); }
  Shared operator+(int64_t count) const {
    return Shared(static_cast<uint32_t>(address_ + count * int64_t{sizeof(T)}));
  }
  Shared operator-(int64_t count) const { return *this + -count; }
  int64_t operator-(Shared other) const {
    return (int64_t{address_} - other.address_) / int64_t{sizeof(T)};
  }
  Shared& operator+=(int64_t count) { return *this = *this + count; }
  Shared& operator++() { return *this += 1; }
  bool operator==(const Shared&) const = default;

 private:
  uint32_t address_ = 0;
};

// One array per place in the source and block. `tag` is a lambda of that place.
template <typename T, typename Tag>
Shared<T> static_shared(uint32_t count, Tag) {
  static const char key = 0;
  return Shared<T>(current->block->static_address(&key, count * uint32_t{sizeof(T)},
                                                  alignof(T) < 16 ? 16 : alignof(T)));
}

}  // namespace megafm::emulator
