// CUDA's atomics. Blocks run on several OS threads, so these are real ones.
//
// They are left out of the compiler's instrumentation, which would want a tsan runtime, and announce themselves
// instead: before_atomic checks the address, and takes the operation for a point where blocks publish to and learn from
// others.
#pragma once

#include <cstdint>
#include <cstring>

#include "site.h"

namespace emu {

void before_atomic(const void* address, unsigned bytes, Site site);
void fence();

template <class T, class Update>
EMU_UNCHECKED inline T atomic_update(T* address, Update update, Site site) {
    before_atomic(address, sizeof(T), site);
    T seen = __atomic_load_n(address, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(address, &seen, update(seen), true, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)) {
    }
    return seen;
}

}  // namespace emu

EMU_UNCHECKED inline float atomicAdd(float* address, float value, emu::Site site = emu::Site::here()) {
    const auto add = [value](uint32_t bits) EMU_UNCHECKED {
        float sum;
        std::memcpy(&sum, &bits, sizeof sum);
        sum += value;
        std::memcpy(&bits, &sum, sizeof sum);
        return bits;
    };
    const uint32_t before = emu::atomic_update(reinterpret_cast<uint32_t*>(address), add, site);
    float result;
    std::memcpy(&result, &before, sizeof result);
    return result;
}
EMU_UNCHECKED inline unsigned atomicAdd(unsigned* address, unsigned value, emu::Site site = emu::Site::here()) {
    emu::before_atomic(address, sizeof *address, site);
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}
EMU_UNCHECKED inline unsigned long long atomicAdd(unsigned long long* address, unsigned long long value,
                                                  emu::Site site = emu::Site::here()) {
    emu::before_atomic(address, sizeof *address, site);
    return __atomic_fetch_add(address, value, __ATOMIC_SEQ_CST);
}
EMU_UNCHECKED inline unsigned atomicCAS(unsigned* address, unsigned expected, unsigned value,
                                        emu::Site site = emu::Site::here()) {
    emu::before_atomic(address, sizeof *address, site);
    __atomic_compare_exchange_n(address, &expected, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    return expected;
}
EMU_UNCHECKED inline unsigned atomicExch(unsigned* address, unsigned value, emu::Site site = emu::Site::here()) {
    emu::before_atomic(address, sizeof *address, site);
    return __atomic_exchange_n(address, value, __ATOMIC_SEQ_CST);
}
// Counts up to `limit` and then starts again at zero.
EMU_UNCHECKED inline unsigned atomicInc(unsigned* address, unsigned limit, emu::Site site = emu::Site::here()) {
    return emu::atomic_update(
        address, [limit](unsigned seen) EMU_UNCHECKED { return seen >= limit ? 0u : seen + 1; }, site);
}

// A fence is how plain and volatile accesses around it become known to other blocks, and theirs to this one.
EMU_UNCHECKED inline void __threadfence() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    emu::fence();
}
EMU_UNCHECKED inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
