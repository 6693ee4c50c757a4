// Races inside a team: who touched which byte of shared memory, and what has ordered them since.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

#include "races.h"

namespace emu {

// An access, in one word: which thread of the team, and how many barriers of its block, exchanges of its warp, and
// arrivals at the cluster's barrier came before. Zero is no access. Counts wrap; a barrier would have to come exactly
// 65536 times between two accesses to be mistaken.
struct Stamp {
    uint64_t bits = 0;

    Stamp() = default;
    explicit Stamp(const Fiber& fiber)
        : bits(uint64_t{fiber.number + 1} << 44 | uint64_t{fiber.block->epoch & 0xffff} << 28 |
               uint64_t{fiber.warp->epoch & 0xffff} << 12 | (fiber.arrived & 0xfff)) {}
    explicit operator bool() const { return bits != 0; }
    bool operator==(Stamp other) const { return bits == other.bits; }
    uint32_t thread() const { return static_cast<uint32_t>(bits >> 44) - 1; }
    uint32_t block_epoch() const { return bits >> 28 & 0xffff; }
    uint32_t warp_epoch() const { return bits >> 12 & 0xffff; }
    uint32_t arrivals() const { return bits & 0xfff; }
};

struct SharedCell {
    Stamp writer;
    // The first reader since the last barrier, and one of another warp: whoever writes next, one of them is not itself.
    Stamp reader, other_reader;
    uint32_t writer_pc = 0, reader_pc = 0, other_reader_pc = 0;  // relative to the library

