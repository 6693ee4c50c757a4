// What surrounds the norm of a row, as in fused_rows.cuh, where all tensors begin on 16-byte words and end with a vector, and
// weight and bias go by the position in the row. A lane takes 16 elements at a time, a batch: what is asked of the parameters
// is asked once for all of them. Each element goes through the same steps as there, and comes out with the same bits.
#pragma once

#include "fused_rows.cuh"

namespace wn {

constexpr uint32_t kBatch = 16;  // elements of a lane

template <class T>
constexpr uint32_t kBatchVectors = kBatch / kVector<T>;

// Where a lane's vectors of a batch are. For one behind the row's end the row's last is loaded, so that nobody asks before
// loading; only what is summed, measured or written is asked for.
template <class T>
struct BatchPlace {
    static constexpr uint32_t kApart = WN_WARP * kVector<T>;  // from vector to vector
    uint32_t at;                                              // the first one's, in the row
    uint32_t length;                                          // of the row

    __device__ __forceinline__ bool inside(uint32_t v) const { return at + v * kApart < length; }
    __device__ __forceinline__ uint32_t loaded(uint32_t v) const { return min(at + v * kApart, length - kVector<T>); }

    template <class Stored>
    __device__ __forceinline__ void load(const Stored* row, float (&out)[kBatch]) const {
        constexpr uint32_t kWords = kBatch / kVector<Stored>;
        uint4 words[kWords];
#pragma unroll
        for (uint32_t w = 0; w < kWords; w++) {
            const uint32_t v = w * kBatchVectors<T> / kWords;
            words[w] = load_at_once(row + loaded(v) + w * kVector<Stored> % kVector<T>);
        }
#pragma unroll
        for (uint32_t w = 0; w < kWords; w++) unpack<Stored>(words[w], out + w * kVector<Stored>);
    }

    __device__ __forceinline__ void store(T* row, const float (&in)[kBatch]) const {
        T* const first = global<T>(kept(reinterpret_cast<uint64_t>(row + at)));
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
            const uint4 words = pack<T>(in + v * kVector<T>);
            store_word_if(inside(v), reinterpret_cast<uint4*>(first + v * kApart), words);
        }
    }

