// What surrounds the norm of a row, as in fused_rows.cuh, where all tensors begin on 16-byte words and end with a vector, and
// weight and bias go by the position in the row. A lane takes 16 elements at a time, a batch: what is asked of the parameters
// is asked once for all of them. Each element goes through the same steps as there, and comes out with the same bits.
#pragma once

#include "fused_rows.cuh"

namespace wn {

constexpr uint32_t kBatch = 16;  // elements of a lane

template <class T>
constexpr uint32_t kBatchVectors = kBatch / kVector<T>;

// Where a lane's vectors of a batch are. One behind the row's end is taken to be the row's first, so that nobody asks before
// loading; only what is written, or measured, is asked for.
template <class T>
struct BatchPlace {
    uint32_t at[kBatchVectors<T>];  // in the row
    bool inside[kBatchVectors<T>];

    // Of the batch that begins `begin` elements behind the row's, of which `count` are left there.
    __device__ __forceinline__ BatchPlace(uint32_t begin, uint32_t count) {
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
            const uint32_t first = (v * WN_WARP + threadIdx.x % WN_WARP) * kVector<T>;
            inside[v] = first < count;
            at[v] = inside[v] ? begin + first : 0;
        }
    }

    template <class Stored>
    __device__ __forceinline__ void load(const Stored* row, float (&out)[kBatch]) const {
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e += kVector<Stored>) {
                unpack<Stored>(load_at_once(row + at[v] + e), out + v * kVector<T> + e);
            }
        }
    }

    __device__ __forceinline__ void store(T* row, const float (&in)[kBatch]) const {
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
            if (inside[v]) store_word(reinterpret_cast<uint4*>(row + at[v]), pack<T>(in + v * kVector<T>));
        }
    }

    // The same of one vector, which is of T or f32, or not there.
    __device__ __forceinline__ void load_vector(uint32_t v, uint64_t address, bool is_f32, float absent, float* out) const {
        if (address == 0) {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) out[e] = absent;
        } else if (is_f32) {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e += kVector<float>) {
                unpack<float>(load_at_once(global<const float>(address) + at[v] + e), out + e);
            }
        } else {
            unpack<T>(load_at_once(global<const T>(address) + at[v]), out);
        }
    }

    // value = op(value, coefficient), by coefficients that are there, of the stretch that begins at `begin`.
    template <class Op>
    __device__ __forceinline__ void apply(uint64_t address, bool is_f32, uint64_t begin, float (&value)[kBatch], Op op) const {
        float coefficient[kBatch];
        if (is_f32) {
            load(global<const float>(address) + begin, coefficient);
        } else {
            load(global<const T>(address) + begin, coefficient);
        }
#pragma unroll
        for (uint32_t e = 0; e < kBatch; e++) value[e] = op(value[e], coefficient[e]);
    }
};

template <class T>
__device__ __forceinline__ void round_batch_if(uint32_t flags, uint32_t flag, float (&value)[kBatch]) {
    if constexpr (!std::is_same_v<T, float>) {
        if ((flags & flag) == 0) return;
#pragma unroll
        for (uint32_t e = 0; e < kBatch; e++) value[e] = to_float(from_float<T>(value[e]));
    }
}

// A warp's chunk in shared memory, of the lane one word in every WN_WARP: in f32, and behind it the residual as stored. x is
// copied to where its last vectors will be in f32: each batch is read before what it becomes takes its place, or that of the
// batches before.
template <class T>
struct ChunkOfBatches {
    static constexpr uint32_t kBatches = WN_CHUNK / WN_WARP / kBatch;
    static constexpr uint32_t kVectors = kBatches * kBatchVectors<T>;
    static constexpr uint32_t kMomentsUnrolled = 2;
    static constexpr uint32_t kFullUnrolled = 2;
    static constexpr uint32_t kWords = kVector<T> / kVector<float>;  // of a vector
    static constexpr uint32_t kStored = (kWords - 1) * kVectors;     // where x is
    static constexpr uint32_t kResidual = kWords * kVectors;
    uint4* words;

