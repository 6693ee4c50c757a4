#include "races.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#include "memory.h"

// The library's own image, whose constants kernels may read.
extern "C" const char __ehdr_start __attribute__((visibility("hidden")));
extern "C" const char _end __attribute__((visibility("hidden")));

namespace emu {
namespace races {
namespace {

struct Segment {
    uint64_t block;
    std::atomic<uint64_t> end;  // 0 while the segment lasts
};

constexpr uint32_t segments_per_launch = 1u << 26;

// Segments of the launch that runs, by number less `first_segment`. Older ones are ordered by the launch boundary.
Segment* segment_table = nullptr;
uint32_t first_segment = 1;
std::atomic<uint32_t> next_segment{1};
// Orders all points of synchronization of a launch.
std::atomic<uint64_t> clock_of_launch{1};

void begin_segment(Block& block) {
    block.segment = next_segment.fetch_add(1, std::memory_order_relaxed);
    const uint32_t index = block.segment - first_segment;
    if (index >= segments_per_launch) {
        fprintf(stderr, "emulator: a launch has more than %u synchronizing operations between blocks\n",
                segments_per_launch);
        abort();
    }
    segment_table[index].block = block.number;
    segment_table[index].end.store(0, std::memory_order_relaxed);
}

void end_segment(const Block& block, uint64_t time) {
    segment_table[block.segment - first_segment].end.store(time, std::memory_order_relaxed);
}

// Whether everything done in `segment` is known to have happened before what `block` does now.
bool ordered(uint32_t segment, const Block& block) {
    if (segment < first_segment) {
        // Neighbouring bytes have mostly the same past.
        Executor& x = *executor;
        if (segment >= x.first_known_segment && segment <= x.last_known_segment) return true;
        return order::known_before(segment, &x.first_known_segment, &x.last_known_segment);
    }
    const Segment& earlier = segment_table[segment - first_segment];
    if (earlier.block == block.number) return true;
    const uint64_t end = earlier.end.load(std::memory_order_relaxed);
    return end != 0 && end < block.last_synchronization;
}

[[noreturn]] void unordered(const Allocation& a, uint64_t offset, unsigned bytes, bool write, uint32_t segment,
                            bool earlier_write, Place place) {
    if (segment < first_segment) {
        fail(reports::launch_failed, place, {},
             "missing join: %u-byte %s at offset %llu of an allocation of %llu bytes, which operation %s has %s in "
             "another stream, and nothing orders the two",
             bytes, write ? "write" : "read", static_cast<unsigned long long>(offset),
             static_cast<unsigned long long>(a.size), order::name_of(segment).c_str(),
             earlier_write ? "written" : "read");
    }
    fail(reports::launch_failed, place, {},
         "global memory race between blocks: %u-byte %s at offset %llu of an allocation of %llu bytes, which block "
         "number %llu of the same launch %s",
         bytes, write ? "write" : "read", static_cast<unsigned long long>(offset),
         static_cast<unsigned long long>(a.size),
         static_cast<unsigned long long>(segment_table[segment - first_segment].block),
         earlier_write ? "wrote" : "read");
}

void check_has_waited(unsigned bytes, const char* verb, Place place) {
    if (!current->may_run_early) return;
    fail(reports::launch_failed, place, {},
         "missing wait: %u-byte %s of device memory by a thread of a programmatic launch that has not waited for the "
         "kernel before",
         bytes, verb);
}

constexpr size_t stride = 16;

// Whether the next bytes, so many, were all accessed by one segment.
bool are_of(uint32_t segment, const uint32_t* segments) {
    uint32_t differences = 0;
    for (size_t i = 0; i < stride; i++) differences |= segments[i] ^ segment;
    return differences == 0;
}

void global_access(uint64_t address, unsigned bytes, bool write, Place place) {
    Allocation* const a = memory::find(address);
    const char* const verb = write ? "write" : "read";
    check_has_waited(bytes, verb, place);
    if (!a)
        fail(reports::illegal_address, place, {}, "%u-byte %s of device memory that was never allocated", bytes, verb);
    const auto size = static_cast<unsigned long long>(a->size);
    const uint64_t offset = address - a->address;
    if (!a->live) {
        fail(reports::illegal_address, place, {},
             "use after free: %u-byte %s at offset %lld of a freed allocation of %llu bytes", bytes, verb,
             static_cast<long long>(offset), size);
    }
    if (offset >= a->size || offset + bytes > a->size) {
        fail(reports::illegal_address, place, {},
             "out of bounds: %u-byte %s at offset %lld of an allocation of %llu bytes", bytes, verb,
             static_cast<long long>(offset), size);
    }
    const Block& block = *current->block;
    const uint32_t mine = block.segment;
    uint32_t* const writers = a->writers + offset;
    uint32_t* const readers = a->readers + offset;
    // The bytes of an element mostly have one past: what was found in order for one need not be asked for the next.
    uint32_t good_writer = mine, good_reader = mine;
    for (unsigned i = 0; i < bytes; i++) {
        const uint32_t writer = __atomic_load_n(writers + i, __ATOMIC_RELAXED);
        if (writer != good_writer) {
            if (writer != mine && writer && !ordered(writer, block))
                unordered(*a, offset, bytes, write, writer, true, place);
            good_writer = writer;
        }
        if (!write) {
            __atomic_store_n(readers + i, mine, __ATOMIC_RELAXED);
            continue;
        }
        const uint32_t reader = __atomic_load_n(readers + i, __ATOMIC_RELAXED);
        if (reader != good_reader) {
            if (reader != mine && reader && !ordered(reader, block))
                unordered(*a, offset, bytes, write, reader, false, place);
            good_reader = reader;
        }
        __atomic_store_n(writers + i, mine, __ATOMIC_RELAXED);
    }
}

}  // namespace

void forget_everything() {
    if (!checked_build) return;
    memory::clear_shadows();
    order::forget();
    next_segment = 1;
}

void host_has_waited_for_all() {
    if (checked_build) order::everything_is_known_before(next_segment);
}

void operation_begins(std::shared_ptr<const order::Mark> mark) {
    if (!checked_build) return;
    if (next_segment > UINT32_MAX - 2 * segments_per_launch) forget_everything();
    order::begins(std::move(mark), next_segment);
}

int driver_access(const Allocation& a, uint64_t address, size_t bytes, bool write) {
    if (!checked_build) return reports::success;
    const uint32_t mine = next_segment++;
    const uint64_t offset = address - a.address;
    uint32_t first = 1, last = 0;
    const auto check = [&](uint32_t segment, size_t at, bool wrote) -> int {
        if (segment == 0 || segment == mine || (segment >= first && segment <= last)) return reports::success;
        if (order::known_before(segment, &first, &last)) return reports::success;
        return reports::addf(
            reports::launch_failed,
            "missing join: operation %s %s offset %llu of an allocation of %llu bytes, which operation %s "
            "has %s in another stream, and nothing orders the two",
            order::name_of(mine).c_str(), write ? "writes" : "reads", static_cast<unsigned long long>(offset + at),
            static_cast<unsigned long long>(a.size), order::name_of(segment).c_str(), wrote ? "written" : "read");
    };
    const auto check_all = [&](const uint32_t* segments, bool wrote) -> int {
        for (size_t i = 0; i < bytes; i++) {
            if (const int error = check(segments[i], i, wrote)) return error;
            while (i + stride < bytes && are_of(segments[i], segments + i + 1)) i += stride;
        }
        return reports::success;
    };
    if (const int error = check_all(a.writers + offset, true)) return error;
    if (write) {
        if (const int error = check_all(a.readers + offset, false)) return error;
    }
    std::fill_n((write ? a.writers : a.readers) + offset, bytes, mine);
    return reports::success;
}

void launch_begins() {
    if (!checked_build) return;
    if (!segment_table) {
        void* const pages = mmap(nullptr, segments_per_launch * sizeof(Segment), PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (pages == MAP_FAILED) {
            perror("emulator: mmap");
            abort();
        }
        segment_table = static_cast<Segment*>(pages);
    }
    first_segment = next_segment;
    clock_of_launch = 1;
}

void block_synchronized(Block& block) {
    if (!checked_build) return;
    const uint64_t now = clock_of_launch.fetch_add(1, std::memory_order_relaxed);
    end_segment(block, now);
    block.last_synchronization = now;
    begin_segment(block);
}

void team_synchronized(Executor& x) {
    if (!checked_build || x.blocks.size() == 1) return;
    const uint64_t now = clock_of_launch.fetch_add(2, std::memory_order_relaxed);
    for (Block& block : x.blocks) {
        end_segment(block, now);
        block.last_synchronization = now + 1;
        begin_segment(block);
    }
}

void team_begins(Executor& x) {
    if (!checked_build) return;
    x.first_known_segment = 1;
    x.last_known_segment = 0;
    for (Block& block : x.blocks) {
        block.last_synchronization = 0;
        begin_segment(block);
        shared_array_appears(x, block, 0, x.launch->dynamic_shared);
    }
}

void checked_access(const void* pointer, unsigned bytes, bool write, Place place) {
    if (!checked_build || !current) return;
    Executor& x = *executor;
    current->pc = place.pc;
    const auto address = reinterpret_cast<uint64_t>(pointer);
    if (memory::contains(address)) {
        global_access(address, bytes, write, place);
    } else if (in_shared_memory(x, address)) {
        shared_access(x, address, bytes, write, place);
    } else if (!x.on_a_stack(address) && !(pointer >= &__ehdr_start && pointer < &_end)) {
        fail(reports::illegal_address, place, {}, "%u-byte %s of %#llx, which is neither device nor shared memory",
             bytes, write ? "write" : "read", static_cast<unsigned long long>(address));
    }
}

}  // namespace races

void fence() { races::block_synchronized(*current->block); }

void before_atomic(const void* address, unsigned bytes, Site site) {
    if (!checked_build) return;
    const InCall in_call(current, site);
    // Only the bounds matter: atomics on one address do not race with each other.
    const auto at = reinterpret_cast<uint64_t>(address);
    if (races::in_shared_memory(*executor, at)) {
        races::shared_atomic(*executor, at, bytes, site);
    } else {
        races::check_has_waited(bytes, "atomic", site);
        if (!memory::find_range(at, bytes)) {
            fail(reports::illegal_address, site, {},
                 "atomic on %u bytes outside of shared memory and every live allocation", bytes);
        }
    }
    races::block_synchronized(*current->block);
}

}  // namespace emu
