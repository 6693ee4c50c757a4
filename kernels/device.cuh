// The only place where a kernel touches the machine: every intrinsic, every line of PTX and every type of CUDA's own
// stands here or, for the CPU, in the emulator's host_cuda.h, which offers the same names. The kernels above it are
// plain C++ and compile for both.
#pragma once

#include "params.h"

#if defined(__CUDACC__)

#define WN_KERNEL(name, max_threads, ...) extern "C" __global__ void __launch_bounds__(max_threads) name(__VA_ARGS__)
#define WN_SHARED(T, name, n) __shared__ T name[n]
#define WN_DYNAMIC_SHARED(T, name) extern __shared__ __align__(16) T name[]

namespace wn {

// Storage types: bits without arithmetic, so that nothing can be computed in 16 bits by accident.
struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

__device__ __forceinline__ float to_float(f16 value) {
    float result;
    asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(value.bits));
    return result;
}

__device__ __forceinline__ float to_float(bf16 value) {
    return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}

__device__ __forceinline__ f16 to_f16(float value) {
    f16 result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
    return result;
}

__device__ __forceinline__ bf16 to_bf16(float value) {
    bf16 result;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
#else
    const uint32_t bits = __float_as_uint(value);
    const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
    result.bits = is_nan ? 0x7fff : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
#endif
    return result;
}

// A chip without clusters runs every block as a cluster of one.
namespace cluster {

__device__ __forceinline__ unsigned rank() {
    unsigned result = 0;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(result));
#endif
    return result;
}

__device__ __forceinline__ unsigned size() {
    unsigned result = 1;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(result));
#endif
    return result;
}

// Arrive, then wait, is a barrier of all the cluster's threads, after which each sees what the others wrote before. To begin
// is to arrive with nothing written: then nobody need wait for stores.
__device__ __forceinline__ void begin() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void arrive() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
    __syncthreads();
#endif
}

// Into the block of that rank, where it has its copy of this shared variable.
__device__ __forceinline__ void store(float* shared, unsigned rank, float value) {
#if __CUDA_ARCH__ >= 900
    const uint32_t here = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    uint32_t there;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
    asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(there), "f"(value) : "memory");
#else
    *shared = value;
#endif
}

// From the block of that rank.
__device__ __forceinline__ float load(const float* shared, unsigned rank) {
#if __CUDA_ARCH__ >= 900
    const uint32_t here = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    uint32_t there;
    float value;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(value) : "r"(there) : "memory");
    return value;
#else
    return *shared;
#endif
}

}  // namespace cluster

// Programmatic dependent launch, for WN_DEFINE alone: no kernel calls these itself. Waits until the kernel before this one
// in the stream has finished and its writes are visible. Immediate where the launch did not ask for overlap.
__device__ __forceinline__ void pdl_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Lets the next kernel of the stream begin, up to its own pdl_wait, as soon as every block of this one has come here.
__device__ __forceinline__ void pdl_trigger() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace wn

#else
#include "host_cuda.h"
#endif

namespace wn {

__device__ __forceinline__ float to_float(float value) { return value; }

template <class T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
    return value;
}
template <>
__device__ __forceinline__ f16 from_float<f16>(float value) {
    return to_f16(value);
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float value) {
    return to_bf16(value);
}

// To eight bits: to nearest even, held to the type's range. NaN becomes 0.
__device__ __forceinline__ uint8_t to_i8(float value) {
#if defined(__CUDACC__)
    int32_t result;
    asm("cvt.rni.sat.s8.f32 %0, %1;" : "=r"(result) : "f"(value));
    return static_cast<uint8_t>(result);
#else
    if (!(value == value)) return 0;
    return static_cast<uint8_t>(static_cast<int32_t>(rintf(value < -128.0f ? -128.0f : value > 127.0f ? 127.0f : value)));
#endif
}

