// What surrounds a norm in a network, shared by every kernel: the prologue (residual in, sum out) and the epilogue
// (weight, bias, activation, conversion). Switched at run time by uniform branches; a new fusion is a new stage here.
#pragma once

#include "vectors.cuh"

namespace wn {

// One stretch of a tensor: a row, or the whole of it.
template <class T>
struct Stretch {
    T* start;  // null: the tensor is absent
    uint64_t length;
};

template <class T>
__device__ __forceinline__ Stretch<T> stretch_of(uint64_t address, uint64_t row, uint64_t stride, uint64_t length) {
    return Stretch<T>{address == 0 ? nullptr : global<T>(address) + row * stride, length};
}

// Adds the vector at `first` of a tensor that is there.
template <class T>
__device__ __forceinline__ void add(const Stretch<const T>& tensor, uint64_t first, float (&out)[kVector<T>]) {
    float added[kVector<T>];
    wn::load(tensor.start, tensor.length, first, added);
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) out[e] += added[e];
}

// The activations, from two approximations of the chip: 2^x to 2 ulp, 1/x to one. None cancels, and each costs 5 to 16
// instructions, so that they stand inline wherever they are wanted. docs/design.md, "Activations", has their errors.

// 1 / (1 + 2^x). Where 2^x is beyond f32, or its reciprocal below what is normal, 0.
__device__ __forceinline__ float logistic_of_exponent(float x) { return reciprocal_approximate(1.0f + exp2_approximate(x)); }

// x / (1 + exp(-x))
__device__ __forceinline__ float silu(float x) { return product(x, logistic_of_exponent(product(x, -1.44269504f))); }

// x / (1 + exp(-2u)) with u = sqrt(2 / pi) * (x + 0.044715 x^3): 1 + tanh(u) would cancel.
__device__ __forceinline__ float gelu_tanh(float x) {
    const float exponent = product(x, fused(product(x, x), -0.102943240f, -2.30220819f));
    return product(x, logistic_of_exponent(exponent));
}

// x * Phi(x). Of the magnitude, 1 - Phi is exp(-x^2 / 2) and a polynomial of t = 1 / (1 + c |x|), to 7.5e-8 (Abramowitz and
// Stegun, 26.2.17; the coefficients are divided by sqrt(2 pi)).
__device__ __forceinline__ float gelu(float x) {
    const float t = reciprocal_approximate(fused(fabsf(x), 0.231641900f, 1.0f));
    float polynomial = fused(t, 0.530702714f, -0.726576014f);
    polynomial = fused(polynomial, t, 0.710706871f);
    polynomial = fused(polynomial, t, -0.142248368f);
    polynomial = product(fused(polynomial, t, 0.127414796f), t);
    const float tail = product(polynomial, exp2_approximate(product(product(x, x), -0.721347520f)));
    return product(x, x > 0.0f ? 1.0f - tail : tail);
}

// A few elements in registers, to be handed over by value.
template <uint32_t kCount>
struct Elements {
    float of[kCount];
};

// GELU of either kind. Out of line, but all elements by one call: inline in every unrolled loop it would be much of the image.
template <uint32_t kCount>
__device__ __noinline__ Elements<kCount> gelu_of(Elements<kCount> value, bool by_tanh) {
    if (by_tanh) {
#pragma unroll
        for (uint32_t e = 0; e < kCount; e++) value.of[e] = gelu_tanh(value.of[e]);
    } else {
#pragma unroll
        for (uint32_t e = 0; e < kCount; e++) value.of[e] = gelu(value.of[e]);
    }
    return value;
}

// SiLU is asked for first: it stands behind most norms that have an activation at all. In an order, and not by equality alone,
// of which the compiler makes a jump through a table that scripts/machine_code.py does not follow.
template <uint32_t kCount>
__device__ __forceinline__ void activate(float (&value)[kCount], uint32_t activation) {
    if (activation == WN_ACTIVATION_SILU) {
#pragma unroll
        for (uint32_t e = 0; e < kCount; e++) value[e] = silu(value[e]);
    } else if (activation > WN_ACTIVATION_SILU) {
        Elements<kCount> elements;
#pragma unroll
        for (uint32_t e = 0; e < kCount; e++) elements.of[e] = value[e];
        elements = gelu_of(elements, activation == WN_ACTIVATION_GELU_TANH);
#pragma unroll
        for (uint32_t e = 0; e < kCount; e++) value[e] = elements.of[e];
    } else if (activation > WN_ACTIVATION_NONE) {
#pragma unroll
        for (uint32_t e = 0; e < kCount; e++) value[e] = value[e] < 0.0f ? 0.0f : value[e];  // NaN stays
    }
}

