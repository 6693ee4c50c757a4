// Rows: moments over one contiguous stretch. LayerNorm, RMSNorm, and GroupNorm and InstanceNorm in NCHW.
//
//     s = (x + input_bias) * gate[n] + residual + second_residual + channel_bias[n, c]
//                                                        (f32, each step rounded to it; written out as `sum` if asked)
//     y = activation(((s - mean(s)) / sqrt(var(s) + eps) * weight + bias) * scale[n] + shift[n])
//     RMSNorm: the same with s / sqrt(mean(s^2) + eps)
//
// What a sample n has of its own goes by the position in the row (LayerNorm, RMSNorm; there is no channel_bias then), or by
// the channel (GroupNorm, InstanceNorm; there is no input_bias, gate or second residual).
//
// y may be of another type than the rest. A row is [length] elements at x + row * x_stride. In the regimes that hold a row, each byte of x, residual, sum and y
// moves once, as 16-byte words where rows are aligned to them; weight and bias come from L2 after the first rows. The
// regimes differ in who holds a row:
//
//     rows_group_E     1..32 lanes of a warp, E elements a lane: rows up to 32 * E; shuffles only, no barrier
//     rows_block_ExB   a block of up to B threads, E elements a thread, in registers: rows up to E * B; two barriers
//     rows_stream      a block that reads the row twice, whatever its length: the second time backwards, through L2
//
// The plan chooses by length alone, so a row's bits depend neither on the other rows nor on its address.
//
// Held rows take three sweeps over registers: m = fl(x0 + mean(s - x0)), where the first element x0 only serves to
// make the differences small; then c = mean(s - m) and Q = sum((s - m)^2) together, var = Q / n - c^2; then
// y = ((s - m) - c) * rstd * weight + bias. The pair (m, c) is the mean to twice the precision of f32, so a constant
// row gives exactly the bias, and a mean of 1e4 beside a deviation of 1 costs nothing.
#include "moments.cuh"
#include "stages.cuh"

namespace wn {

// Of a tensor [samples, length], where that begins which belongs to the row's sample.
__device__ __forceinline__ uint64_t begin_of_sample(const WnRowsParams& p, uint64_t row) {
    return divide(row, p.groups) * p.length;
}

// (x + input_bias) * gate, for the first element of a row. Out of line: it is wanted once a row.
template <class T>
__device__ __noinline__ float gated_first(float x, Coefficients<T> input_bias, Coefficients<T> gate, uint64_t begin) {
    return product(x + input_bias.at(0, 0.0f), gate.at(begin, 1.0f));
}

// The tensors of a row's prologue, and what its sample or its channels add to them.
template <class T>
struct RowInput {
    const WnRowsParams& p;
    Input<T> tensors;
    uint64_t row;
    uint64_t of_sample;  // the row's first channel, counted through the samples

    __device__ __forceinline__ RowInput(const WnRowsParams& params, uint64_t row)
        : p(params),
          tensors{stretch_of<const T>(p.x, row, p.x_stride, p.length),
                  stretch_of<const T>(p.residual, row, p.residual_stride, p.length),
                  stretch_of<T>(p.sum, row, p.sum_stride, p.length)},
          row(row),
          of_sample(row * p.channels_per_group) {}

    __device__ __forceinline__ Coefficients<T> input_bias() const {
        return Coefficients<T>{p.input_bias, (p.flags & WN_FLAG_INPUT_BIAS_F32) != 0};
    }

    __device__ __forceinline__ Coefficients<T> gate() const {
        return Coefficients<T>{p.gate, (p.flags & WN_FLAG_GATE_F32) != 0};
    }

    __device__ __forceinline__ Stretch<const T> second_residual() const {
        return stretch_of<const T>(p.second_residual, row, p.second_residual_stride, p.length);
    }

    __device__ __forceinline__ float channel_bias_at(uint64_t index) const {
        const bool is_f32 = (p.flags & WN_FLAG_CHANNEL_BIAS_F32) != 0;
        return coefficient_at<T>(p.modulation.channel_bias, is_f32, of_sample, p.spatial, index, 0.0f);
    }

    __device__ __forceinline__ void load(uint64_t first, float (&value)[kVector<T>]) const {
        wn::load(tensors.x.start, p.length, first, value);
        if (p.input_bias != 0) {
            input_bias().apply(0, p.length, first, value, [](float x, float bias) { return x + bias; });
        }
        if (p.gate != 0) {
            const auto multiply = [](float x, float factor) { return product(x, factor); };
            gate().apply(begin_of_sample(p, row), p.length, first, value, multiply);
        }
        tensors.add_residual(first, value);
        if (p.second_residual != 0) add(second_residual(), first, value);
        if (p.modulation.channel_bias == 0) return;
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
            if (first + e < p.length) value[e] += channel_bias_at(first + e);
        }
    }

    __device__ __forceinline__ float first_element() const {
        float value = to_float(tensors.x.start[0]);
        if (p.input_bias != 0 || p.gate != 0) {
            value = gated_first<T>(value, input_bias(), gate(), begin_of_sample(p, row));
        }
        value = tensors.add_first_of_residual(value);
        if (p.second_residual != 0) value += to_float(second_residual().start[0]);
        return p.modulation.channel_bias == 0 ? value : value + channel_bias_at(0);
    }

