// What a kernel sees instead of CUDA when its source is compiled as C++17 for the emulator.
//
// `kernels/device.cuh` includes this file in its host branch and nothing else does. It is split by subject:
// kernel_table.h (how a kernel makes itself known), host_numbers.h (types, conversions, arithmetic), host_atomics.h.
// Functions of this header are not instrumented in the checked build: what they touch belongs to the emulator. The few
// that touch the kernel's own memory say so.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <type_traits>
#include <utility>

#define EMU_UNCHECKED __attribute__((no_sanitize("thread", "undefined")))

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) alignas(bytes)

struct uint2 {
    alignas(8) unsigned x;
    unsigned y;
};
struct uint3 {
    unsigned x, y, z;
};
struct uint4 {
    alignas(16) unsigned x;
    unsigned y, z, w;
};
struct float2 {
    alignas(8) float x;
    float y;
};
struct float4 {
    alignas(16) float x;
    float y, z, w;
};
struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline constexpr int warpSize = 32;

#include "site.h"

namespace emu {

// Where the running thread stands. Constant to the compiler, which may so keep them out of loops: they change from
// fiber to fiber, but never within one call of a kernel.
__attribute__((const)) uint3 thread_index();
__attribute__((const)) uint3 block_index();
__attribute__((const)) dim3 block_shape();
__attribute__((const)) dim3 grid_shape();

enum class Exchange : uint8_t { synchronize, read_lane, read_xor, read_down, read_up, ballot, any, all };

// Hands `value` to the other lanes of `mask`, waits for them, and returns what this lane receives.
uint64_t exchange(Exchange kind, uint32_t mask, uint64_t value, int argument, int width, Site site);
void block_barrier(Site site);
void spin_yield(Site site);
void wait_for_prerequisites();

uint32_t cluster_rank();
uint32_t cluster_size();
void cluster_arrive(Site site);
void cluster_wait(Site site);
float load_from_rank(const float* address, unsigned rank, Site site);
void store_to_rank(float* address, unsigned rank, float value, Site site);

void* dynamic_shared();
// The block's copy of a static shared array. `key` is unique to its declaration (and template instantiation).
void* static_shared(const void* key, const char* name, size_t bytes, size_t alignment, Site site);

// Room for a value that the running lane hands over, undisturbed for its next few exchanges.
constexpr size_t wide_exchange_bytes = 32;
void* wide_exchange_slot();

// CUDA's lanes exchange 4 or 8 bytes. Here they may hand over a small struct in one go, which a host branch of
// device.cuh can use to do with fewer exchanges.
template <class T>
EMU_UNCHECKED inline T exchange_as(Exchange kind, uint32_t mask, T value, int argument, int width, Site site) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= wide_exchange_bytes);
    if constexpr (sizeof(T) <= sizeof(uint64_t)) {
        uint64_t bits = 0;
        std::memcpy(&bits, &value, sizeof(T));
        bits = exchange(kind, mask, bits, argument, width, site);
        std::memcpy(&value, &bits, sizeof(T));
    } else {
        void* const mine = wide_exchange_slot();
        std::memcpy(mine, &value, sizeof(T));
        const uint64_t theirs = exchange(kind, mask, reinterpret_cast<uint64_t>(mine), argument, width, site);
        std::memcpy(&value, reinterpret_cast<const void*>(theirs), sizeof(T));
    }
    return value;
}

}  // namespace emu

#define threadIdx (emu::thread_index())
#define blockIdx (emu::block_index())
#define blockDim (emu::block_shape())
#define gridDim (emu::grid_shape())

// Barriers and exchanges take the place of the call as a hidden argument, so that a report names the caller's line.

