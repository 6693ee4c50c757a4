// What surrounds the norm of a row, before and behind it: the prologue and epilogue of fused_rows.cu.
#pragma once

#include "quantization.cuh"
#include "rows.cuh"

namespace wn {

// Of a tensor [samples, length], where that begins which belongs to the row's sample.
__device__ __forceinline__ uint64_t begin_of_sample(const WnRowsParams& p, uint64_t row) {
    return divide(row, p.groups) * p.length;
}

// Rounded to T, if the flag is set.
template <class T>
__device__ __forceinline__ void round_if(uint32_t flags, uint32_t flag, float (&value)[kVector<T>]) {
    if constexpr (!std::is_same_v<T, float>) {
        if ((flags & flag) == 0) return;
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = to_float(from_float<T>(value[e]));
    }
}

// What is normalized, in two steps where the input has a norm of its own: what that norm is of, and what it is completed to.
template <class T>
struct FusedInput {
    const WnRowsParams& p;
    Stretch<const T> x;
    Stretch<const T> residual;
    uint64_t row;
    uint64_t of_sample;  // the row's first channel, counted through the samples
    bool is_complete;    // no norm of the input, or known
    Normalization own;   // of the input

    __device__ __forceinline__ FusedInput(const WnRowsParams& params, uint64_t row)
        : p(params),
          x(stretch_of<const T>(p.x, row, p.x_stride, p.length)),
          residual(stretch_of<const T>(p.residual, row, p.residual_stride, p.length)),
          row(row),
          of_sample(row * p.channels_per_group),
          is_complete((p.flags & WN_FLAG_POST_NORM) == 0),
          own{0.0f, 1.0f, 0.0f} {}

    __device__ __forceinline__ void normalize_by(const Moments& moments) {
        own = normalization_of(moments, p.inverse_length, p.eps);
        is_complete = true;
    }

    // What its own norm is of.
    __device__ __forceinline__ void load(uint64_t first, float (&value)[kVector<T>]) const {
        wn::load(x.start, p.length, first, value);
        if (p.input_bias != 0) {
            const Coefficients<T> bias{p.input_bias, (p.flags & WN_FLAG_INPUT_BIAS_F32) != 0};
            bias.apply(0, p.length, first, value, [](float x, float bias) { return x + bias; });
            round(value);
        }
    }

    // Makes what is normalized of that.
    __device__ __forceinline__ void complete(uint64_t first, float (&value)[kVector<T>]) const {
        if ((p.flags & WN_FLAG_POST_NORM) != 0) post_normalize(first, value);
        if (p.gate != 0) {
            const Coefficients<T> gate{p.gate, (p.flags & WN_FLAG_GATE_F32) != 0};
            const auto multiply = [](float x, float factor) { return product(x, factor); };
            gate.apply(begin_of_sample(p, row), p.length, first, value, multiply);
            round(value);
        }
        if (residual.start != nullptr) {
            add(residual, first, value);
            round(value);
        }
        if (p.second_residual != 0) {
            add(stretch_of<const T>(p.second_residual, row, p.second_residual_stride, p.length), first, value);
            round(value);
        }
        if (p.modulation.channel_bias != 0) add_channel_bias(first, value);
    }

private:
    // To T, if every step is to be rounded.
    __device__ __forceinline__ void round(float (&value)[kVector<T>]) const {
        round_if<T>(p.flags, WN_FLAG_ROUND_STEPS, value);
    }

    __device__ __forceinline__ void post_normalize(uint64_t first, float (&value)[kVector<T>]) const {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = own.of(value[e]);
        round_if<T>(p.flags, WN_FLAG_ROUND_NORMALIZED, value);
        if (p.post_weight != 0) {
            const float offset = p.flags & WN_FLAG_WEIGHT_PLUS_ONE ? 1.0f : 0.0f;
            const Coefficients<T> weight{p.post_weight, (p.flags & WN_FLAG_POST_WEIGHT_F32) != 0};
            const auto multiply = [offset](float value, float weight) { return product(value, weight + offset); };
            weight.apply(0, p.length, first, value, multiply);
        }
        if (p.post_bias != 0) {
            const Coefficients<T> bias{p.post_bias, (p.flags & WN_FLAG_POST_BIAS_F32) != 0};
            bias.apply(0, p.length, first, value, [](float value, float bias) { return value + bias; });
        }
        round(value);
    }

    __device__ __forceinline__ void add_channel_bias(uint64_t first, float (&value)[kVector<T>]) const {
        const bool is_f32 = (p.flags & WN_FLAG_CHANNEL_BIAS_F32) != 0;
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
            if (first + e >= p.length) continue;
            value[e] += coefficient_at<T>(p.modulation.channel_bias, is_f32, of_sample, p.spatial, first + e, 0.0f);
        }
    }
};

// How a row is finished: its sum, then y in f32, and then what is stored of it.
template <class T>
struct FusedOutput {
    const WnRowsParams& p;
    T* sum;
    T* y;
    RowWriter writer;
    uint64_t row;
    uint64_t first_channel;
    uint64_t of_sample;  // the same, counted through the samples
    Normalization by;
    float inverse_scale;  // of a quantized output