    // The same of one vector, which is of T or f32, or not there.
    __device__ __forceinline__ void load_vector(uint32_t v, uint64_t address, bool is_f32, float absent, float* out) const {
        if (address == 0) {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) out[e] = absent;
        } else if (std::is_same_v<T, float> || is_f32) {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e += kVector<float>) {
                unpack<float>(load_at_once(global<const float>(address) + loaded(v) + e), out + e);
            }
        } else {
            unpack<T>(load_at_once(global<const T>(address) + loaded(v)), out);
        }
    }

    // Coefficients that are there, of the stretch that begins at `begin`.
    __device__ __forceinline__ void load_coefficients(uint64_t address, bool is_f32, uint64_t begin, float (&out)[kBatch]) const {
        if (std::is_same_v<T, float> || is_f32) {
            load(global<const float>(kept(address + begin * sizeof(float))), out);
        } else {
            load(global<const T>(kept(address + begin * sizeof(T))), out);
        }
    }

    // value = op(value, coefficient)
    template <class Op>
    __device__ __forceinline__ void apply(uint64_t address, bool is_f32, uint64_t begin, float (&value)[kBatch], Op op) const {
        float coefficient[kBatch];
        load_coefficients(address, is_f32, begin, coefficient);
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

// What a warp has of a row, in shared memory, of the lane one word in every WN_WARP: in f32, and behind it the residual as
// stored. x is copied to where the last vectors will be in f32: each batch is read before what it becomes takes its place, or
// that of the batches before.
template <class T>
struct HeldBatches {
    static constexpr uint32_t kVectors = WN_CHUNK / WN_WARP / kVector<T>;  // of a chunk
    static constexpr uint32_t kBatches = kVectors / kBatchVectors<T>;
    static constexpr uint32_t kWords = kVector<T> / kVector<float>;  // of a vector
    SharedWords words;
    uint32_t chunks_shift;  // there is room for 2^shift chunks

    // Words of a chunk.
    static __device__ __forceinline__ uint32_t size(bool has_residual) {
        return (kWords + (has_residual ? 1 : 0)) * kVectors * WN_WARP;
    }

    // Where x is, and the residual.
    __device__ __forceinline__ SharedWords stored() const {
        return words.behind((kWords - 1) * kVectors * WN_WARP << chunks_shift);
    }
    __device__ __forceinline__ SharedWords residual() const { return words.behind(kWords * kVectors * WN_WARP << chunks_shift); }

    // Has a chunk of a row copied, all of its batches. `at` is the lane's first vector, of which the chunk's last one is `left`
    // elements away or less: where a lane has no more, it has the last of the row once more.
    static __device__ __forceinline__ void copy(const SharedWords& to, const T* row, uint32_t at, uint32_t left,
                                                uint32_t length) {
        constexpr uint32_t kApart = BatchPlace<T>::kApart;
        if (left >= WN_CHUNK) {
            const T* const source = row + at;
#pragma unroll
            for (uint32_t k = 0; k < kVectors; k++) {
                copy_async(to, k * WN_WARP, reinterpret_cast<const uint4*>(source + k * kApart));
            }
            return;
        }
        const uint32_t batches = (left + kBatch * WN_WARP - 1) / (kBatch * WN_WARP);
#pragma unroll 1
        for (uint32_t k = 0; k < batches * kBatchVectors<T>; k++) {
            const T* const source = row + min(at + k * kApart, length - kVector<T>);
            copy_async(to.behind(k * WN_WARP), 0, reinterpret_cast<const uint4*>(source));
        }
    }

    static __device__ __forceinline__ void read_stored(const SharedWords& from, uint32_t batch, float (&out)[kBatch]) {
        const SharedWords first = from.behind(batch * (kBatchVectors<T> * WN_WARP));
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) unpack<T>(first.load(v * WN_WARP), out + v * kVector<T>);
    }

    // What is held is x as stored, or f32.
    __device__ __forceinline__ void read_batch(bool is_stored, uint32_t batch, float (&out)[kBatch]) const {
        if (!std::is_same_v<T, float> && is_stored) return read_stored(stored(), batch, out);
        const SharedWords first = words.behind(batch * (kBatch / 4 * WN_WARP));
#pragma unroll
        for (uint32_t w = 0; w < kBatch / 4; w++) unpack<float>(first.load(w * WN_WARP), out + w * 4);
    }

    __device__ __forceinline__ void write_batch(uint32_t batch, const float (&in)[kBatch]) const {
        const SharedWords first = words.behind(batch * (kBatch / 4 * WN_WARP));
#pragma unroll
        for (uint32_t w = 0; w < kBatch / 4; w++) first.store(w * WN_WARP, pack<float>(in + w * 4));
    }

    // One vector.
    __device__ __forceinline__ void read(bool is_stored, uint32_t k, float (&out)[kVector<T>]) const {
        if (!std::is_same_v<T, float> && is_stored) return unpack<T>(stored().load(k * WN_WARP), out);
#pragma unroll
        for (uint32_t w = 0; w < kWords; w++) unpack<float>(words.load((k * kWords + w) * WN_WARP), out + w * 4);
    }
};

// The moments of a chunk, as moments_of_held has them, bit by bit, but that the first sweep goes along with the pass that makes
// what they are of.
template <class T>
struct MomentsOfBatches {
    const WnRowsParams& p;
    bool mean_square;
    float pivot = 0.0f;
    Sums sums{0.0f, 0.0f};