EMU_UNCHECKED inline void __syncthreads(emu::Site site = emu::Site::here()) { emu::block_barrier(site); }
EMU_UNCHECKED inline void __syncwarp(unsigned mask = ~0u, emu::Site site = emu::Site::here()) {
    emu::exchange(emu::Exchange::synchronize, mask, 0, 0, 32, site);
}
template <class T>
EMU_UNCHECKED inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32,
                                   emu::Site site = emu::Site::here()) {
    return emu::exchange_as(emu::Exchange::read_lane, mask, value, lane, width, site);
}
template <class T>
EMU_UNCHECKED inline T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32,
                                       emu::Site site = emu::Site::here()) {
    return emu::exchange_as(emu::Exchange::read_xor, mask, value, lane_mask, width, site);
}
template <class T>
EMU_UNCHECKED inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                        emu::Site site = emu::Site::here()) {
    return emu::exchange_as(emu::Exchange::read_down, mask, value, static_cast<int>(delta), width, site);
}
template <class T>
EMU_UNCHECKED inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32,
                                      emu::Site site = emu::Site::here()) {
    return emu::exchange_as(emu::Exchange::read_up, mask, value, static_cast<int>(delta), width, site);
}
EMU_UNCHECKED inline unsigned __ballot_sync(unsigned mask, int predicate, emu::Site site = emu::Site::here()) {
    return static_cast<unsigned>(emu::exchange(emu::Exchange::ballot, mask, predicate != 0, 0, 32, site));
}
EMU_UNCHECKED inline int __any_sync(unsigned mask, int predicate, emu::Site site = emu::Site::here()) {
    return static_cast<int>(emu::exchange(emu::Exchange::any, mask, predicate != 0, 0, 32, site));
}
EMU_UNCHECKED inline int __all_sync(unsigned mask, int predicate, emu::Site site = emu::Site::here()) {
    return static_cast<int>(emu::exchange(emu::Exchange::all, mask, predicate != 0, 0, 32, site));
}

// The one function a loop that waits for another block may spin on: it lets the other threads of the set run, and
// counts as having seen what other blocks published before.
EMU_UNCHECKED inline void wn_spin_yield(emu::Site site = emu::Site::here()) { emu::spin_yield(site); }

namespace wn {
namespace cluster {

EMU_UNCHECKED inline unsigned rank() { return emu::cluster_rank(); }
EMU_UNCHECKED inline unsigned size() { return emu::cluster_size(); }
EMU_UNCHECKED inline void arrive(emu::Site site = emu::Site::here()) { emu::cluster_arrive(site); }
EMU_UNCHECKED inline void begin(emu::Site site = emu::Site::here()) { emu::cluster_arrive(site); }
EMU_UNCHECKED inline void wait(emu::Site site = emu::Site::here()) { emu::cluster_wait(site); }
EMU_UNCHECKED inline float load(const float* address, unsigned rank, emu::Site site = emu::Site::here()) {
    return emu::load_from_rank(address, rank, site);
}
EMU_UNCHECKED inline void store(float* address, unsigned rank, float value, emu::Site site = emu::Site::here()) {
    emu::store_to_rank(address, rank, value, site);
}

}  // namespace cluster

// A programmatic launch is emulated in plain stream order, so there is nothing to wait for; but that a kernel of one waits,
// and does so before it touches memory, is checked. What it lets begin early is not emulated.
EMU_UNCHECKED inline void pdl_wait() { emu::wait_for_prerequisites(); }
EMU_UNCHECKED inline void pdl_trigger() {}

}  // namespace wn

// Shared memory is declared through these two macros alone: blocks of a cluster share one OS thread, so a C++ static
// would be common to all of them. Under nvcc the same names declare ordinary __shared__ arrays.
#define WN_SHARED(T, name, n)         \
    static const char name##_key = 0; \
    T* const name = static_cast<T*>(  \
        emu::static_shared(&name##_key, #name, sizeof(T) * (n), alignof(T) < 16 ? 16 : alignof(T), emu::Site::here()))
#define WN_DYNAMIC_SHARED(T, name) T* const name = static_cast<T*>(emu::dynamic_shared())

#include "host_atomics.h"
#include "host_numbers.h"
#include "kernel_table.h"
