// Device memory: pages of one large reservation, never handed out twice, each allocation followed by a guard page.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emu {

struct Allocation {
    uint64_t address = 0, size = 0;
    bool live = false;
    // Checked build: per byte, the segment that wrote or read it last (races.h). Null in the plain build.
    uint32_t* writers = nullptr;
    uint32_t* readers = nullptr;
};

namespace memory {

// Zero where the device's memory is exhausted. Fresh memory is all ones: NaN in every floating-point type.
uint64_t allocate(size_t bytes);
// A CUresult. Freed pages become inaccessible, so a use after free faults.
int release(uint64_t address);

// The allocation whose pages hold `address`, live or freed; null outside of all of them.
Allocation* find(uint64_t address);
bool contains(uint64_t address);
// The live allocation that holds all of [address, address + bytes), or null.
Allocation* find_range(uint64_t address, size_t bytes);

// Reports every allocation whose surroundings were overwritten, once each; the number found.
int check_canaries();
size_t live_allocations();
size_t live_bytes();
// What the end of a context does to allocations that nobody freed.
void release_all();
// Forgets who wrote and read what.
void clear_shadows();

constexpr size_t capacity = size_t{16} << 30;

}  // namespace memory
}  // namespace emu
