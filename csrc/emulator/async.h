// Copies and products under way, of all threads of a block.

#pragma once

#include "emulator/block.h"

namespace megafm::emulator {

struct AsyncState {
  void reset(Block&) {}
  // What is still under way as the block ends, or nothing.
  std::string unfinished() const { return {}; }
};

}  // namespace megafm::emulator