    // Words of a chunk.
    static __device__ __forceinline__ uint32_t size(bool has_residual) {
        return (kResidual + (has_residual ? kVectors : 0)) * WN_WARP;
    }

    static __device__ __forceinline__ uint32_t vectors(uint32_t) { return kVectors; }

    // Has `count` elements of a row copied, all of their batches: where a lane has no more, it has the first of them once more.
    __device__ __forceinline__ void copy(uint32_t place, const T* source, uint32_t count) const {
        const SharedWords target(words + place * WN_WARP);
#pragma unroll
        for (uint32_t k = 0; k < kVectors; k++) {
            if (k / kBatchVectors<T> * kBatch * WN_WARP >= count) break;
            const uint32_t first = (k * WN_WARP + threadIdx.x % WN_WARP) * kVector<T>;
            copy_async(target, k * WN_WARP, reinterpret_cast<const uint4*>(source + (first < count ? first : 0)));
        }
    }

    __device__ __forceinline__ void read_stored(uint32_t place, uint32_t batch, float (&out)[kBatch]) const {
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
            unpack<T>(words[(place + batch * kBatchVectors<T> + v) * WN_WARP], out + v * kVector<T>);
        }
    }

    __device__ __forceinline__ void read_batch(uint32_t batch, float (&out)[kBatch]) const {
#pragma unroll
        for (uint32_t w = 0; w < kBatch / 4; w++) unpack<float>(words[(batch * (kBatch / 4) + w) * WN_WARP], out + w * 4);
    }

    __device__ __forceinline__ void write_batch(uint32_t batch, const float (&in)[kBatch]) const {
#pragma unroll
        for (uint32_t w = 0; w < kBatch / 4; w++) words[(batch * (kBatch / 4) + w) * WN_WARP] = pack<float>(in + w * 4);
    }

    // One vector in f32: for the moments.
    __device__ __forceinline__ void read(uint32_t k, float (&out)[kVector<T>]) const {
#pragma unroll
        for (uint32_t w = 0; w < kWords; w++) unpack<float>(words[(k * kWords + w) * WN_WARP], out + w * 4);
    }
};

// Of what is normalized: what a sample has of its own begins at `of_sample`.
template <class T>
struct BatchInput {
    const WnRowsParams& p;
    uint64_t row;
    uint64_t of_sample;

    __device__ __forceinline__ BatchInput(const WnRowsParams& p, uint64_t row)
        : p(p), row(row), of_sample(p.gate == 0 && p.modulation.scale == 0 && p.modulation.shift == 0 ? 0 : begin_of_sample(p, row)) {}

    // What the input's own norm is of, of x.
    __device__ __forceinline__ void begin(const BatchPlace<T>& place, float (&value)[kBatch]) const {
        if (p.input_bias == 0) return;
        place.apply(p.input_bias, (p.flags & WN_FLAG_INPUT_BIAS_F32) != 0, 0, value, [](float x, float bias) { return x + bias; });
        round(value);
    }

    // By its own norm.
    __device__ __forceinline__ void post_normalize(const BatchPlace<T>& place, const Normalization& own,
                                                   float (&value)[kBatch]) const {
#pragma unroll
        for (uint32_t e = 0; e < kBatch; e++) value[e] = own.of(value[e]);
        round_batch_if<T>(p.flags, WN_FLAG_ROUND_NORMALIZED, value);
        if (p.post_weight != 0) {
            const float offset = p.flags & WN_FLAG_WEIGHT_PLUS_ONE ? 1.0f : 0.0f;
            const auto multiply = [offset](float value, float weight) { return product(value, weight + offset); };
            place.apply(p.post_weight, (p.flags & WN_FLAG_POST_WEIGHT_F32) != 0, 0, value, multiply);
        }
        if (p.post_bias != 0) {
            const auto add = [](float value, float bias) { return value + bias; };
            place.apply(p.post_bias, (p.flags & WN_FLAG_POST_BIAS_F32) != 0, 0, value, add);
        }
        round(value);
    }