    __device__ __forceinline__ void add(const BatchPlace<T>& place, bool is_first, const float (&value)[kBatch]) {
        if (mean_square) {
#pragma unroll
            for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
                const float squares = tree_sum_of_squares(vector(value, v));
                sums.squares += place.inside(v) ? squares : 0.0f;
            }
            return;
        }
        if (is_first) pivot = pivot_of(place, value[0]);
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) add_centered(vector(value, v), place.inside(v));
    }

    // Of a chunk of `count` elements, which begins with that batch; `place` is its first.
    __device__ __forceinline__ Moments moments(const HeldBatches<T>& held, bool is_stored, uint32_t batch, BatchPlace<T> place,
                                               uint32_t count) {
        const LaneTeam team{WN_WARP};
        const float n = static_cast<float>(count);
        if (mean_square) return Moments{n, {0.0f, 0.0f}, {team.sum(sums.squares), 0.0f}};
        const float inverse = inverse_of(p, count);
#pragma unroll 1
        for (bool is_again = false;; is_again = true) {
            team.sum(sums.first, sums.squares);
            const float rest = product(sums.first, inverse);
            const float m2 = fused(-sums.first, rest, sums.squares);
            const bool is_near = product(sums.first, rest) <= kFarPivot * m2;
            if (is_again || !any_lane(!is_near)) {
                PairSum mean{pivot, 0.0f};
                mean.add(rest);
                return Moments{n, mean, {m2, 0.0f}};
            }
            pivot += rest;
            sums = Sums{0.0f, 0.0f};
            // Of the chunk's vectors alone.
            const uint32_t vectors = (count + BatchPlace<T>::kApart - 1) / BatchPlace<T>::kApart;
#pragma unroll 1
            for (uint32_t k = 0; k < vectors; k++, place.at += BatchPlace<T>::kApart) {
                float value[kVector<T>];
                held.read(is_stored, batch * kBatchVectors<T> + k, value);
                add_centered(value, place.inside(0));
            }
        }
    }

private:
    static __device__ __forceinline__ const float (&vector(const float (&value)[kBatch], uint32_t v))[kVector<T>] {
        return reinterpret_cast<const float(&)[kVector<T>]>(value[v * kVector<T>]);
    }

    __device__ __forceinline__ void add_centered(const float (&value)[kVector<T>], bool inside) {
        float difference[kVector<T>];
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) difference[e] = value[e] - pivot;
        const float sum = tree_sum(difference);
        const float squares = tree_sum_of_squares(difference);
        // A zero leaves both as they are: none is -0.
        sums.first += inside ? sum : 0.0f;
        sums.squares += inside ? squares : 0.0f;
    }

    // As pivot_of_held, of the lanes' first elements.
    static __device__ __forceinline__ float pivot_of(const BatchPlace<T>& place, float value) {
#pragma unroll
        for (uint32_t apart = WN_WARP / 2; apart >= WN_WARP / 4; apart /= 2) {
            const float other = from_lane_xor(value, apart);
            // A chunk begins at a multiple of its size.
            if ((place.at ^ apart * kVector<T>) < place.length) value = fused(other - value, 0.5f, value);
        }
        return from_lane(value, 0);
    }
};

// Of what is normalized: what a sample has of its own begins at `of_sample`.
template <class T>
struct BatchInput {
    const WnRowsParams& p;
    uint64_t row;
    uint64_t of_sample;

    __device__ __forceinline__ BatchInput(const WnRowsParams& p, uint64_t row)
        : p(p), row(row), of_sample((p.gate | p.modulation.scale | p.modulation.shift) == 0 ? 0 : begin_of_sample(p, row)) {}

    // Whether anything stands between x and what its own norm is of, or between that and the norm.
    __device__ __forceinline__ bool begins() const { return p.input_bias != 0; }
    __device__ __forceinline__ bool completes() const { return (p.gate | p.residual | p.second_residual) != 0; }

    // What the input's own norm is of, of x.
    __device__ __forceinline__ void begin(const BatchPlace<T>& place, float (&value)[kBatch]) const {
        if (p.input_bias == 0) return;
        float bias[kBatch];
        place.load_coefficients(p.input_bias, (p.flags & WN_FLAG_INPUT_BIAS_F32) != 0, 0, bias);
        step(value, bias, [](float x, float bias) { return x + bias; });
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
        round_batch_if<T>(p.flags, WN_FLAG_ROUND_STEPS, value);
    }

