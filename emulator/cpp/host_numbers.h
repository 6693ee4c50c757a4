// Storage types, conversions and the arithmetic functions of CUDA that C++ lacks.
//
// Results are those of correctly rounded arithmetic. The chip's rsqrt, exp and erf are approximations of a few ulp, so
// a comparison with it needs a tolerance.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

EMU_UNCHECKED inline unsigned __float_as_uint(float value) {
    unsigned bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
EMU_UNCHECKED inline float __uint_as_float(unsigned bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline int __float_as_int(float value) { return static_cast<int>(__float_as_uint(value)); }
inline float __int_as_float(int bits) { return __uint_as_float(static_cast<unsigned>(bits)); }

// Through double, so that the result is rounded once.
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x))); }
inline float rsqrtf(float x) { return __frsqrt_rn(x); }
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline float __frcp_rn(float a) { return 1.0f / a; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
// Saturating, and zero for NaN, as the chip converts.
inline int __float2int_rn(float x) {
    if (!(x == x)) return 0;
    if (x >= 2147483648.0f) return INT32_MAX;
    if (x <= -2147483648.0f) return INT32_MIN;
    return static_cast<int>(std::nearbyint(x));
}
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t{a} * b) >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return static_cast<unsigned long long>((static_cast<unsigned __int128>(a) * b) >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }

// Cache hints change nothing here. These loads and stores are the kernel's own, hence instrumented.
template <class T>
__attribute__((always_inline)) inline T __ldg(const T* address) {
    return *address;
}
template <class T>
__attribute__((always_inline)) inline T __ldcs(const T* address) {
    return *address;
}
template <class T>
__attribute__((always_inline)) inline T __ldcg(const T* address) {
    return *address;
}
template <class T>
__attribute__((always_inline)) inline void __stcs(T* address, T value) {
    *address = value;
}

// CUDA's global min and max. The float ones return the number where the other is NaN.
inline int min(int a, int b) { return b < a ? b : a; }
inline int max(int a, int b) { return a < b ? b : a; }
inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
inline unsigned max(unsigned a, unsigned b) { return a < b ? b : a; }
inline long long min(long long a, long long b) { return b < a ? b : a; }
inline long long max(long long a, long long b) { return a < b ? b : a; }
inline unsigned long long min(unsigned long long a, unsigned long long b) { return b < a ? b : a; }
inline unsigned long long max(unsigned long long a, unsigned long long b) { return a < b ? b : a; }
inline unsigned long min(unsigned long a, unsigned long b) { return b < a ? b : a; }
inline unsigned long max(unsigned long a, unsigned long b) { return a < b ? b : a; }
inline float min(float a, float b) { return std::fmin(a, b); }
inline float max(float a, float b) { return std::fmax(a, b); }

namespace wn {

struct f16 {
    uint16_t bits;
};
struct bf16 {
    uint16_t bits;
};

EMU_UNCHECKED inline float to_float(f16 value) {
    const uint32_t sign = (value.bits & 0x8000u) << 16;
    const uint32_t exponent = (value.bits >> 10) & 31;
    const uint32_t fraction = value.bits & 0x3ffu;
    if (exponent == 31) return __uint_as_float(sign | 0x7f800000u | fraction << 13);
    if (exponent != 0) return __uint_as_float(sign | (exponent + 112) << 23 | fraction << 13);
    // Subnormal: a multiple of 2^-24, which float holds exactly.
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return __uint_as_float(sign | __float_as_uint(magnitude));
}

// Rounds to nearest even. NaN becomes CUDA's canonical one, not the payload that the processor would keep.
EMU_UNCHECKED inline f16 to_f16(float value) {
    const uint32_t bits = __float_as_uint(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {0x7fff};
    // From 65520 on, the nearest f16 is infinity.
    if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};
    if (magnitude < 0x38800000u) {
        // Below 2^-14 the result is subnormal. Adding 0.5 leaves its 10 bits at the end of the sum, rounded by the
        // processor's adder.
        const uint32_t sum = __float_as_uint(__uint_as_float(magnitude) + 0.5f);
        return {static_cast<uint16_t>(sign | (sum - 0x3f000000u))};
    }
    const uint32_t tie_to_even = ((magnitude >> 13) & 1) + 0xfffu;
    return {static_cast<uint16_t>(sign | (magnitude + tie_to_even - 0x38000000u) >> 13)};
}

EMU_UNCHECKED inline float to_float(bf16 value) { return __uint_as_float(uint32_t{value.bits} << 16); }

EMU_UNCHECKED inline bf16 to_bf16(float value) {
    const uint32_t bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fff};
    return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16)};
}

}  // namespace wn
