// The source lines of a failure's call stack.

#pragma once

#include <string>
#include <vector>

namespace megafm::emulator {

// One "  at function, file:line" a line, of the kernel's frames; empty without addr2line.
std::string source_lines(const std::vector<void*>& frames);

}  // namespace megafm::emulator