    // The rest of what stands before the norm.
    __device__ __forceinline__ void complete(const BatchPlace<T>& place, const HeldBatches<T>& held, uint32_t batch,
                                             float (&value)[kBatch]) const {
        if (p.gate != 0) {
            float gate[kBatch];
            place.load_coefficients(p.gate, (p.flags & WN_FLAG_GATE_F32) != 0, of_sample, gate);
            step(value, gate, [](float x, float factor) { return product(x, factor); });
        }
        if (p.residual != 0) {
            float added[kBatch];
            HeldBatches<T>::read_stored(held.residual(), batch, added);
            step(value, added, [](float x, float added) { return x + added; });
        }
        if (p.second_residual != 0) {
            float added[kBatch];
            place.load(row_at<const T>(p.second_residual, row, p.second_residual_stride), added);
            step(value, added, [](float x, float added) { return x + added; });
        }
    }

private:
    // value = op(value, other), rounded to T if every step is to be. Each way has the step itself: where only the rounding is
    // behind a branch, the compiler moves all values from register to register.
    template <class Op>
    __device__ __forceinline__ void step(float (&value)[kBatch], const float (&other)[kBatch], Op op) const {
        if (std::is_same_v<T, float> || (p.flags & WN_FLAG_ROUND_STEPS) == 0) {
#pragma unroll
            for (uint32_t e = 0; e < kBatch; e++) value[e] = op(value[e], other[e]);
        } else {
#pragma unroll
            for (uint32_t e = 0; e < kBatch; e++) value[e] = to_float(from_float<T>(op(value[e], other[e])));
        }
    }
};

// How a row is finished.
template <class T>
struct BatchOutput {
    const WnRowsParams& p;
    uint64_t row;
    uint64_t of_sample;
    uint64_t sum;  // the row's, and its y; that is not asked for where it is of another type and not quantized
    uint64_t y;
    Normalization by;
    float inverse_scale;  // of a quantized output
    uint32_t unusual;     // none of it: weight and perhaps bias of T, and that is all

    __device__ __forceinline__ BatchOutput(const BatchInput<T>& input, const Normalization& by)
        : p(input.p), row(input.row), of_sample(input.of_sample), by(by), inverse_scale(1.0f) {
        sum = p.sum + row * p.sum_stride * sizeof(T);
        y = kept(p.y + row * p.y_stride * (p.scaling == WN_SCALING_NONE ? sizeof(T) : 1));
        const uint32_t other_types = std::is_same_v<T, float> ? 0 : WN_FLAG_WEIGHT_F32 | WN_FLAG_BIAS_F32;
        const uint32_t flags = other_types | WN_FLAG_WEIGHT_PLUS_ONE | WN_FLAG_ROUND_NORMALIZED;
        const uint64_t modulation = p.modulation.scale | p.modulation.shift;
        const uint32_t others = static_cast<uint32_t>(modulation) | static_cast<uint32_t>(modulation >> 32);
        unusual = kept(p.weight == 0 ? 1u : (p.flags & flags) | p.activation | others);
        if (p.scaling == WN_SCALING_STATIC) inverse_scale = 1.0f / global<const float>(p.scales)[0];
    }

    __device__ __forceinline__ void write_sum(const BatchPlace<T>& place, const float (&value)[kBatch]) const {
        if (p.sum != 0) place.store(global<T>(sum), value);
    }

    __device__ __forceinline__ void finish(const BatchPlace<T>& place, float (&value)[kBatch]) const {
        if (p.flags & WN_FLAG_MEAN_SQUARE) {
#pragma unroll
            for (uint32_t e = 0; e < kBatch; e++) value[e] = product(value[e], by.rstd);
        } else {
#pragma unroll
            for (uint32_t e = 0; e < kBatch; e++) value[e] = by.of(value[e]);
        }
        if (unusual == 0) return by_usual(place, value);
        round_batch_if<T>(p.flags, WN_FLAG_ROUND_NORMALIZED, value);
        if ((p.weight | p.bias | (p.flags & WN_FLAG_WEIGHT_PLUS_ONE)) == 0) {
            // -0 becomes 0, as with a weight and bias.
#pragma unroll
            for (uint32_t e = 0; e < kBatch; e++) value[e] += 0.0f;
        } else {
            by_any(place, value);
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
        if (p.activation != WN_ACTIVATION_NONE) activate_batch(value);
    }

    // The largest magnitude of one vector, that is there.
    static __device__ __forceinline__ float amplitude(uint32_t v, const float (&value)[kBatch]) {
        float result = larger_magnitude(value[v * kVector<T>], value[v * kVector<T> + 1]);
#pragma unroll
        for (uint32_t e = 2; e < kVector<T>; e++) result = larger_magnitude(result, value[v * kVector<T> + e]);
        return result;
    }

    // The scale of elements with this amplitude, written down by one of the lanes that have them.
    __device__ __forceinline__ float scale(uint32_t amplitude, uint64_t group, bool writes) const {
        const float scale = scale_of(amplitude, p.y_type);
        if (writes) global<float>(p.scales)[row * p.scales_row_stride + group * p.scales_group_stride] = scale;
        return 1.0f / scale;
    }

    // All lanes of the warp together.
    __device__ __forceinline__ void store(const BatchPlace<T>& place, const float (&value)[kBatch]) const {
        if (p.y_type == WN_ELEMENT_AS_INPUT) return place.store(global<T>(y), value);
        if (p.scaling == WN_SCALING_NONE) return store_others(place, value);
        float by_scale[kBatchVectors<T>];
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) by_scale[v] = inverse_scale;
        if (p.scaling == WN_SCALING_GROUPS) scale_groups(place, value, by_scale);
        store_scaled(place, value, by_scale);
    }

