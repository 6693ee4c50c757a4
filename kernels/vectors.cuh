// 16-byte access to a stretch of elements at any address.
//
// A vector is the `kVector<T>` consecutive elements that fill 16 bytes. Vector v is always the elements
// [v * kVector, (v + 1) * kVector) counted from the start of the stretch, never from an aligned address: which lane
// owns which element, and so the order of every sum, does not depend on where the tensor lies. A stretch that starts
// off a 16-byte boundary is read as the two aligned words that cover a vector, shifted into place; the vectors at its
// ends, where those words would reach over the stretch, are read element by element.
//
// A liberty: the covering words hold elements of the neighbouring lanes, which in place may be storing theirs at that
// moment. What is read of those is dropped, and `store` writes no more than the elements that its lane owns. Between blocks
// even that does not happen, for a stretch belongs to one block; but for rows that several share, off a 16-byte boundary.
#pragma once

#include <type_traits>

#include "device.cuh"

namespace wn {

template <class T>
constexpr uint32_t kVector = 16 / sizeof(T);

__device__ __forceinline__ bool aligned_16(const void* address) {
    return (reinterpret_cast<uintptr_t>(address) & 15u) == 0;
}

template <class T>
union Words {
    uint4 words;
    T elements[kVector<T>];
};

template <class T>
__device__ __forceinline__ void unpack(const uint4& words, float* out) {
    if constexpr (std::is_same_v<T, bf16>) {
        // The upper one of a word's two elements is a mask away. Taken as an element of 16 bits, it sometimes is two steps.
        const uint32_t word[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
        for (uint32_t i = 0; i < 4; i++) {
            out[2 * i] = __uint_as_float(word[i] << 16);
            out[2 * i + 1] = __uint_as_float(word[i] & 0xffff0000u);
        }
    } else {
        Words<T> both;
        both.words = words;
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) out[e] = to_float(both.elements[e]);
    }
}

template <class T>
__device__ __forceinline__ uint4 pack(const float* in) {
    Words<T> both;
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) both.elements[e] = from_float<T>(in[e]);
    return both.words;
}

// The vector at `first` of a stretch of `length` elements that is not aligned, or that ends inside the vector; elements
// past the end are zero. Out of line: the common case is one instruction, and this would be unrolled around it. (It is here as
// well, for callers that do not ask.)
template <class T>
__device__ __noinline__ uint4 load_irregular(const T* stretch, uint64_t length, uint64_t first) {
    stretch = as_global(stretch);
    const uint64_t begin = first * sizeof(T);
    const uint32_t shift = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(stretch) & 15u);
    if (shift == 0 && first + kVector<T> <= length) return *global<const uint4>(reinterpret_cast<uintptr_t>(stretch) + begin);
    if (shift != 0 && first != 0 && begin - shift + 32 <= length * sizeof(T)) {
        const uint4* covering = global<const uint4>(reinterpret_cast<uintptr_t>(stretch) + begin - shift);
        const uint4 low = covering[0];
        const uint4 high = covering[1];
        uint32_t word[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        // Three conditional steps, since registers cannot be indexed by a number known only at run time.
        if (shift & 8u) {
#pragma unroll
            for (int i = 0; i < 6; i++) word[i] = word[i + 2];
        }
        if (shift & 4u) {
#pragma unroll
            for (int i = 0; i < 5; i++) word[i] = word[i + 1];
        }
        if (shift & 2u) {
#pragma unroll
            for (int i = 0; i < 4; i++) word[i] = (word[i] >> 16) | (word[i + 1] << 16);
        }
        return uint4{word[0], word[1], word[2], word[3]};
    }
    Words<T> both;
    both.words = uint4{0, 0, 0, 0};
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) {
        if (first + e < length) both.elements[e] = stretch[first + e];
    }
    return both.words;
}

template <class T>
__device__ __noinline__ void store_irregular(T* stretch, uint64_t length, uint64_t first, uint4 words) {
    stretch = as_global(stretch);
    Words<T> both;
    both.words = words;
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) {
        if (first + e < length) stretch[first + e] = both.elements[e];
    }
}

// Elements [first, first + kVector) of a stretch, as stored; zero past its end. `first` is a multiple of kVector.
template <class T>
__device__ __forceinline__ uint4 load_words(const T* stretch, uint64_t length, uint64_t first) {
    if (aligned_16(stretch) && first + kVector<T> <= length) return *reinterpret_cast<const uint4*>(stretch + first);
    if (first >= length) return uint4{0, 0, 0, 0};
    return load_irregular(stretch, length, first);
}

