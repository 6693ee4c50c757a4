// Outputs of eight bits: q = round(y / scale), by a scale that the caller gives, or by one for each row or group of elements
// that is made of them: their largest magnitude is the type's largest value then.
//
// Rounded to nearest even, and held to the type's range. NaN is NaN in e4m3, and 0 in i8, which has none. What is multiplied
// is y * (1 / scale), in f32.
#pragma once

#include "vectors.cuh"

namespace wn {

// The magnitude of a finite number or an infinity as an integer, which orders as they do; that of NaN is above all.
__device__ __forceinline__ uint32_t magnitude(float value) { return __float_as_uint(value) & 0x7fffffffu; }

// The scale for elements whose largest magnitude is this one.
__device__ __forceinline__ float scale_of(uint32_t amplitude, uint32_t type) {
    const uint32_t least = __float_as_uint(WN_LEAST_AMPLITUDE);
    const float most = type == WN_ELEMENT_I8 ? WN_I8_MAX : WN_F8_E4M3_MAX;
    return __uint_as_float(max(amplitude, least)) / most;
}

// A vector's elements as bytes, in one word.
template <uint32_t kCount>
using BytesOf = std::conditional_t<kCount == 8, uint2, uint32_t>;

template <uint32_t kCount>
__device__ __forceinline__ BytesOf<kCount> quantize(const float* in, uint32_t type, float inverse_scale) {
    static_assert(sizeof(BytesOf<kCount>) == kCount, "a byte for each element");
    float scaled[kCount];
#pragma unroll
    for (uint32_t e = 0; e < kCount; e++) scaled[e] = in[e] * inverse_scale;
    uint32_t fours[kCount / 4];
    if (type == WN_ELEMENT_I8) {
#pragma unroll
        for (uint32_t e = 0; e < kCount; e += 4) {
            fours[e / 4] = to_i8(scaled[e]) | to_i8(scaled[e + 1]) << 8 | to_i8(scaled[e + 2]) << 16 |
                           static_cast<uint32_t>(to_i8(scaled[e + 3])) << 24;
        }
    } else {
#pragma unroll
        for (uint32_t e = 0; e < kCount; e += 4) {
            fours[e / 4] = to_f8_e4m3_four(scaled[e], scaled[e + 1], scaled[e + 2], scaled[e + 3]);
        }
    }
    if constexpr (kCount == 8) {
        return uint2{fours[0], fours[1]};
    } else {
        return fours[0];
    }
}

// Writes the vector at `first` of a stretch of bytes that begins `begin` elements behind the address. Out of line and by
// value, as store_converted.
template <class T>
__device__ __noinline__ void store_quantized(uint64_t address, uint64_t begin, uint64_t length, uint64_t first, uint32_t type,
                                             float inverse_scale, Vector<T> vector) {
    constexpr uint32_t kCount = kVector<T>;
    union {
        BytesOf<kCount> word;
        uint8_t bytes[kCount];
    } both;
    both.word = quantize<kCount>(vector.elements, type, inverse_scale);
    uint8_t* const stretch = global<uint8_t>(address) + begin;
    if (reinterpret_cast<uintptr_t>(stretch) % kCount == 0 && first + kCount <= length) {
        *reinterpret_cast<BytesOf<kCount>*>(stretch + first) = both.word;
        return;
    }
#pragma unroll
    for (uint32_t e = 0; e < kCount; e++) {
        if (first + e < length) stretch[first + e] = both.bytes[e];
    }
}

}  // namespace wn