    __device__ __forceinline__ void write_sum(uint64_t first, const float (&value)[kVector<T>]) const {
        tensors.write_sum(first, value);
    }
};

// How a row is finished, once its mean (high + low) and 1 / deviation are known.
template <class T>
struct RowEpilogue {
    const WnRowsParams& p;
    Stretch<T> y;
    uint64_t row;
    uint64_t first_channel;
    uint64_t of_sample;  // the same, counted through the samples
    float high;
    float low;
    float rstd;

    __device__ __forceinline__ RowEpilogue(const WnRowsParams& params, uint64_t row, float high, float low, float rstd)
        : p(params),
          y(stretch_of<T>(p.y, row, p.y_stride, p.length)),
          row(row),
          first_channel(0),
          of_sample(row * p.channels_per_group),
          high(high),
          low(low),
          rstd(rstd) {
        if (p.affine == WN_AFFINE_PER_CHANNEL) {
            const uint64_t group = row - divide(row, p.groups) * p.groups.divisor;
            first_channel = group * p.channels_per_group;
        }
    }

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

    __device__ __forceinline__ void coefficients(uint64_t first, float (&w)[kVector<T>], float (&b)[kVector<T>]) const {
        if (p.affine == WN_AFFINE_PER_ELEMENT) {
            weight().load(p.length, first, 1.0f, w);
            bias().load(p.length, first, 0.0f, b);
            if (p.flags & WN_FLAG_WEIGHT_PLUS_ONE) {
#pragma unroll
                for (uint32_t e = 0; e < kVector<T>; e++) w[e] += 1.0f;
            }
        } else {
            const uint64_t channel = divide(first, p.spatial);
            const Affine of_channel{weight().at(first_channel + channel, 1.0f), bias().at(first_channel + channel, 0.0f)};
            const Affine affine = modulate<T>(of_channel, p.modulation, p.flags, of_sample + channel);
            const uint64_t end = (channel + 1) * p.spatial.divisor;
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) {
                w[e] = affine.weight;
                b[e] = affine.bias;
                // Seldom: a vector that reaches over the end of a channel.
                if (first + e >= end && first + e < p.length) {
                    const Affine other = affine_at(first + e);
                    w[e] = other.weight;
                    b[e] = other.bias;
                }
            }
        }
    }

    // Scale and shift by the position in the row. Those by the channel are in the coefficients already, where one pair serves
    // many elements; here each element has its own, and weight and bias need not be kept beside them.
    __device__ __forceinline__ void modulate_elements(uint64_t first, float (&value)[kVector<T>]) const {
        if (p.affine != WN_AFFINE_PER_ELEMENT) return;
        if (p.modulation.scale != 0) {
            const float offset = p.flags & WN_FLAG_SCALE_PLUS_ONE ? 1.0f : 0.0f;
            const auto multiply = [offset](float value, float scale) { return value * (scale + offset); };
            Coefficients<T>{p.modulation.scale, (p.flags & WN_FLAG_SCALE_F32) != 0}.apply(begin_of_sample(p, row), p.length,
                                                                                          first, value, multiply);
        }
        if (p.modulation.shift != 0) {
            const auto add = [](float value, float shift) { return value + shift; };
            Coefficients<T>{p.modulation.shift, (p.flags & WN_FLAG_SHIFT_F32) != 0}.apply(begin_of_sample(p, row), p.length,
                                                                                          first, value, add);
        }
    }

    __device__ __forceinline__ void write(uint64_t first, float (&value)[kVector<T>]) const {
        float w[kVector<T>], b[kVector<T>];
        coefficients(first, w, b);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = ((value[e] - high) - low) * rstd * w[e] + b[e];
        modulate_elements(first, value);
        activate(value, p.activation);
        if (p.y_type == WN_ELEMENT_AS_INPUT) {
            store(y.start, y.length, first, value);
        } else {
            Vector<T> vector;
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) vector.elements[e] = value[e];
            store_converted<T>(p.y, row * p.y_stride, p.length, first, p.y_type, vector);
        }
    }
};

