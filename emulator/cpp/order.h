// Which operation is known to come before which: the exact search for missing joins between streams (checked build).
//
// Every stream has a clock: for each stream, the number of its latest operation that everything put into this stream
// from now on is known to follow. Waits on events and synchronizations by the host merge clocks. An operation carries
// its stream's clock from when it was issued, so the order in which the emulator happens to run operations does not
// matter: two of them that touch the same byte, one writing, must be ordered by their clocks.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace emu::order {

class Clock {
  public:
    uint64_t of(uint32_t stream) const;
    void raise(uint32_t stream, uint64_t number);
    void merge(const Clock& other);

  private:
    std::vector<std::pair<uint32_t, uint64_t>> entries_;
};

// An operation, as others see it.
struct Mark {
    std::string name;
    uint32_t stream = 0;
    // Whoever knows this many operations of the stream knows this one.
    uint64_t number = 0;
    // A node of a graph launch has a clock entry of its own, by which its successors in the graph know it; 0: none.
    uint32_t branch = 0;
    Clock clock;
};

// A number for a stream, or for a node of a graph launch.
uint32_t new_stream();

// The operation that runs from now on, and the first segment number (races.h) that belongs to it.
void begins(std::shared_ptr<const Mark> mark, uint32_t first_segment);
// Whether the earlier operation that owns `segment` is known to come before the one that runs. The answer holds for all
// segments from `first` to `last`, those of the operation among them.
bool known_before(uint32_t segment, uint32_t* first, uint32_t* last);
const std::string& name_of(uint32_t segment);
// Everything that ran so far is known to whatever comes: segments below this one are ordered before all later ones.
void everything_is_known_before(uint32_t segment);
void forget();

}  // namespace emu::order
