// Fibers: stacks of their own that a core switches between in a few instructions.

#pragma once

#include <cstddef>
#include <vector>

namespace megafm::emulator {

// A suspended flow of control. Callee-saved registers lie on its stack.
struct Fiber {
  void* stack_pointer = nullptr;
  void* stack_low = nullptr;  // for AddressSanitizer, which must know the stack it runs on
  size_t stack_bytes = 0;
};

// Suspend `from`, which runs, and resume `to`. `ends`: `from` is never resumed.
void switch_fiber(Fiber& from, Fiber& to, bool ends = false);

// The calling thread's own stack, to come back to.
Fiber own_stack();

// What a fiber does first on its own stack.
void fiber_started();

// Stacks with a guard page below each, kept for reuse.
class Stacks {
 public:
  Stacks() = default;
  Stacks(const Stacks&) = delete;
  ~Stacks();

  // A fiber that will run entry() on stack `index`; entry never returns.
  Fiber prepare(size_t index, void (*entry)());

 private:
  std::vector<char*> stacks_;
};

}  // namespace megafm::emulator