    // The rest of what stands before the norm.
    __device__ __forceinline__ void complete(const BatchPlace<T>& place, const ChunkOfBatches<T>& chunk, uint32_t batch,
                                             float (&value)[kBatch]) const {
        if (p.gate != 0) {
            const auto multiply = [](float x, float factor) { return product(x, factor); };
            place.apply(p.gate, (p.flags & WN_FLAG_GATE_F32) != 0, of_sample, value, multiply);
            round(value);
        }
        if (p.residual != 0) {
            float added[kBatch];
            chunk.read_stored(ChunkOfBatches<T>::kResidual, batch, added);
#pragma unroll
            for (uint32_t e = 0; e < kBatch; e++) value[e] += added[e];
            round(value);
        }
        if (p.second_residual != 0) {
            float added[kBatch];
            place.load(row_at<const T>(p.second_residual, row, p.second_residual_stride), added);
#pragma unroll
            for (uint32_t e = 0; e < kBatch; e++) value[e] += added[e];
            round(value);
        }
    }

private:
    // To T, if every step is to be rounded.
    __device__ __forceinline__ void round(float (&value)[kBatch]) const {
        round_batch_if<T>(p.flags, WN_FLAG_ROUND_STEPS, value);
    }
};

// How a row is finished.
template <class T>
struct BatchOutput {
    const WnRowsParams& p;
    uint64_t row;
    uint64_t of_sample;
    Normalization by;
    float inverse_scale;  // of a quantized output
    bool is_usual;        // weight and perhaps bias of T, and that is all

    __device__ __forceinline__ BatchOutput(const BatchInput<T>& input, const Normalization& by)
        : p(input.p), row(input.row), of_sample(input.of_sample), by(by), inverse_scale(1.0f) {
        const uint32_t other_types = std::is_same_v<T, float> ? 0 : WN_FLAG_WEIGHT_F32 | WN_FLAG_BIAS_F32;
        const uint32_t unusual = other_types | WN_FLAG_WEIGHT_PLUS_ONE | WN_FLAG_ROUND_NORMALIZED;
        is_usual = p.weight != 0 && (p.flags & unusual) == 0 && p.activation == WN_ACTIVATION_NONE &&
                   p.modulation.scale == 0 && p.modulation.shift == 0;
        if (p.scaling == WN_SCALING_STATIC) inverse_scale = 1.0f / global<const float>(p.scales)[0];
    }

    __device__ __forceinline__ void write_sum(const BatchPlace<T>& place, const float (&value)[kBatch]) const {
        if (p.sum != 0) place.store(row_at<T>(p.sum, row, p.sum_stride), value);
    }