// The same, to four bits of exponent and three of fraction, without infinities. NaN stays.
__device__ __forceinline__ uint8_t to_f8_e4m3_by_steps(float value) {
    const uint32_t bits = __float_as_uint(value);
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t sign = bits >> 24 & 0x80u;
    if (magnitude > 0x7f800000u) return 0x7f;
    if (magnitude > 0x43e00000u) return static_cast<uint8_t>(sign | 0x7eu);  // beyond 448
    if (magnitude < 0x3c800000u) {
        // Below 2^-6 neighbours are 2^-9 apart, as they are from 2^14 on in f32: the adder rounds.
        const float shifted = __uint_as_float(magnitude) + 16384.0f;
        return static_cast<uint8_t>(sign | (__float_as_uint(shifted) - 0x46800000u));
    }
    const uint32_t rounded = magnitude + 0x7ffffu + (magnitude >> 20 & 1u);
    return static_cast<uint8_t>(sign | ((rounded >> 20) - (120u << 3)));  // exponents count from 7 in place of 127
}

// Four of them, the first in the lowest byte: newer chips have an instruction for two.
__device__ __forceinline__ uint32_t to_f8_e4m3_four(float first, float second, float third, float fourth) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 890
    uint32_t four;
    asm("{\n"
        ".reg .b16 low, high;\n"
        "cvt.rn.satfinite.e4m3x2.f32 low, %2, %1;\n"
        "cvt.rn.satfinite.e4m3x2.f32 high, %4, %3;\n"
        "mov.b32 %0, {low, high};\n"
        "}"
        : "=r"(four)
        : "f"(first), "f"(second), "f"(third), "f"(fourth));
    return four;
#else
    return to_f8_e4m3_by_steps(first) | to_f8_e4m3_by_steps(second) << 8 | to_f8_e4m3_by_steps(third) << 16 |
           static_cast<uint32_t>(to_f8_e4m3_by_steps(fourth)) << 24;
#endif
}

// The larger one of two magnitudes; NaN is above all.
__device__ __forceinline__ float larger_magnitude(float a, float b) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
    float result;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(fabsf(a)), "f"(fabsf(b)));
    return result;
#else
    // As integers they are in the same order.
    const uint32_t first = __float_as_uint(a) & 0x7fffffffu;
    const uint32_t second = __float_as_uint(b) & 0x7fffffffu;
    return __uint_as_float(first > second ? first : second);
#endif
}

// Tells the compiler that a pointer is to global memory: LDG and STG instead of generic accesses. (An assumption, not a
// conversion through __cvta_global_to_generic: with two of those meeting in one branch, nvcc 13.0 does not terminate.)
template <class T>
__device__ __forceinline__ T* as_global(T* pointer) {
#if defined(__CUDACC__)
    __builtin_assume(__isGlobal(pointer));
#endif
    return pointer;
}

// A device address as a pointer.
template <class T>
__device__ __forceinline__ T* global(uint64_t address) {
    return as_global(reinterpret_cast<T*>(address));
}

// One store of 16 bytes to global memory: left to the compiler, it may become four.
__device__ __forceinline__ void store_word(uint4* address, const uint4& word) {
#if defined(__CUDACC__)
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w)
                 : "memory");
#else
    *address = word;
#endif
}

// A word, if `is_wanted`: of 16 or eight bytes by a predicate, where the compiler would make a branch and the place where its ways
// meet. (Not for older chips: there it costs registers.)
__device__ __forceinline__ void store_word_if(bool is_wanted, uint4* address, const uint4& word) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
    asm volatile(
        "{\n"
        ".reg .pred is_wanted;\n"
        "setp.ne.u32 is_wanted, %5, 0;\n"
        "@is_wanted st.global.v4.u32 [%0], {%1, %2, %3, %4};\n"
        "}" ::"l"(address),
        "r"(word.x), "r"(word.y), "r"(word.z), "r"(word.w), "r"(is_wanted ? 1u : 0u)
        : "memory");
#else
    if (is_wanted) *address = word;
#endif
}