// One row held in the registers of a team of `threads` threads, kElements a thread. `present` is false for the lanes of
// a team that has no row: they take part in the shuffles and touch no memory.
template <class T, uint32_t kElements, class Team>
__device__ __forceinline__ void normalize_held(const WnRowsParams& p, Team& team, uint32_t thread, uint32_t threads,
                                               uint64_t row, bool present) {
    constexpr uint32_t kVectors = kElements / kVector<T>;
    const uint32_t length = present ? static_cast<uint32_t>(p.length) : 0;
    const RowInput<T> input(p, present ? row : 0);

    float held[kVectors][kVector<T>];
#pragma unroll
    for (uint32_t k = 0; k < kVectors; k++) {
        const uint32_t first = (k * threads + thread) * kVector<T>;
        if (first < length) {
            input.load(first, held[k]);
        } else {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) held[k][e] = 0.0f;
        }
    }

    const float n = static_cast<float>(length);
    const bool mean_square = (p.flags & WN_FLAG_MEAN_SQUARE) != 0;
    float high = 0.0f;
    if (!mean_square) {
        const float pivot = present ? input.first_element() : 0.0f;
        float total = 0.0f;
#pragma unroll
        for (uint32_t k = 0; k < kVectors; k++) {
            float difference[kVector<T>];
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) {
                const bool inside = (k * threads + thread) * kVector<T> + e < length;
                difference[e] = inside ? held[k][e] - pivot : 0.0f;
            }
            total += tree_sum(difference);
        }
        high = pivot + team.sum(total) / n;
    }

    float low = 0.0f;
    float squares = 0.0f;
#pragma unroll
    for (uint32_t k = 0; k < kVectors; k++) {
        float difference[kVector<T>], square[kVector<T>];
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
            const bool inside = (k * threads + thread) * kVector<T> + e < length;
            difference[e] = inside ? held[k][e] - high : 0.0f;
            square[e] = difference[e] * difference[e];
        }
        low += tree_sum(difference);
        squares += tree_sum(square);
    }
    team.sum(low, squares);
    low = mean_square ? 0.0f : low / n;
    const float rstd = reciprocal_deviation(squares / n - low * low, p.eps);

    if (!present) return;
    const RowEpilogue<T> epilogue(p, row, high, low, rstd);
#pragma unroll
    for (uint32_t k = 0; k < kVectors; k++) {
        const uint32_t first = (k * threads + thread) * kVector<T>;
        if (first < length) {
            // Not before this point: `sum` may be the residual, whose first element every thread has read as the pivot.
            input.write_sum(first, held[k]);
            epilogue.write(first, held[k]);
        }
    }
}

template <class T, uint32_t kElements>
__device__ __forceinline__ void rows_group(const WnRowsParams& p) {
    LaneTeam team{p.lanes};
    const uint32_t rows_per_block = blockDim.x / p.lanes;
    const uint32_t slot = threadIdx.x / p.lanes;
    for (uint64_t base = static_cast<uint64_t>(blockIdx.x) * rows_per_block; base < p.rows;
         base += static_cast<uint64_t>(gridDim.x) * rows_per_block) {
        const uint64_t row = base + slot;
        normalize_held<T, kElements>(p, team, threadIdx.x % p.lanes, p.lanes, row, row < p.rows);
    }
}

template <class T, uint32_t kElements>
__device__ __forceinline__ void rows_block(const WnRowsParams& p) {
    WN_SHARED(BlockScratch, scratch, 1);
    BlockTeam team{scratch, 0};
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        normalize_held<T, kElements>(p, team, threadIdx.x, blockDim.x, row, true);
    }
}

template <class T>
__device__ __forceinline__ void rows_stream(const WnRowsParams& p) {
    WN_SHARED(BlockScratch, scratch, 1);
    BlockTeam team{scratch, 0};
    const bool mean_square = (p.flags & WN_FLAG_MEAN_SQUARE) != 0;
    const uint64_t step = static_cast<uint64_t>(blockDim.x) * kVector<T>;
    const uint64_t sweeps = (p.length + step - 1) / step;
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const RowInput<T> input(p, row);
        Moments mine{0.0f, {0.0f, 0.0f}, {0.0f, 0.0f}};
        for (uint64_t first = threadIdx.x * kVector<T>; first < p.length; first += step) {
            float value[kVector<T>];
            input.load(first, value);
            if (mean_square) {
                float square[kVector<T>];
#pragma unroll
                for (uint32_t e = 0; e < kVector<T>; e++) square[e] = value[e] * value[e];
                mine.m2.add(tree_sum(square));  // past the end of the row stand zeros
            } else {
                const uint64_t left = p.length - first;
                const uint32_t count = left < kVector<T> ? static_cast<uint32_t>(left) : kVector<T>;
                mine = merge(mine, moments_of(value, count));
            }
        }
        const Moments all =
            mean_square ? Moments{0.0f, {0.0f, 0.0f}, {team.sum(mine.m2.value()), 0.0f}} : team.merge_all(mine);
        const float rstd = reciprocal_deviation(all.m2.value() / static_cast<float>(p.length), p.eps);

        // Each thread uses again only what it alone writes, so `y` may be `x`, and `sum` the residual. (Off a 16-byte
        // boundary the words that it loads hold elements of its neighbours too, perhaps written by now; those are
        // dropped.)
        const RowEpilogue<T> epilogue(p, row, all.mean.high, all.mean.low, rstd);
        for (uint64_t sweep = sweeps; sweep-- > 0;) {
            const uint64_t first = sweep * step + threadIdx.x * kVector<T>;
            if (first >= p.length) continue;
            float value[kVector<T>];
            input.load(first, value);
            input.write_sum(first, value);
            epilogue.write(first, value);
        }
    }
}

}  // namespace wn

using namespace wn;

WN_ROWS_KERNELS(WN_DEFINE)