// One weight or bias tensor: T or f32, perhaps absent.
template <class T>
struct Coefficients {
    uint64_t address;
    bool is_f32;

    __device__ __forceinline__ float at(uint64_t index, float absent) const {
        if (address == 0) return absent;
        return is_f32 ? global<const float>(address)[index] : to_float(global<const T>(address)[index]);
    }

    // value = op(value, coefficient), for a vector of a tensor that is there, of its stretch that begins at `begin`. Not by
    // `load`: word by word, fewer of them are in registers at a time.
    template <class Op>
    __device__ __forceinline__ void apply(uint64_t begin, uint64_t length, uint64_t first, float (&value)[kVector<T>],
                                          Op op) const {
        if (is_f32) {
            apply_words(global<const float>(address) + begin, length, first, value, op);
        } else {
            apply_words(global<const T>(address) + begin, length, first, value, op);
        }
    }

    __device__ __forceinline__ void load(uint64_t length, uint64_t first, float absent,
                                         float (&out)[kVector<T>]) const {
        if (address == 0) {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) out[e] = absent;
        } else if (is_f32) {
            wn::load(global<const float>(address), length, first, out);
        } else {
            wn::load(global<const T>(address), length, first, out);
        }
    }

private:
    template <class Stored, class Op>
    static __device__ __forceinline__ void apply_words(const Stored* stretch, uint64_t length, uint64_t first,
                                                       float (&value)[kVector<T>], Op op) {
#pragma unroll
        for (uint32_t at = 0; at < kVector<T>; at += kVector<Stored>) {
            float coefficient[kVector<Stored>];
            wn::load(stretch, length, first + at, coefficient);
#pragma unroll
            for (uint32_t e = 0; e < kVector<Stored>; e++) value[at + e] = op(value[at + e], coefficient[e]);
        }
    }
};

// What a normalized value is multiplied by, and what is added to that.
struct Affine {
    float weight;
    float bias;
};

// A norm with its weight and bias as one map, of the elements of a channel. The mean is subtracted first: value * scale +
// (bias - mean * scale) would cancel, and lose as many digits as the mean has above the deviation. One word of 16 bytes.
struct alignas(16) ChannelMap {
    float mean;
    float scale;
    float bias;

    __device__ __forceinline__ float of(float value) const { return fused(value - mean, scale, bias); }
};

// What a set is normalized by: its mean, high + low, and 1 / deviation. One word of 16 bytes.
struct alignas(16) Normalization {
    float high;
    float rstd;
    float rest;  // -low * rstd: no element of a row is nearer to the mean than low, unless by rounding, so about 1 at most

    __device__ __forceinline__ float of(float value) const { return fused(value - high, rstd, rest); }

    // With a channel's weight and bias.
    __device__ __forceinline__ ChannelMap with(const Affine& affine) const {
        const float scale = product(affine.weight, rstd);
        return ChannelMap{high, scale, fused(affine.weight, rest, affine.bias)};
    }
};

// (value * weight + bias) * scale + shift as one map, by the scale and shift at `index`. Out of line, and all by value, so
// that nothing must have an address: samples with a scale or shift of their own are few.
template <class T>
__device__ __noinline__ Affine modulated(Affine affine, uint64_t scale, uint64_t shift, uint32_t flags, uint64_t index) {
    float factor = Coefficients<T>{scale, (flags & WN_FLAG_SCALE_F32) != 0}.at(index, 1.0f);
    if (scale != 0 && (flags & WN_FLAG_SCALE_PLUS_ONE) != 0) factor += 1.0f;
    const float addend = Coefficients<T>{shift, (flags & WN_FLAG_SHIFT_F32) != 0}.at(index, 0.0f);
    return Affine{product(affine.weight, factor), fused(affine.bias, factor, addend)};
}

template <class T>
__device__ __forceinline__ Affine modulate(Affine affine, const WnModulation& by, uint32_t flags, uint64_t index) {
    if (by.scale == 0 && by.shift == 0) return affine;
    return modulated<T>(affine, by.scale, by.shift, flags, index);
}

// A coefficient of the channel that an element of a plane belongs to. Out of line and by value, as above.
template <class T>
__device__ __noinline__ float coefficient_at(uint64_t address, bool is_f32, uint64_t first_channel, WnDivisor spatial,
                                             uint64_t index, float absent) {
    return Coefficients<T>{address, is_f32}.at(first_channel + divide(index, spatial), absent);
}

}  // namespace wn