// Elements [first, first + kCount) of a stretch as floats; zero past its end.
template <class T, uint32_t kCount>
__device__ __forceinline__ void load(const T* stretch, uint64_t length, uint64_t first, float (&out)[kCount]) {
    static_assert(kCount % kVector<T> == 0, "whole vectors");
#pragma unroll
    for (uint32_t at = 0; at < kCount; at += kVector<T>) unpack<T>(load_words(stretch, length, first + at), out + at);
}

// Writes elements [first, first + kVector) that lie inside the stretch, rounded to nearest even.
template <class T>
__device__ __forceinline__ void store(T* stretch, uint64_t length, uint64_t first, const float (&in)[kVector<T>]) {
    const uint4 words = pack<T>(in);
    if (aligned_16(stretch) && first + kVector<T> <= length) {
        store_word(reinterpret_cast<uint4*>(stretch + first), words);
    } else if (first < length) {
        store_irregular(stretch, length, first, words);
    }
}

// Whole vectors of a stretch that begins on a 16-byte word.
template <class T, uint32_t kCount>
__device__ __forceinline__ void load_whole(const T* from, float (&out)[kCount]) {
#pragma unroll
    for (uint32_t at = 0; at < kCount; at += kVector<T>) {
        unpack<T>(*reinterpret_cast<const uint4*>(as_global(from + at)), out + at);
    }
}

template <class T>
__device__ __forceinline__ void store_whole(T* to, const float (&in)[kVector<T>]) {
    store_word(reinterpret_cast<uint4*>(to), pack<T>(in));
}

// A vector in registers, to be handed over by value.
template <class T>
struct Vector {
    float elements[kVector<T>];
};

// Writes kCount elements, 8 or 16 bytes, to a word of as many.
template <class Y, uint32_t kCount>
__device__ __forceinline__ void store_part(Y* to, const float* in) {
    using Word = std::conditional_t<kCount * sizeof(Y) == 16, uint4, uint2>;
    static_assert(kCount * sizeof(Y) == sizeof(Word), "one word");
    union {
        Word word;
        Y elements[kCount];
    } both;
#pragma unroll
    for (uint32_t e = 0; e < kCount; e++) both.elements[e] = from_float<Y>(in[e]);
    *reinterpret_cast<Word*>(to) = both.word;
}

// Writes the elements [first, first + kCount), 8 or 16 bytes of them, that lie inside the stretch.
template <class Y, uint32_t kCount>
__device__ __forceinline__ void store_part(Y* stretch, uint64_t length, uint64_t first, const float* in) {
    using Word = std::conditional_t<kCount * sizeof(Y) == 16, uint4, uint2>;
    static_assert(kCount * sizeof(Y) == sizeof(Word), "one word");
    union {
        Word word;
        Y elements[kCount];
    } both;
#pragma unroll
    for (uint32_t e = 0; e < kCount; e++) both.elements[e] = from_float<Y>(in[e]);
    const bool aligned = reinterpret_cast<uintptr_t>(stretch) % sizeof(Word) == 0;
    if (aligned && first + kCount <= length) {
        *reinterpret_cast<Word*>(stretch + first) = both.word;
        return;
    }
#pragma unroll
    for (uint32_t e = 0; e < kCount; e++) {
        if (first + e < length) stretch[first + e] = both.elements[e];
    }
}

template <class T, class Y>
__device__ __forceinline__ void store_vector(Y* stretch, uint64_t length, uint64_t first, const Vector<T>& vector) {
    constexpr uint32_t kCount = kVector<T> < kVector<Y> ? kVector<T> : kVector<Y>;
#pragma unroll
    for (uint32_t at = 0; at < kVector<T>; at += kCount) {
        store_part<Y, kCount>(stretch, length, first + at, vector.elements + at);
    }
}

// The vector at `first` of a stretch of another type than T, which begins `begin` elements behind the address. Out of line
// and by value: nothing waits for a store, and inlined it would stand, three times over, behind every vector of a row.
template <class T>
__device__ __noinline__ void store_converted(uint64_t address, uint64_t begin, uint64_t length, uint64_t first,
                                             uint32_t type, Vector<T> vector) {
    if (type == WN_ELEMENT_F32) {
        store_vector(global<float>(address) + begin, length, first, vector);
    } else if (type == WN_ELEMENT_F16) {
        store_vector(global<f16>(address) + begin, length, first, vector);
    } else {
        store_vector(global<bf16>(address) + begin, length, first, vector);
    }
}

// The same, or, where the type is the input's, the vector of `stretch`, which begins there as well.
template <class T>
__device__ __forceinline__ void store_as(uint32_t type, T* stretch, uint64_t address, uint64_t begin, uint64_t length,
                                         uint64_t first, const float (&in)[kVector<T>]) {
    if (type == WN_ELEMENT_AS_INPUT) return store(stretch, length, first, in);
    Vector<T> vector;
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) vector.elements[e] = in[e];
    store_converted<T>(address, begin, length, first, type, vector);
}

}  // namespace wn