    __device__ __forceinline__ void finish(const BatchPlace<T>& place, float (&value)[kBatch]) const {
        if (p.flags & WN_FLAG_MEAN_SQUARE) {
#pragma unroll
            for (uint32_t e = 0; e < kBatch; e++) value[e] = product(value[e], by.rstd);
        } else {
#pragma unroll
            for (uint32_t e = 0; e < kBatch; e++) value[e] = by.of(value[e]);
        }
        // Vector by vector: weight and bias of all are many registers.
        if (is_usual) {
#pragma unroll
            for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
                float w[kVector<T>], b[kVector<T>] = {};
                unpack<T>(load_at_once(global<const T>(p.weight) + place.at[v]), w);
                if (p.bias != 0) unpack<T>(load_at_once(global<const T>(p.bias) + place.at[v]), b);
#pragma unroll
                for (uint32_t e = 0; e < kVector<T>; e++) {
                    float& of = value[v * kVector<T> + e];
                    of = fused(of, w[e], b[e]);
                }
            }
            return;
        }
        round_batch_if<T>(p.flags, WN_FLAG_ROUND_NORMALIZED, value);
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
            float w[kVector<T>], b[kVector<T>];
            place.load_vector(v, p.weight, (p.flags & WN_FLAG_WEIGHT_F32) != 0, 1.0f, w);
            place.load_vector(v, p.bias, (p.flags & WN_FLAG_BIAS_F32) != 0, 0.0f, b);
            if (p.flags & WN_FLAG_WEIGHT_PLUS_ONE) {
#pragma unroll
                for (uint32_t e = 0; e < kVector<T>; e++) w[e] += 1.0f;
            }
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) {
                float& of = value[v * kVector<T> + e];
                of = fused(of, w[e], b[e]);
            }
        }
        if (p.modulation.scale != 0) {
            const float offset = p.flags & WN_FLAG_SCALE_PLUS_ONE ? 1.0f : 0.0f;
            const auto multiply = [offset](float value, float scale) { return product(value, scale + offset); };
            place.apply(p.modulation.scale, (p.flags & WN_FLAG_SCALE_F32) != 0, of_sample, value, multiply);
        }
        if (p.modulation.shift != 0) {
            const auto add = [](float value, float shift) { return value + shift; };
            place.apply(p.modulation.shift, (p.flags & WN_FLAG_SHIFT_F32) != 0, of_sample, value, add);
        }
        // By vectors: the code of GELU is long.
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
            activate(reinterpret_cast<float(&)[kVector<T>]>(value[v * kVector<T>]), p.activation);
        }
    }

    // The largest magnitude of one vector, if it is there.
    static __device__ __forceinline__ uint32_t amplitude(const BatchPlace<T>& place, uint32_t v, const float (&value)[kBatch]) {
        uint32_t result = 0;
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) result = max(result, magnitude(value[v * kVector<T> + e]));
        return place.inside[v] ? result : 0;
    }

    // The scale of elements with this amplitude, written down by one of the lanes that have them.
    __device__ __forceinline__ float scale(uint32_t amplitude, uint64_t group, bool writes) const {
        const float scale = scale_of(amplitude, p.y_type);
        if (writes) global<float>(p.scales)[row * p.scales_row_stride + group * p.scales_group_stride] = scale;
        return 1.0f / scale;
    }

    // All lanes of the warp together.
    __device__ __forceinline__ void store(const BatchPlace<T>& place, const float (&value)[kBatch]) const {
        if (p.y_type == WN_ELEMENT_AS_INPUT) return place.store(row_at<T>(p.y, row, p.y_stride), value);
        if (p.scaling == WN_SCALING_NONE) return store_others(place, value);
        uint8_t* const y = row_at<uint8_t>(p.y, row, p.y_stride);
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
            float by_scale = inverse_scale;
            if (p.scaling == WN_SCALING_GROUPS) {
                const LaneTeam group{WN_SCALE_GROUP / kVector<T>};
                const uint32_t largest = group.largest(amplitude(place, v, value));
                by_scale = scale(largest, place.at[v] / WN_SCALE_GROUP, place.inside[v] && group.lane() == 0);
            }
            using Bytes = BytesOf<kVector<T>>;
            const Bytes bytes = quantize<kVector<T>>(value + v * kVector<T>, p.y_type, by_scale);
            if (place.inside[v]) *reinterpret_cast<Bytes*>(y + place.at[v]) = bytes;
        }
    }

private:
    // Of another type than the input's.
    __device__ __forceinline__ void store_others(const BatchPlace<T>& place, const float (&value)[kBatch]) const {
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
            if (!place.inside[v]) continue;
            Vector<T> vector;
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) vector.elements[e] = value[v * kVector<T> + e];
            store_converted<T>(p.y, row * p.y_stride, p.length, place.at[v], p.y_type, vector);
        }
    }
};

}  // namespace wn
