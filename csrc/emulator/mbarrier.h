// mbarrier objects: phases, arrivals, bytes that copies are yet to bring.
//
// Copies that complete on an mbarrier are made when someone waits on it, as late as can be.

#pragma once

#include <functional>

#include "emulator/block.h"

namespace megafm::emulator {

struct Mbarrier {
  uint32_t address;
  uint32_t count;      // arrivals that complete a phase
  uint32_t pending;    // those missing in this phase
  int64_t bytes = 0;   // expected less brought, in this phase
  uint32_t phase = 0;  // completed ones
  uint32_t initialiser, initialised_at;  // thread and clock
  bool fenced = false;                   // its init is visible to the async proxy
  uint32_t engine;                       // the maker, in clocks, of what its copies write
  uint32_t engine_clock = 0;
  std::vector<Arrival> arrivals;
  Seen released;  // by all completed phases
  std::vector<Thread*> waiting;
  std::vector<std::function<void(Mbarrier&)>> copies;  // under way
};

void mbarrier_init(uint32_t address, uint32_t count);
void mbarrier_inval(uint32_t address);
void mbarrier_arrive(uint32_t address, uint32_t expected_bytes);
bool mbarrier_try_wait(uint32_t address, uint32_t parity);
void mbarrier_wait(uint32_t address, uint32_t parity);
void fence_mbarrier_init();

// Let a copy complete on the mbarrier at `address`: `copy` is called at the latest time possible
// and calls bring_bytes().
void start_copy(uint32_t address, std::function<void(Mbarrier&)> copy);
void bring_bytes(Mbarrier& barrier, uint32_t bytes);

}  // namespace megafm::emulator
