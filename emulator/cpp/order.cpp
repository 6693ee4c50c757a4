#include "order.h"

#include <algorithm>

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

// The operation that owns a segment; the list is never empty when a segment exists.
std::vector<Start>::const_iterator owner(uint32_t segment) {
    const auto after = std::upper_bound(starts().begin(), starts().end(), segment,
                                        [](uint32_t s, const Start& start) { return s < start.first_segment; });
    return after - 1;
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
}

bool known_before(uint32_t segment, uint32_t* first, uint32_t* last) {
    if (segment < first_unknown_segment) {
        *first = 0;
        *last = first_unknown_segment - 1;
        return true;
    }
    const auto start = owner(segment);
    *first = start->first_segment;
    *last = start + 1 == starts().end() ? UINT32_MAX : (start + 1)->first_segment - 1;
    const Mark& earlier = *start->mark;
    const Clock& known = starts().back().mark->clock;
    return start + 1 == starts().end() || known.of(earlier.stream) >= earlier.number ||
           (earlier.branch && known.of(earlier.branch) > 0);
}

const std::string& name_of(uint32_t segment) { return owner(segment)->mark->name; }
void everything_is_known_before(uint32_t segment) {
    starts().clear();
    first_unknown_segment = segment;
}

void forget() { everything_is_known_before(0); }

}  // namespace emu::order
