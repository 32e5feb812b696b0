#include "emulator/report.h"

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <sstream>

namespace megafm::emulator {
namespace {

std::string output_of(const std::string& command) {
  std::string output;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return output;
  char part[512];
  while (std::fgets(part, sizeof part, pipe) != nullptr) output += part;
  pclose(pipe);
  return output;
}

// From addr2line's pairs of lines, a function and a file:line; the emulator's own frames and those
// without debug information say nothing to a kernel's author.
std::string shown(const std::string& output) {
  std::istringstream lines(output);
  std::string function, place, text;
  while (std::getline(lines, function) && std::getline(lines, place)) {
    const size_t root = place.find("csrc/");
    if (place.find("??") == 0 || place.find("emulator/") != std::string::npos) continue;
    if (root != std::string::npos) place = place.substr(root);
    text += "  at " + function.substr(0, 120) + ", " + place + '\n';
  }
  return text;
}

}  // namespace

std::string source_lines(const std::vector<void*>& frames) {
  std::string object, addresses;
  for (void* frame : frames) {
    Dl_info info;
    if (dladdr(frame, &info) == 0 || info.dli_fname == nullptr) continue;
    if (object.empty()) object = info.dli_fname;  // the innermost: the emulator and its kernels
    if (object != info.dli_fname) continue;
    char address[32];
    // One byte before the return address lies in the call.
    std::snprintf(address, sizeof address, " 0x%zx",
                  reinterpret_cast<uintptr_t>(frame) - 1 -
                      reinterpret_cast<uintptr_t>(info.dli_fbase));
    addresses += address;
  }
  if (object.empty()) return {};
  const std::string text =
      shown(output_of("addr2line -Cfi -e '" + object + "'" + addresses + " 2>/dev/null"));
  return text.empty() ? text : '\n' + text;
}

}  // namespace megafm::emulator
