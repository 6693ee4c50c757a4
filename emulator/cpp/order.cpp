#include "order.h"

#include <algorithm>
#include <map>

namespace emu::order {
namespace {

struct Start {
    uint32_t first_segment;
    std::shared_ptr<const Mark> mark;
};

// Changed by the driver under its lock, before a grid starts; read by the grid's workers.
std::vector<Start>& starts() {
    static auto* const list = new std::vector<Start>;
    return *list;
}
uint32_t streams = 0;
uint32_t first_unknown_segment = 0;
// All before this one are known to the operation that runs. Mostly that is everything, and nobody need search.
uint32_t first_doubtful_segment = 0;

// Operations from the first on that are known to the latest one of a stream: not fewer are known to the next.
std::map<uint32_t, size_t>& known_to_streams() {
    static auto* const counts = new std::map<uint32_t, size_t>;
    return *counts;
}

// The operation that owns a segment; the list is never empty when a segment exists.
std::vector<Start>::const_iterator owner(uint32_t segment) {
    const auto after = std::upper_bound(starts().begin(), starts().end(), segment,
                                        [](uint32_t s, const Start& start) { return s < start.first_segment; });
    return after - 1;
}

// Whether an operation is known to come before the one that runs.
bool is_known(const Mark& earlier) {
    const Clock& known = starts().back().mark->clock;
    return known.of(earlier.stream) >= earlier.number || (earlier.branch && known.of(earlier.branch) > 0);
}

}  // namespace

uint64_t Clock::of(uint32_t stream) const {
    for (const auto& [id, number] : entries_) {
        if (id == stream) return number;
    }
    return 0;
}

void Clock::raise(uint32_t stream, uint64_t number) {
    for (auto& [id, known] : entries_) {
        if (id != stream) continue;
        known = std::max(known, number);
        return;
    }
    entries_.push_back({stream, number});
}

void Clock::merge(const Clock& other) {
    for (const auto& [id, number] : other.entries_) raise(id, number);
}

uint32_t new_stream() { return ++streams; }

void begins(std::shared_ptr<const Mark> mark, uint32_t first_segment) {
    // An operation that touched nothing leaves no segment to be asked about.
    if (!starts().empty() && starts().back().first_segment == first_segment) starts().pop_back();
    starts().push_back({first_segment, std::move(mark)});
    first_doubtful_segment = first_unknown_segment;
    const Mark& running = *starts().back().mark;
    // The branches of a graph do not know each other.
    if (running.branch) return;
    size_t& count = known_to_streams()[running.stream];
    while (count + 1 < starts().size() && is_known(*starts()[count].mark)) count++;
    first_doubtful_segment = starts()[count].first_segment;
}

bool known_before(uint32_t segment, uint32_t* first, uint32_t* last) {
    if (segment < first_doubtful_segment) {
        *first = 0;
        *last = first_doubtful_segment - 1;
        return true;
    }
    const auto start = owner(segment);
    *first = start->first_segment;
    *last = start + 1 == starts().end() ? UINT32_MAX : (start + 1)->first_segment - 1;
    return start + 1 == starts().end() || is_known(*start->mark);
}

const std::string& name_of(uint32_t segment) { return owner(segment)->mark->name; }
void everything_is_known_before(uint32_t segment) {
    starts().clear();
    known_to_streams().clear();
    first_unknown_segment = first_doubtful_segment = segment;
}

void forget() { everything_is_known_before(0); }

}  // namespace emu::order
