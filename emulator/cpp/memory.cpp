#include "memory.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>

#include "reports.h"
#include "settings.h"

namespace emu::memory {
namespace {

constexpr uint64_t reserved_bytes = uint64_t{1} << 40;
constexpr uint64_t page_bytes = 4096;
constexpr uint8_t canary = 0xA5;

// Allocations and frees happen under the driver's lock, and never while a grid runs, so a kernel's look-ups need none.
struct Arena {
    uint64_t begin = 0, top = 0;
    uint32_t* allocation_of_page = nullptr;  // index + 1
    std::deque<Allocation> allocations;
    size_t live_bytes = 0;
};
Arena arena;

void* map(void* where, size_t bytes, int protection, int flags) {
    void* const pages = mmap(where, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
    if (pages == MAP_FAILED) {
        perror("emulator: mmap");
        abort();
    }
    return pages;
}

// Makes the pages of a small allocation at once, all of which will be written: to fault on each of them takes longer.
void populate(void* begin, size_t bytes) {
    constexpr size_t small = 16u << 20;
    // Where the kernel does not know it, they fault.
    if (bytes <= small) madvise(begin, bytes, MADV_POPULATE_WRITE);
}

// Of a number for each byte, zero at first.
uint32_t* shadow(size_t bytes) {
    void* const numbers = map(nullptr, bytes * sizeof(uint32_t), PROT_READ | PROT_WRITE, 0);
    madvise(numbers, bytes * sizeof(uint32_t), MADV_HUGEPAGE);
    populate(numbers, bytes * sizeof(uint32_t));
    return static_cast<uint32_t*>(numbers);
}

void reserve() {
    if (arena.begin) return;
    arena.begin = reinterpret_cast<uint64_t>(map(nullptr, reserved_bytes, PROT_NONE, 0));
    arena.top = arena.begin + page_bytes;
    arena.allocation_of_page =
        static_cast<uint32_t*>(map(nullptr, reserved_bytes / page_bytes * sizeof(uint32_t), PROT_READ | PROT_WRITE, 0));
}

uint64_t page_round_up(uint64_t bytes) { return (bytes + page_bytes - 1) / page_bytes * page_bytes; }
uint64_t first_page(const Allocation& a) { return a.address / page_bytes * page_bytes; }
uint64_t pages_end(const Allocation& a) { return page_round_up(a.address + a.size); }

bool is_canary(uint64_t begin, uint64_t end) {
    for (uint64_t i = begin; i < end; i++) {
        if (*reinterpret_cast<const uint8_t*>(i) != canary) return false;
    }
    return true;
}

void fill(uint64_t begin, uint64_t end, uint8_t value) {
    std::memset(reinterpret_cast<void*>(begin), value, end - begin);
}

bool check_canary(const Allocation& a, const char* when) {
    const bool before = is_canary(first_page(a), a.address), after = is_canary(a.address + a.size, pages_end(a));
    if (before && after) return true;
    reports::addf(reports::illegal_address, "the bytes %s an allocation of %llu bytes were overwritten (found %s)",
                  before ? "after" : "before", static_cast<unsigned long long>(a.size), when);
    // Once is enough: the next look must not find the same damage.
    fill(first_page(a), a.address, canary);
    fill(a.address + a.size, pages_end(a), canary);
    return false;
}

}  // namespace

uint64_t allocate(size_t bytes) {
    reserve();
    const uint64_t pages = page_round_up(bytes);
    if (arena.live_bytes + bytes > capacity || arena.top + pages + page_bytes > arena.begin + reserved_bytes) return 0;
    const uint64_t first = arena.top;
    if (mprotect(reinterpret_cast<void*>(first), pages, PROT_READ | PROT_WRITE)) return 0;
    arena.top += pages + page_bytes;
    populate(reinterpret_cast<void*>(first), pages);
    // As near to the guard page as CUDA's alignment of 256 bytes allows; what is left around it holds canaries.
    Allocation a;
    a.address = first + ((pages - bytes) & ~uint64_t{255});
    a.size = bytes;
    a.live = true;
    fill(first, a.address, canary);
    fill(a.address, a.address + bytes, 0xFF);
    fill(a.address + bytes, first + pages, canary);
    if (checked_build) {
        a.writers = shadow(bytes);
        a.readers = shadow(bytes);
    }
    arena.allocations.push_back(a);
    arena.live_bytes += bytes;
    // The guard page belongs to the allocation too: an access there is told as one past its end.
    for (uint64_t page = first; page <= first + pages; page += page_bytes) {
        arena.allocation_of_page[(page - arena.begin) / page_bytes] = static_cast<uint32_t>(arena.allocations.size());
    }
    return a.address;
}

int release(uint64_t address) {
    if (!address) return reports::success;
    Allocation* const a = find(address);
    if (!a || !a->live || a->address != address) {
        return reports::addf(reports::invalid_value, "free of %#llx: %s", static_cast<unsigned long long>(address),
                             a && !a->live ? "it has been freed before" : "not the start of an allocation");
    }
    const bool intact = check_canary(*a, "at its release");
    a->live = false;
    arena.live_bytes -= a->size;
    map(reinterpret_cast<void*>(first_page(*a)), pages_end(*a) - first_page(*a), PROT_NONE, MAP_FIXED);
    if (a->writers) {
        munmap(a->writers, a->size * sizeof(uint32_t));
        munmap(a->readers, a->size * sizeof(uint32_t));
        a->writers = a->readers = nullptr;
    }
    return intact ? reports::success : reports::illegal_address;
}

bool contains(uint64_t address) { return arena.begin && address - arena.begin < reserved_bytes; }

Allocation* find(uint64_t address) {
    if (!contains(address)) return nullptr;
    const uint32_t index = arena.allocation_of_page[(address - arena.begin) / page_bytes];
    return index ? &arena.allocations[index - 1] : nullptr;
}

Allocation* find_range(uint64_t address, size_t bytes) {
    Allocation* const a = find(address);
    return a && a->live && address >= a->address && address + bytes <= a->address + a->size ? a : nullptr;
}

int check_canaries() {
    int damaged = 0;
    for (const Allocation& a : arena.allocations) {
        if (a.live && !check_canary(a, "at a synchronization")) damaged++;
    }
    return damaged;
}

size_t live_allocations() {
    size_t count = 0;
    for (const Allocation& a : arena.allocations) count += a.live;
    return count;
}

size_t live_bytes() { return arena.live_bytes; }

void release_all() {
    for (const Allocation& a : arena.allocations) {
        if (a.live) release(a.address);
    }
}

void clear_shadows() {
    for (const Allocation& a : arena.allocations) {
        if (!a.writers) continue;
        std::memset(a.writers, 0, a.size * sizeof(uint32_t));
        std::memset(a.readers, 0, a.size * sizeof(uint32_t));
    }
}

}  // namespace emu::memory