__device__ __forceinline__ void store_word_if(bool is_wanted, uint2* address, const uint2& word) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 900
    asm volatile(
        "{\n"
        ".reg .pred is_wanted;\n"
        "setp.ne.u32 is_wanted, %3, 0;\n"
        "@is_wanted st.global.v2.u32 [%0], {%1, %2};\n"
        "}" ::"l"(address),
        "r"(word.x), "r"(word.y), "r"(is_wanted ? 1u : 0u)
        : "memory");
#else
    if (is_wanted) *address = word;
#endif
}

__device__ __forceinline__ void store_word_if(bool is_wanted, uint32_t* address, uint32_t word) {
    if (is_wanted) *address = word;
}

// 16 bytes by one load.
template <class T>
__device__ __forceinline__ uint4 load_at_once(const T* address) {
#if defined(__CUDACC__)
    uint4 word;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(word.x), "=r"(word.y), "=r"(word.z), "=r"(word.w)
                 : "l"(address)
                 : "memory");
    return word;
#else
    return *reinterpret_cast<const uint4*>(address);
#endif
}

// 16 bytes that nobody will want again soon: the caches may let them go first.
__device__ __forceinline__ uint4 load_streaming(const uint4* address) {
#if defined(__CUDACC__)
    return __ldcs(address);
#else
    return *address;
#endif
}

// 16 bytes that another multiprocessor may have written in this launch.
__device__ __forceinline__ uint4 load_uncached(const uint4* address) {
#if defined(__CUDACC__)
    return __ldcg(address);
#else
    return *address;
#endif
}

__device__ __forceinline__ void store_streaming(uint4* address, const uint4& word) {
#if defined(__CUDACC__)
    __stcs(address, word);
#else
    *address = word;
#endif
}

// Words of shared memory: their address there is made once, which the compiler does for each copy else, and each access.
struct SharedWords {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
    uint32_t address;

    __device__ __forceinline__ explicit SharedWords(uint4* words)
        : address(static_cast<uint32_t>(__cvta_generic_to_shared(words))) {}

    __device__ __forceinline__ SharedWords behind(uint32_t count) const {
        SharedWords result = *this;
        result.address += count * 16;
        return result;
    }

    // In a register, and not made again of what it is made of.
    __device__ __forceinline__ SharedWords kept() const {
        SharedWords result = *this;
        asm volatile("mov.u32 %0, %1;" : "=r"(result.address) : "r"(address));
        return result;
    }

    __device__ __forceinline__ uint4 load(uint32_t word) const {
        uint4 result;
        asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(result.x), "=r"(result.y), "=r"(result.z), "=r"(result.w)
                     : "r"(address + word * 16)
                     : "memory");
        return result;
    }

    __device__ __forceinline__ void store(uint32_t word, const uint4& value) const {
        asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address + word * 16), "r"(value.x), "r"(value.y),
                     "r"(value.z), "r"(value.w)
                     : "memory");
    }
#else
    uint4* words;

    __device__ __forceinline__ explicit SharedWords(uint4* words) : words(words) {}

    __device__ __forceinline__ SharedWords behind(uint32_t count) const { return SharedWords(words + count); }
    __device__ __forceinline__ SharedWords kept() const { return *this; }
    __device__ __forceinline__ uint4 load(uint32_t word) const { return words[word]; }
    __device__ __forceinline__ void store(uint32_t word, const uint4& value) const { words[word] = value; }
#endif
};

// 16 bytes from global to shared memory, on their way while the thread goes on; both addresses are multiples of 16. The
// thread has them after copies_arrived(), the others after a barrier behind that.
__device__ __forceinline__ void copy_async(const SharedWords& shared, uint32_t word, const uint4* source) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared.address + word * 16), "l"(source) : "memory");
#else
    shared.words[word] = *source;
#endif
}

__device__ __forceinline__ void copy_async(uint4* shared, const uint4* source) { copy_async(SharedWords(shared), 0, source); }

