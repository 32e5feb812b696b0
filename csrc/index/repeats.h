// Runs of tokens that stand somewhere else too.

#pragma once

#include <cstdint>

namespace megafm::index {

// repeated[i] says whether token i is in a run of `width` tokens of its document that also stands
// earlier, in its own or an earlier document. Document d is tokens[ends[d]:ends[d + 1]].
void repeats(const int64_t* tokens, const int64_t* ends, int64_t num_documents, int64_t width,
             bool* repeated);

}  // namespace megafm::index