    __device__ __forceinline__ FusedOutput(const WnRowsParams& params, uint64_t row, const LaneTeam& team,
                                           const Moments& moments)
        : p(params),
          sum(row_at<T>(p.sum, row, p.sum_stride)),
          y(row_at<T>(p.y, row, p.y_stride)),
          writer(team, sum, p.y_type == WN_ELEMENT_AS_INPUT ? y : nullptr),
          row(row),
          first_channel(0),
          of_sample(row * p.channels_per_group),
          by(normalization_of(moments, params.inverse_length, params.eps)),
          inverse_scale(1.0f) {
        if (p.affine == WN_AFFINE_PER_CHANNEL) {
            const uint64_t group = row - divide(row, p.groups) * p.groups.divisor;
            first_channel = group * p.channels_per_group;
        }
        if (p.scaling == WN_SCALING_STATIC) inverse_scale = 1.0f / global<const float>(p.scales)[0];
    }

    __device__ __forceinline__ void finish(uint64_t first, float (&value)[kVector<T>]) const {
        if (p.affine == WN_AFFINE_PER_CHANNEL) {
            normalize_channels(first, value);
        } else {
            normalize_elements(first, value);
        }
        activate(value, p.activation);
    }

    // All lanes of the warp together; `inside` says which have a vector.
    __device__ __forceinline__ void write_sum(uint64_t first, bool inside, const float (&value)[kVector<T>]) const {
        writer.write(sum, p.length, first, inside, value);
    }

    __device__ __forceinline__ void store(uint64_t first, bool inside, const float (&value)[kVector<T>]) const {
        if (p.y_type == WN_ELEMENT_AS_INPUT) return writer.write(y, p.length, first, inside, value);
        if (!inside) return;
        Vector<T> vector;
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) vector.elements[e] = value[e];
        if (p.scaling == WN_SCALING_NONE) {
            store_converted<T>(p.y, row * p.y_stride, p.length, first, p.y_type, vector);
        } else {
            store_quantized<T>(p.y, row * p.y_stride, p.length, first, p.y_type, inverse_scale, vector);
        }
    }

    // Of the elements before the row's end.
    __device__ __forceinline__ uint32_t amplitude(uint64_t first, const float (&value)[kVector<T>]) const {
        uint32_t result = 0;
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
            if (first + e < p.length) result = max(result, magnitude(value[e]));
        }
        return result;
    }

    // The scale of elements with this amplitude, written down by one of the lanes that have them.
    __device__ __forceinline__ void scale_by(uint32_t amplitude, uint64_t group, bool writes) {
        const float scale = scale_of(amplitude, p.y_type);
        if (writes) global<float>(p.scales)[row * p.scales_row_stride + group * p.scales_group_stride] = scale;
        inverse_scale = 1.0f / scale;
    }

private:
    __device__ __forceinline__ Coefficients<T> weight() const {
        return Coefficients<T>{p.weight, (p.flags & WN_FLAG_WEIGHT_F32) != 0};
    }

    __device__ __forceinline__ Coefficients<T> bias() const {
        return Coefficients<T>{p.bias, (p.flags & WN_FLAG_BIAS_F32) != 0};
    }

    __device__ __forceinline__ Affine affine_at(uint64_t index) const {
        const Affine affine{coefficient_at<T>(p.weight, weight().is_f32, first_channel, p.spatial, index, 1.0f),
                            coefficient_at<T>(p.bias, bias().is_f32, first_channel, p.spatial, index, 0.0f)};
        if (p.modulation.scale == 0 && p.modulation.shift == 0) return affine;
        return modulate<T>(affine, p.modulation, p.flags, of_sample + divide(index, p.spatial));
    }

    __device__ __forceinline__ void normalize_channels(uint64_t first, float (&value)[kVector<T>]) const {
        const uint64_t channel = divide(first, p.spatial);
        const Affine of_channel{weight().at(first_channel + channel, 1.0f), bias().at(first_channel + channel, 0.0f)};
        const ChannelMap map = by.with(modulate<T>(of_channel, p.modulation, p.flags, of_sample + channel));
        const uint64_t end = (channel + 1) * p.spatial.divisor;
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
            // Seldom: a vector that reaches over the end of a channel.
            const bool is_of_other = first + e >= end && first + e < p.length;
            value[e] = is_of_other ? by.with(affine_at(first + e)).of(value[e]) : map.of(value[e]);
        }
    }

    __device__ __forceinline__ void normalize_elements(uint64_t first, float (&value)[kVector<T>]) const {
        float w[kVector<T>], b[kVector<T>];
        load_affine<T>(p.weight, p.bias, p.flags, p.length, first, w, b);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = by.of(value[e]);
        round_if<T>(p.flags, WN_FLAG_ROUND_NORMALIZED, value);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = fused(value[e], w[e], b[e]);
        modulate_elements(first, value);
    }

    // Scale and shift by the position in the row. Those by the channel are in its map already, where one pair serves many
    // elements; here each element has its own, and weight and bias need not be kept beside them.
    __device__ __forceinline__ void modulate_elements(uint64_t first, float (&value)[kVector<T>]) const {
        if (p.modulation.scale != 0) {
            const float offset = p.flags & WN_FLAG_SCALE_PLUS_ONE ? 1.0f : 0.0f;
            const Coefficients<T> scale{p.modulation.scale, (p.flags & WN_FLAG_SCALE_F32) != 0};
            const auto multiply = [offset](float value, float scale) { return product(value, scale + offset); };
            scale.apply(begin_of_sample(p, row), p.length, first, value, multiply);
        }
        if (p.modulation.shift != 0) {
            const Coefficients<T> shift{p.modulation.shift, (p.flags & WN_FLAG_SHIFT_F32) != 0};
            const auto add = [](float value, float shift) { return value + shift; };
            shift.apply(begin_of_sample(p, row), p.length, first, value, add);
        }
    }
};

}  // namespace wn