    // The same of what is quantized by one scale.
    __device__ __forceinline__ void store_by(float scale, const BatchPlace<T>& place, const float (&value)[kBatch]) const {
        float by_scale[kBatchVectors<T>];
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) by_scale[v] = scale;
        store_scaled(place, value, by_scale);
    }

private:
    // Vector by vector: weight and bias of all are many registers.
    __device__ __forceinline__ void by_usual(const BatchPlace<T>& place, float (&value)[kBatch]) const {
        const T* const weight = global<const T>(p.weight);
        const T* const bias = global<const T>(p.bias);
        if (p.bias != 0) {
#pragma unroll
            for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
                float w[kVector<T>], b[kVector<T>];
                unpack<T>(load_at_once(weight + place.loaded(v)), w);
                unpack<T>(load_at_once(bias + place.loaded(v)), b);
                apply(v, w, b, value);
            }
            return;
        }
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
            float w[kVector<T>];
            unpack<T>(load_at_once(weight + place.loaded(v)), w);
            const float none[kVector<T>] = {};
            apply(v, w, none, value);
        }
    }

    __device__ __forceinline__ void by_any(const BatchPlace<T>& place, float (&value)[kBatch]) const {
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
            float w[kVector<T>], b[kVector<T>];
            place.load_vector(v, p.weight, (p.flags & WN_FLAG_WEIGHT_F32) != 0, 1.0f, w);
            place.load_vector(v, p.bias, (p.flags & WN_FLAG_BIAS_F32) != 0, 0.0f, b);
            if (p.flags & WN_FLAG_WEIGHT_PLUS_ONE) {
#pragma unroll
                for (uint32_t e = 0; e < kVector<T>; e++) w[e] += 1.0f;
            }
            apply(v, w, b, value);
        }
    }

    static __device__ __forceinline__ void apply(uint32_t v, const float (&w)[kVector<T>], const float (&b)[kVector<T>],
                                                 float (&value)[kBatch]) {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
            float& of = value[v * kVector<T> + e];
            of = fused(of, w[e], b[e]);
        }
    }

    // Scales of groups, and what each vector is multiplied by. A group is a vector of each of its lanes; they halve the vectors
    // among them before they look for the largest, so that each lane divides once, for a group of one of its vectors.
    __device__ __forceinline__ void scale_groups(const BatchPlace<T>& place, const float (&value)[kBatch],
                                                 float (&by_scale)[kBatchVectors<T>]) const {
        constexpr uint32_t kLanes = WN_SCALE_GROUP / kVector<T>;
        constexpr uint32_t kOfVector = kLanes / kBatchVectors<T>;  // lanes that divide for it
        const uint32_t lane = threadIdx.x % WN_WARP;
        uint32_t largest[kBatchVectors<T>];
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
            largest[v] = place.inside(v) ? __float_as_uint(amplitude(v, value)) : 0;
        }