    // The places do not matter: two bytes of equal stamps are treated alike.
    bool operator==(const SharedCell& o) const {
        return writer == o.writer && reader == o.reader && other_reader == o.other_reader;
    }
};

namespace races {
namespace {

extern "C" const char __ehdr_start __attribute__((visibility("hidden")));

uint32_t compress(const void* pc) {
    return pc ? static_cast<uint32_t>(static_cast<const char*>(pc) - &__ehdr_start) : 0;
}
Place expand(uint32_t pc) { return pc ? Place(&__ehdr_start + pc) : Place(); }

// Whether the access `stamp` of some thread is ordered before what `me` does now.
bool ordered(const Executor& x, Stamp stamp, const Fiber& me) {
    if (stamp.thread() == me.number) return true;
    const Fiber& other = x.fibers[stamp.thread()];
    // A cluster barrier at which the other arrived after the access, and which I have passed.
    if (stamp.arrivals() < (me.passed & 0xfff)) return true;
    if (other.block != me.block) return false;
    if (stamp.block_epoch() != (me.block->epoch & 0xffff)) return true;
    return other.warp == me.warp && stamp.warp_epoch() != (me.warp->epoch & 0xffff);
}

const SharedArray* array_at(const Executor& x, uint64_t offset) {
    const SharedArray* found = nullptr;
    for (const SharedArray& array : x.shared_arrays) {
        if (offset >= array.offset) found = &array;
    }
    return found;
}

[[noreturn]] void race(const Executor& x, const SharedArray& array, uint64_t offset, unsigned bytes, bool write,
                       Stamp earlier, bool earlier_write, uint32_t earlier_pc, Place place) {
    const Fiber& other = x.fibers[earlier.thread()];
    fail(reports::launch_failed, place, expand(earlier_pc),
         "shared memory race: %u-byte %s at offset %llu of %s, no barrier since the %s by thread (%u,%u,%u)%s", bytes,
         write ? "write" : "read", static_cast<unsigned long long>(offset - array.offset), array.name,
         earlier_write ? "write" : "read", other.index.x, other.index.y, other.index.z, earlier_pc ? " at" : "");
}

// The shadow of what lies at an address, which must be inside one array; and the offset in its block's window.
SharedCell* find_cells(const Executor& x, uint64_t address, unsigned bytes, const char* verb, Place place,
                       uint64_t* offset) {
    const uint64_t in_team = address - reinterpret_cast<uint64_t>(x.windows);
    const uint64_t rank = in_team / Executor::window_stride;
    *offset = in_team % Executor::window_stride;
    const SharedArray* const array = array_at(x, *offset);
    if (!array || *offset + bytes > array->offset + array->size) {
        fail(reports::illegal_address, place, {},
             "shared memory out of bounds: %u-byte %s at offset %llu of %s, which has %u bytes", bytes, verb,
             static_cast<unsigned long long>(array ? *offset - array->offset : *offset),
             array ? array->name : "nothing", array ? array->size : 0);
    }
    return x.shared_cells + rank * Executor::window_bytes + *offset;
}

// Does not return if the access of `current` is wrong.
void check(const Executor& x, const SharedArray& array, const SharedCell& cell, uint64_t offset, unsigned bytes,
           bool write, Place place) {
    const Fiber& me = *current;
    if (!write && !cell.writer) {
        fail(reports::launch_failed, place, {},
             "read of shared memory that nobody wrote: %u bytes at offset %llu of %s", bytes,
             static_cast<unsigned long long>(offset - array.offset), array.name);
    }
    if (cell.writer && !ordered(x, cell.writer, me)) {
        race(x, array, offset, bytes, write, cell.writer, true, cell.writer_pc, place);
    }
    if (write && cell.reader && !ordered(x, cell.reader, me)) {
        race(x, array, offset, bytes, write, cell.reader, false, cell.reader_pc, place);
    }
    if (write && cell.other_reader && !ordered(x, cell.other_reader, me)) {
        race(x, array, offset, bytes, write, cell.other_reader, false, cell.other_reader_pc, place);
    }
}

void update(const Executor& x, SharedCell& cell, Stamp mine, uint32_t pc, bool write) {
    const Fiber& me = *current;
    if (write) {
        cell.writer = mine;
        cell.writer_pc = pc;
        cell.reader = cell.other_reader = Stamp();
    } else if (!cell.reader || ordered(x, cell.reader, me)) {
        cell.reader = mine;
        cell.reader_pc = pc;
    } else if (x.fibers[cell.reader.thread()].warp != me.warp) {
        cell.other_reader = mine;
        cell.other_reader_pc = pc;
    }
}

}  // namespace

SharedCell* map_cells(size_t windows) {
    void* const pages = mmap(nullptr, windows * Executor::window_bytes * sizeof(SharedCell), PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) {
        perror("emulator: mmap");
        abort();
    }
    return static_cast<SharedCell*>(pages);
}

void unmap_cells(SharedCell* cells, size_t windows) {
    munmap(cells, windows * Executor::window_bytes * sizeof(SharedCell));
}

void shared_array_appears(Executor& x, const Block& block, size_t offset, size_t bytes) {
    if (!checked_build) return;
    SharedCell* const cells = x.shared_cells + size_t{block.rank} * Executor::window_bytes + offset;
    for (size_t i = 0; i < bytes; i++) cells[i] = SharedCell();
}

bool in_shared_memory(const Executor& x, uint64_t address) {
    return address - reinterpret_cast<uint64_t>(x.windows) < x.blocks.size() * Executor::window_stride;
}

void shared_atomic(Executor& x, uint64_t address, unsigned bytes, Place place) {
    uint64_t offset;
    SharedCell* const cells = find_cells(x, address, bytes, "atomic", place, &offset);
    // Whatever an atomic leaves counts as written; what it does to others' accesses is not looked at.
    for (unsigned i = 0; i < bytes; i++) {
        if (!cells[i].writer) cells[i].writer = Stamp(*current);
    }
}

void shared_access(Executor& x, uint64_t address, unsigned bytes, bool write, Place place) {
    uint64_t offset;
    SharedCell* const cells = find_cells(x, address, bytes, write ? "write" : "read", place, &offset);
    const SharedArray* const array = array_at(x, offset);
    const Stamp mine(*current);
    const uint32_t pc = compress(place.pc);
    SharedCell before, after;
    for (unsigned i = 0; i < bytes; i++) {
        // The bytes of an element mostly have one past, and then one future.
        if (i == 0 || !(cells[i] == before)) {
            before = after = cells[i];
            check(x, *array, after, offset, bytes, write, place);
            update(x, after, mine, pc, write);
        }
        cells[i] = after;
    }
}

}  // namespace races
}  // namespace emu
