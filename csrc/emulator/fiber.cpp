#include "emulator/fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#ifdef __SANITIZE_ADDRESS__
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Save the callee-saved registers and the stack pointer, load the other stack's. Floating-point
// control words are the same in every fiber.
extern "C" void megafm_switch_stack(void** save, void* load);

#if defined(__x86_64__)
asm(R"(
.text
.hidden megafm_switch_stack
.globl megafm_switch_stack
.type megafm_switch_stack, @function
megafm_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size megafm_switch_stack, .-megafm_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(
.text
.hidden megafm_switch_stack
.globl megafm_switch_stack
.type megafm_switch_stack, %function
megafm_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size megafm_switch_stack, .-megafm_switch_stack
)");
#else
#error "the emulator switches fibers on x86-64 and aarch64 only"
#endif

namespace megafm::emulator {
namespace {

constexpr size_t stack_bytes = 256 << 10;  // of address space; touched pages alone cost memory
constexpr size_t guard_bytes = 64 << 10;   // one page, whatever its size

}  // namespace

void switch_fiber(Fiber& from, Fiber& to, bool ends) {
#ifdef __SANITIZE_ADDRESS__
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(ends ? nullptr : &fake, to.stack_low, to.stack_bytes);
  megafm_switch_stack(&from.stack_pointer, to.stack_pointer);
  // Whoever switches next comes from a stack that has told of itself.
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#else
  (void)ends;
  megafm_switch_stack(&from.stack_pointer, to.stack_pointer);
#endif
}

Fiber own_stack() {
  Fiber fiber;
#ifdef __SANITIZE_ADDRESS__
  pthread_attr_t attributes;
  pthread_getattr_np(pthread_self(), &attributes);
  pthread_attr_getstack(&attributes, &fiber.stack_low, &fiber.stack_bytes);
  pthread_attr_destroy(&attributes);
#endif
  return fiber;
}

void fiber_started() {
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

Stacks::~Stacks() {
  for (char* stack : stacks_) munmap(stack, stack_bytes);
}

Fiber Stacks::prepare(size_t index, void (*entry)()) {
  while (stacks_.size() <= index) {
    void* stack = mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stack == MAP_FAILED) throw std::bad_alloc();
    mprotect(stack, guard_bytes, PROT_NONE);
    stacks_.push_back(static_cast<char*>(stack));
  }
  Fiber fiber;
  fiber.stack_low = stacks_[index] + guard_bytes;
  fiber.stack_bytes = stack_bytes - guard_bytes;
#ifdef __SANITIZE_ADDRESS__
  __asan_unpoison_memory_region(fiber.stack_low, fiber.stack_bytes);  // of a fiber that was left
#endif
  // Tops are staggered: frames of equal depth would fall into one set of the cache otherwise.
  auto top = reinterpret_cast<uintptr_t>(stacks_[index] + stack_bytes) - index % 61 * 320;
  auto* frame = reinterpret_cast<uintptr_t*>(top & ~uintptr_t{63});
#if defined(__x86_64__)
  *--frame = 0;  // entry's return address: none. Also aligns the stack as a call would.
  *--frame = reinterpret_cast<uintptr_t>(entry);
  for (int i = 0; i < 6; ++i) *--frame = 0;
#else
  frame -= 20;
  for (int i = 0; i < 20; ++i) frame[i] = 0;
  frame[11] = reinterpret_cast<uintptr_t>(entry);  // x30
#endif
  fiber.stack_pointer = frame;
  return fiber;
}

}  // namespace megafm::emulator