#pragma unroll
        for (uint32_t half = kBatchVectors<T> / 2; half > 0; half /= 2) {
            const bool is_upper = (lane & half * kOfVector) != 0;
#pragma unroll
            for (uint32_t v = 0; v < half; v++) {
                const uint32_t kept = is_upper ? largest[v + half] : largest[v];
                const uint32_t given = is_upper ? largest[v] : largest[v + half];
                largest[v] = max(kept, from_lane_xor(given, half * kOfVector));
            }
        }
        const uint32_t amplitude = LaneTeam{kOfVector}.largest(largest[0]);
        const uint32_t at = place.at + lane / kOfVector % kBatchVectors<T> * BatchPlace<T>::kApart;
        const bool writes = lane % kOfVector == 0 && at / WN_SCALE_GROUP * WN_SCALE_GROUP < place.length;
        const float inverse = scale(amplitude, at / WN_SCALE_GROUP, writes);
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) by_scale[v] = from_lane(inverse, lane / kLanes * kLanes + v * kOfVector);
    }

    // One branch for all vectors, and no other: of a shorter one the compiler makes predicates, and spills what they set.
    __device__ __forceinline__ void store_scaled(const BatchPlace<T>& place, const float (&value)[kBatch],
                                                 const float (&by_scale)[kBatchVectors<T>]) const {
        if (p.y_type == WN_ELEMENT_I8) {
            store_bytes(WN_ELEMENT_I8, place, value, by_scale);
        } else {
            store_bytes(WN_ELEMENT_F8_E4M3, place, value, by_scale);
        }
    }

    __device__ __forceinline__ void store_bytes(uint32_t type, const BatchPlace<T>& place, const float (&value)[kBatch],
                                                const float (&by_scale)[kBatchVectors<T>]) const {
        using Bytes = BytesOf<kVector<T>>;
        uint8_t* const first = global<uint8_t>(y) + place.at;
#pragma unroll
        for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
            const Bytes bytes = quantize<kVector<T>>(value + v * kVector<T>, type, by_scale[v]);
            store_word_if(place.inside(v), reinterpret_cast<Bytes*>(first + v * BatchPlace<T>::kApart), bytes);
        }
    }

    // As `activate`, but inline: where nothing is called, the compiler keeps what every access to memory wants where that wants
    // it, and does not put it there again for each. By the number's bits: of comparisons of it, a jump through a table is made.
    __device__ __forceinline__ void activate_batch(float (&value)[kBatch]) const {
        static_assert(WN_ACTIVATION_RELU == 1 && WN_ACTIVATION_SILU == 2 && WN_ACTIVATION_GELU == 3, "their bits");
        static_assert(WN_ACTIVATION_GELU_TANH == 4, "its bit");
        if (p.activation & 2u) {
            if (p.activation & 1u) {
#pragma unroll
                for (uint32_t e = 0; e < kBatch; e++) value[e] = gelu(value[e]);
            } else {
#pragma unroll
                for (uint32_t e = 0; e < kBatch; e++) value[e] = silu(value[e]);
            }
        } else if (p.activation & 4u) {
#pragma unroll
            for (uint32_t e = 0; e < kBatch; e++) value[e] = gelu_tanh(value[e]);
        } else {
#pragma unroll
            for (uint32_t e = 0; e < kBatch; e++) value[e] = value[e] < 0.0f ? 0.0f : value[e];  // NaN stays
        }
    }

    // Of another type than the input's. Inline, for the same reason.
    __device__ __forceinline__ void store_others(const BatchPlace<T>& place, const float (&value)[kBatch]) const {
        if constexpr (std::is_same_v<T, float>) {
            if (p.y_type == WN_ELEMENT_F16) return store_as<f16>(place, value);
            store_as<bf16>(place, value);
        } else {
            if (p.y_type == WN_ELEMENT_F32) return store_as<float>(place, value);
            store_as<std::conditional_t<std::is_same_v<T, f16>, bf16, f16>>(place, value);
        }
    }

    template <class Y>
    __device__ __forceinline__ void store_as(const BatchPlace<T>& place, const float (&value)[kBatch]) const {
        // Words of 16 bytes, or of eight where a vector is no more.
        constexpr uint32_t kCount = kVector<T> < kVector<Y> ? kVector<T> : kVector<Y>;
        Y* const first = global<Y>(p.y) + row * p.y_stride + place.at;
#pragma unroll
        for (uint32_t e = 0; e < kBatch; e += kCount) {
            const uint32_t v = e / kVector<T>;
            if (place.inside(v)) store_part<Y, kCount>(first + (v * BatchPlace<T>::kApart + e % kVector<T>), value + e);
        }
    }
};

}  // namespace wn