__device__ __forceinline__ void copies_arrived() {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// The value of the lane of that number. Every lane of the warp must call.
template <class Word>
__device__ __forceinline__ Word from_lane(Word value, uint32_t lane) {
    return __shfl_sync(0xffffffffu, value, static_cast<int>(lane));
}

// The value of the lane whose number differs by the bits of `mask`. Every lane of the warp must call.
template <class Word>
__device__ __forceinline__ Word from_lane_xor(Word value, uint32_t mask) {
    return __shfl_xor_sync(0xffffffffu, value, static_cast<int>(mask));
}

// The largest value of the warp. Every lane of the warp must call.
__device__ __forceinline__ uint32_t largest_of_warp(uint32_t value) {
#if defined(__CUDACC__) && __CUDA_ARCH__ >= 800
    return __reduce_max_sync(0xffffffffu, value);
#else
    for (uint32_t mask = WN_WARP / 2; mask > 0; mask /= 2) {
        const uint32_t other = from_lane_xor(value, mask);
        value = value > other ? value : other;
    }
    return value;
#endif
}

// Whether it is so in any lane. Every lane of the warp must call.
__device__ __forceinline__ bool any_lane(bool value) { return __any_sync(0xffffffffu, value) != 0; }

// blockIdx.x, read again wherever it stands: no register keeps it meanwhile.
__device__ __forceinline__ uint32_t block_number() {
#if defined(__CUDACC__)
    uint32_t result;
    asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(result));
    return result;
#else
    return blockIdx.x;
#endif
}

// The same number, kept in a register: the compiler makes it anew wherever it is used else, of all that it is made of.
__device__ __forceinline__ uint32_t kept(uint32_t value) {
#if defined(__CUDACC__)
    uint32_t result;
    asm volatile("mov.u32 %0, %1;" : "=r"(result) : "r"(value));
    return result;
#else
    return value;
#endif
}

__device__ __forceinline__ uint64_t kept(uint64_t value) {
#if defined(__CUDACC__)
    uint64_t result;
    asm volatile("mov.u64 %0, %1;" : "=l"(result) : "l"(value));
    return result;
#else
    return value;
#endif
}

// A product that is rounded by itself: never contracted with a sum that follows, so that equal factors give equal numbers
// wherever they are multiplied.
__device__ __forceinline__ float product(float a, float b) {
#if defined(__CUDACC__)
    return __fmul_rn(a, b);
#else
    return a * b;
#endif
}

// a * b + c, rounded once: said, and not left to the compiler, which contracts here and not there.
__device__ __forceinline__ float fused(float a, float b, float c) { return __fmaf_rn(a, b, c); }

// 2^x to 2 ulp and 1 / x to one, by one instruction each, which takes denormals for 0 and makes none: CUDA's __expf and
// __fdividef, without what those do for denormals' sake.
__device__ __forceinline__ float exp2_approximate(float x) {
#if defined(__CUDACC__)
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#else
    return exp2f(x);
#endif
}

__device__ __forceinline__ float reciprocal_approximate(float x) {
#if defined(__CUDACC__)
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#else
    return 1.0f / x;
#endif
}

__device__ __forceinline__ uint64_t divide(uint64_t number, const WnDivisor& by) {
    return by.magic == 0 ? number : __umul64hi(number, by.magic) >> by.shift;
}

__device__ __forceinline__ uint32_t divide(uint32_t number, const WnShortDivisor& by) {
    return __umulhi(number, by.magic) >> by.shift;
}

}  // namespace wn

// Defines one kernel of the lists in params.h; the body's name comes in parentheses, since it may hold commas.
//
// Every kernel waits before its body, whatever it touches, and lets the next one begin only then: what begins early begins
// after all that came before this kernel, and has this one alone to wait for (docs/design.md, "Kernels that overlap").
#define WN_DEFINE(NAME, PARAMS, BODY, MAX_THREADS)                   \
    WN_KERNEL(NAME, MAX_THREADS, const __grid_constant__ PARAMS p) { \
        pdl_wait();                                                  \
        pdl_trigger();                                               \
        WN_UNWRAP BODY(p);                                           \
    }
#define WN_UNWRAP(...) __VA_ARGS__
