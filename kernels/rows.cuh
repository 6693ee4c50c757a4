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
// y may be of another type than the rest. A row is [length] elements at x + row * x_stride. Where a row is held, each byte of
// x, residual, sum and y moves once, as 16-byte words where rows are aligned to them; weight and bias come from L2 after the
// first rows. The regimes differ in who holds a row:
//
//     rows_group_E   1..32 lanes of a warp, E elements a lane, in registers: rows of one chunk; shuffles only, no barrier
//     rows_block     a block, a chunk a warp, in registers; one barrier
//     rows_shared    1..16 blocks of a cluster, in shared memory; one barrier of the cluster
//     rows_stream    nobody: a block reads the row twice, the second time backwards, through L2
//     rows_split_*   nobody: the same by many blocks a row, in two launches with a workspace between
//
// A chunk is 1,024 elements. Its moments are those of a warp: m = fl(x0 + mean(s - x0)), where its first element x0 only
// serves to make the differences small; then c = mean(s - m) and Q = sum((s - m)^2) together. The pair (m, c) is the mean to
// twice the precision of f32, so a constant row gives exactly the bias, and a mean of 1e4 beside a deviation of 1 costs
// nothing. The moments of a row are those of its chunks, merged along the binary tree over their numbers. Who does how much
// of that tree makes no difference to the result: a row's bits depend neither on the regime, the cluster or the device, nor
// on the other rows, nor on its address.
//
// Kernels that hold rows are compiled twice, all but rows_block: kFused has all of the above, and serves whatever goes by the channel; the other has a residual,
// its sum, weight and bias by the position, and with them alone, and their registers, what most calls are.
#pragma once

#include "moments.cuh"
#include "stages.cuh"

namespace wn {

// Of a tensor [samples, length], where that begins which belongs to the row's sample.
__device__ __forceinline__ uint64_t begin_of_sample(const WnRowsParams& p, uint64_t row) {
    return divide(row, p.groups) * p.length;
}

// The tensors of a row's prologue, and what its sample or its channels add to them.
template <class T, bool kFused>
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
        if constexpr (kFused) apply_bias_and_gate(first, value);
        tensors.add_residual(first, value);
        if constexpr (kFused) add_others(first, value);
    }

    __device__ __forceinline__ void apply_bias_and_gate(uint64_t first, float (&value)[kVector<T>]) const {
        if (p.input_bias != 0) {
            input_bias().apply(0, p.length, first, value, [](float x, float bias) { return x + bias; });
        }
        if (p.gate != 0) {
            const auto multiply = [](float x, float factor) { return product(x, factor); };
            gate().apply(begin_of_sample(p, row), p.length, first, value, multiply);
        }
    }

    // A second residual, and a bias of each channel.
    __device__ __forceinline__ void add_others(uint64_t first, float (&value)[kVector<T>]) const {
        if (p.second_residual != 0) add(second_residual(), first, value);
        if (p.modulation.channel_bias == 0) return;
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
            if (first + e < p.length) value[e] += channel_bias_at(first + e);
        }
    }

    __device__ __forceinline__ void write_sum(uint64_t first, const float (&value)[kVector<T>]) const {
        tensors.write_sum(first, value);
    }
};

// How a row is finished, once its mean (high + low) and 1 / deviation are known.
template <class T, bool kFused>
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
        if (kFused && p.affine == WN_AFFINE_PER_CHANNEL) {
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
        if (!kFused || p.affine == WN_AFFINE_PER_ELEMENT) {
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
            const Coefficients<T> scale{p.modulation.scale, (p.flags & WN_FLAG_SCALE_F32) != 0};
            const auto multiply = [offset](float value, float scale) { return value * (scale + offset); };
            scale.apply(begin_of_sample(p, row), p.length, first, value, multiply);
        }
        if (p.modulation.shift != 0) {
            const Coefficients<T> shift{p.modulation.shift, (p.flags & WN_FLAG_SHIFT_F32) != 0};
            const auto add = [](float value, float shift) { return value + shift; };
            shift.apply(begin_of_sample(p, row), p.length, first, value, add);
        }
    }

    __device__ __forceinline__ void write(uint64_t first, float (&value)[kVector<T>]) const {
        float w[kVector<T>], b[kVector<T>];
        coefficients(first, w, b);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = ((value[e] - high) - low) * rstd * w[e] + b[e];
        if constexpr (kFused) {
            modulate_elements(first, value);
            activate(value, p.activation);
            if (p.y_type != WN_ELEMENT_AS_INPUT) return write_converted(first, value);
        }
        store(y.start, y.length, first, value);
    }

    __device__ __forceinline__ void write_converted(uint64_t first, const float (&value)[kVector<T>]) const {
        Vector<T> vector;
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) vector.elements[e] = value[e];
        store_converted<T>(p.y, row * p.y_stride, p.length, first, p.y_type, vector);
    }
};

// What a lane of a team holds of a row: vectors k * lanes + lane, in registers.
template <class T, uint32_t kElements>
struct HeldInRegisters {
    static constexpr uint32_t kVectors = kElements / kVector<T>;
    template <bool kFused>
    static constexpr uint32_t kUnrolled = kVectors;  // registers have no index at run time
    float value[kVectors][kVector<T>];

    // The first `count` elements behind `begin`, as `input` loads them; past them stand zeros.
    template <class Row>
    __device__ __forceinline__ void fill(const Row& input, const LaneTeam& team, uint64_t begin, uint32_t count) {
#pragma unroll
        for (uint32_t k = 0; k < kVectors; k++) {
            const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
            if (first < count) {
                input.load(begin + first, value[k]);
            } else {
#pragma unroll
                for (uint32_t e = 0; e < kVector<T>; e++) value[k][e] = 0.0f;
            }
        }
    }

    __device__ __forceinline__ void read(uint32_t k, float (&out)[kVector<T>]) const {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) out[e] = value[k][e];
    }
};

// The same of a whole chunk, in shared memory: as stored in global memory, or as sums in f32. A lane reads only what it
// wrote, or had copied, itself.
template <class T>
struct HeldInShared {
    static constexpr uint32_t kVectors = WN_CHUNK / WN_WARP / kVector<T>;
    template <bool kFused>
    static constexpr uint32_t kUnrolled = kFused ? 1 : 2;  // all that may surround a norm, twice, is large
    static constexpr uint32_t kWords = kVector<T> / 4;  // of a vector in f32
    uint4* words;  // of the lane, one in every WN_WARP
    bool as_stored;

    template <bool kFused>
    __device__ __forceinline__ void fill(const RowInput<T, kFused>& input, const LaneTeam& team, uint64_t begin,
                                         uint32_t count) {
        const Stretch<const T>& x = input.tensors.x;
        if (as_stored && count == WN_CHUNK && aligned_16(x.start)) {
#pragma unroll
            for (uint32_t k = 0; k < kVectors; k++) {
                const uint64_t first = begin + (k * WN_WARP + team.lane()) * kVector<T>;
                copy_async(words + k * WN_WARP, reinterpret_cast<const uint4*>(x.start + first));
            }
            return;
        }
#pragma unroll(kUnrolled<kFused>)
        for (uint32_t k = 0; k < kVectors; k++) {
            const uint64_t first = begin + (k * WN_WARP + team.lane()) * kVector<T>;
            if (as_stored) {
                words[k * WN_WARP] = load_words(x.start, x.length, first);
            } else {
                float value[kVector<T>];
                input.load(first, value);
#pragma unroll
                for (uint32_t w = 0; w < kWords; w++) words[(k * kWords + w) * WN_WARP] = pack<float>(value + w * 4);
            }
        }
    }

    __device__ __forceinline__ void read(uint32_t k, float (&out)[kVector<T>]) const {
        if (as_stored) return unpack<T>(words[k * WN_WARP], out);
#pragma unroll
        for (uint32_t w = 0; w < kWords; w++) unpack<float>(words[(k * kWords + w) * WN_WARP], out + w * 4);
    }
};

// The moments of the `count` elements that a team of lanes holds.
template <class T, class Held>
__device__ __forceinline__ Moments moments_of_held(const Held& held, const LaneTeam& team, uint32_t count,
                                                   bool mean_square) {
    const float n = static_cast<float>(count);
    float high = 0.0f;
    if (!mean_square) {
        float pivot[kVector<T>];
        held.read(0, pivot);
        pivot[0] = team.of_first(pivot[0]);
        float total = 0.0f;
#pragma unroll
        for (uint32_t k = 0; k < Held::kVectors; k++) {
            float difference[kVector<T>];
            held.read(k, difference);
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) {
                const bool inside = (k * team.lanes + team.lane()) * kVector<T> + e < count;
                difference[e] = inside ? difference[e] - pivot[0] : 0.0f;
            }
            total += tree_sum(difference);
        }
        high = pivot[0] + team.sum(total) / n;
    }
    float low = 0.0f;
    float squares = 0.0f;
#pragma unroll
    for (uint32_t k = 0; k < Held::kVectors; k++) {
        float difference[kVector<T>], square[kVector<T>];
        held.read(k, difference);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
            const bool inside = (k * team.lanes + team.lane()) * kVector<T> + e < count;
            difference[e] = inside ? difference[e] - high : 0.0f;
            square[e] = difference[e] * difference[e];
        }
        low += tree_sum(difference);
        squares += tree_sum(square);
    }
    team.sum(low, squares);
    low = mean_square ? 0.0f : low / n;
    return Moments{n, {high, low}, {squares - n * (low * low), 0.0f}};
}

template <class T, bool kFused>
__device__ __forceinline__ RowEpilogue<T, kFused> epilogue_of(const WnRowsParams& p, uint64_t row, const Moments& moments) {
    const float variance = moments.m2.value() / static_cast<float>(p.length);
    return RowEpilogue<T, kFused>(p, row, moments.mean.high, moments.mean.low, reciprocal_deviation(variance, p.eps));
}

template <class T, bool kFused, class Held>
__device__ __forceinline__ void write_held(const Held& held, const LaneTeam& team, uint64_t begin, uint32_t count,
                                           const RowInput<T, kFused>& input, const RowEpilogue<T, kFused>& epilogue) {
#pragma unroll(Held::template kUnrolled<kFused>)
    for (uint32_t k = 0; k < Held::kVectors; k++) {
        const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
        if (first < count) {
            float value[kVector<T>];
            held.read(k, value);
            input.write_sum(begin + first, value);
            epilogue.write(begin + first, value);
        }
    }
}

// The chunks of a row, by their numbers.
struct Chunks {
    uint64_t length;

    __device__ __forceinline__ uint64_t count() const { return (length + WN_CHUNK - 1) / WN_CHUNK; }
    __device__ __forceinline__ uint64_t begin(uint64_t chunk) const { return chunk * WN_CHUNK; }
    __device__ __forceinline__ uint32_t elements(uint64_t chunk) const {
        const uint64_t left = length - begin(chunk);
        return left < WN_CHUNK ? static_cast<uint32_t>(left) : WN_CHUNK;
    }
};

// A leaf is what one warp has of a row: 2^shift chunks, aligned to as many, or what is left of them at the row's end.
struct Leaf {
    uint64_t first;  // chunk
    uint32_t count;  // of chunks; none behind the row's end

    __device__ __forceinline__ Leaf(const Chunks& chunks, uint32_t shift, uint64_t leaf) : first(leaf << shift) {
        const uint64_t left = first < chunks.count() ? chunks.count() - first : 0;
        const uint64_t most = 1ull << shift;
        count = static_cast<uint32_t>(left < most ? left : most);
    }
};

// Of which there are at most WN_ROWS_LEAVES in a row.
__device__ __forceinline__ uint32_t leaves_of(const Chunks& chunks, uint32_t shift) {
    return static_cast<uint32_t>((chunks.count() + (1ull << shift) - 1) >> shift);
}

template <class T, bool kFused, uint32_t kElements>
__device__ __forceinline__ void rows_group(const WnRowsParams& p) {
    const LaneTeam team{p.lanes};
    const uint32_t rows_per_block = blockDim.x / p.lanes;
    const uint32_t slot = threadIdx.x / p.lanes;
    for (uint64_t base = static_cast<uint64_t>(blockIdx.x) * rows_per_block; base < p.rows;
         base += static_cast<uint64_t>(gridDim.x) * rows_per_block) {
        // Lanes that have no row take part in the shuffles and touch no memory.
        const bool present = base + slot < p.rows;
        const uint64_t row = present ? base + slot : 0;
        const uint32_t count = present ? static_cast<uint32_t>(p.length) : 0;
        const RowInput<T, kFused> input(p, row);
        HeldInRegisters<T, kElements> held;
        held.fill(input, team, 0, count);
        const Moments moments = moments_of_held<T>(held, team, count, (p.flags & WN_FLAG_MEAN_SQUARE) != 0);
        if (present) write_held(held, team, 0, count, input, epilogue_of<T, kFused>(p, row, moments));
    }
}

template <class T>
__device__ __forceinline__ void rows_block(const WnRowsParams& p) {
    WN_SHARED(Moments, parts, 2 * WN_ROWS_BLOCK_WARPS);
    const LaneTeam team{WN_WARP};
    const Chunks chunks{p.length};
    const uint32_t warp = threadIdx.x / WN_WARP;  // and its chunk
    const uint64_t begin = chunks.begin(warp);
    const uint32_t count = chunks.elements(warp);
    uint32_t turn = 0;
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const RowInput<T, false> input(p, row);
        HeldInRegisters<T, WN_CHUNK / WN_WARP> held;
        held.fill(input, team, begin, count);
        const Moments mine = moments_of_held<T>(held, team, count, (p.flags & WN_FLAG_MEAN_SQUARE) != 0);
        // Two sets of parts by turns: a warp that is two rows ahead of another has passed a barrier that the other passed
        // only after its reads.
        Moments* const all = parts + turn * WN_ROWS_BLOCK_WARPS;
        turn ^= 1u;
        if (team.lane() == 0) all[warp] = mine;
        __syncthreads();
        const Moments moments = merge_few(all, blockDim.x / WN_WARP);
        write_held(held, team, begin, count, input, epilogue_of<T, false>(p, row, moments));
    }
}

// Leaves a part for every block of the cluster, at the same place in its shared memory.
__device__ __forceinline__ void publish(Moments* place, const Moments& part, uint32_t blocks) {
    const uint32_t lane = threadIdx.x % WN_WARP;
    if (blocks == 1) {
        if (lane == 0) *place = part;
    } else if (lane < blocks) {
        cluster::store(&place->count, lane, part.count);
        cluster::store(&place->mean.high, lane, part.mean.high);
        cluster::store(&place->mean.low, lane, part.mean.low);
        cluster::store(&place->m2.high, lane, part.m2.high);
        cluster::store(&place->m2.low, lane, part.m2.low);
    }
}

template <class T, bool kFused>
__device__ __forceinline__ void rows_shared(const WnRowsParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    const LaneTeam team{WN_WARP};
    const Chunks chunks{p.length};
    const uint32_t blocks = cluster::size();
    const uint32_t warps = blockDim.x / WN_WARP;
    const uint32_t number = cluster::rank() * warps + threadIdx.x / WN_WARP;
    const Leaf leaf(chunks, p.leaf_shift, number);
    const bool as_stored = (p.flags & WN_FLAG_HELD_AS_STORED) != 0;
    const bool mean_square = (p.flags & WN_FLAG_MEAN_SQUARE) != 0;

    // In the dynamic shared memory: two sets of parts, used by turns as in rows_block, then the chunks.
    Moments* const parts = reinterpret_cast<Moments*>(room);
    const uint32_t words_of_chunk = WN_CHUNK / (as_stored ? kVector<T> : kVector<float>);
    uint4* const own = room + p.parts_words + ((threadIdx.x / WN_WARP) << p.leaf_shift) * words_of_chunk + team.lane();

    // Nobody may write into a block that has not begun.
    if (blocks > 1) cluster::arrive();
    bool begun = blocks == 1;
    uint32_t turn = 0;
    for (uint64_t row = blockIdx.x / blocks; row < p.rows; row += gridDim.x / blocks) {
        const RowInput<T, kFused> input(p, row);
        for (uint32_t chunk = 0; chunk < leaf.count; chunk++) {
            HeldInShared<T> held{own + chunk * words_of_chunk, as_stored};
            held.fill(input, team, chunks.begin(leaf.first + chunk), chunks.elements(leaf.first + chunk));
        }
        copies_arrived();
        TreeOfWarp tree;
        for (uint32_t chunk = 0; chunk < leaf.count; chunk++) {
            const HeldInShared<T> held{own + chunk * words_of_chunk, as_stored};
            tree.add(moments_of_held<T>(held, team, chunks.elements(leaf.first + chunk), mean_square));
        }
        if (!begun) cluster::wait();
        begun = true;
        Moments* const all = parts + turn * blocks * warps;
        turn ^= 1u;
        if (leaf.count > 0) publish(all + number, tree.root(), blocks);
        if (blocks == 1) {
            __syncthreads();
        } else {
            cluster::arrive();
            cluster::wait();
        }
        const Moments moments = merge_many(all, leaves_of(chunks, p.leaf_shift));
        const RowEpilogue<T, kFused> epilogue = epilogue_of<T, kFused>(p, row, moments);
        for (uint32_t chunk = 0; chunk < leaf.count; chunk++) {
            const HeldInShared<T> held{own + chunk * words_of_chunk, as_stored};
            write_held(held, team, chunks.begin(leaf.first + chunk), chunks.elements(leaf.first + chunk), input, epilogue);
        }
    }
    // Only if there was no row: else another block could still be told to wait for this one.
    if (!begun) cluster::wait();
}

// For rows that nobody holds: a leaf read once for its moments, and once more, backwards, to be written.
template <class T>
struct LeafInMemory {
    const RowInput<T, true>& input;
    Chunks chunks;
    Leaf leaf;

    __device__ __forceinline__ Moments moments(bool mean_square) const {
        const LaneTeam team{WN_WARP};
        TreeOfWarp tree;
        for (uint32_t chunk = 0; chunk < leaf.count; chunk++) {
            const uint32_t count = chunks.elements(leaf.first + chunk);
            HeldInRegisters<T, WN_CHUNK / WN_WARP> held;
            held.fill(input, team, chunks.begin(leaf.first + chunk), count);
            tree.add(moments_of_held<T>(held, team, count, mean_square));
        }
        return tree.root();
    }

    // Each lane uses again only what it alone writes, so `y` may be `x`, and `sum` the residual. (Off a 16-byte boundary the
    // words that it loads hold elements of its neighbours too, perhaps written by now; those are dropped.)
    __device__ __forceinline__ void write(const RowEpilogue<T, true>& epilogue) const {
        const LaneTeam team{WN_WARP};
        for (uint32_t chunk = leaf.count; chunk-- > 0;) {
            const uint64_t begin = chunks.begin(leaf.first + chunk);
            const uint32_t count = chunks.elements(leaf.first + chunk);
#pragma unroll 1
            for (uint32_t first = team.lane() * kVector<T>; first < count; first += WN_WARP * kVector<T>) {
                float value[kVector<T>];
                input.load(begin + first, value);
                input.write_sum(begin + first, value);
                epilogue.write(begin + first, value);
            }
        }
    }
};

template <class T>
__device__ __forceinline__ void rows_stream(const WnRowsParams& p) {
    WN_SHARED(Moments, parts, 2 * WN_ROWS_LEAVES);
    const Chunks chunks{p.length};
    const uint32_t warp = threadIdx.x / WN_WARP;
    const uint32_t warps = blockDim.x / WN_WARP;
    const uint32_t leaves = leaves_of(chunks, p.leaf_shift);
    const uint32_t mine = warp < leaves ? (leaves - warp + warps - 1) / warps : 0;
    uint32_t turn = 0;
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const RowInput<T, true> input(p, row);
        Moments* const all = parts + turn * WN_ROWS_LEAVES;
        turn ^= 1u;
        for (uint32_t i = 0; i < mine; i++) {
            const LeafInMemory<T> leaf{input, chunks, Leaf(chunks, p.leaf_shift, warp + i * warps)};
            const Moments part = leaf.moments((p.flags & WN_FLAG_MEAN_SQUARE) != 0);
            if (threadIdx.x % WN_WARP == 0) all[warp + i * warps] = part;
        }
        __syncthreads();
        const RowEpilogue<T, true> epilogue = epilogue_of<T, true>(p, row, merge_many(all, leaves));
        for (uint32_t i = mine; i-- > 0;) {
            LeafInMemory<T>{input, chunks, Leaf(chunks, p.leaf_shift, warp + i * warps)}.write(epilogue);
        }
    }
}

// What a block has of a row that several share: a leaf for each of its warps.
struct Split {
    uint64_t row;
    uint32_t leaf;  // of the warp

    __device__ __forceinline__ Split(const WnRowsParams& p, uint64_t split) : row(split / p.splits) {
        leaf = static_cast<uint32_t>(split - row * p.splits) * (blockDim.x / WN_WARP) + threadIdx.x / WN_WARP;
    }
};

// The first launch leaves a part for every leaf of every row in the workspace.
template <class T>
__device__ __forceinline__ void rows_split_moments(const WnRowsParams& p) {
    const Chunks chunks{p.length};
    for (uint64_t number = blockIdx.x; number < p.rows * p.splits; number += gridDim.x) {
        const Split split(p, number);
        const RowInput<T, true> input(p, split.row);
        const LeafInMemory<T> leaf{input, chunks, Leaf(chunks, p.leaf_shift, split.leaf)};
        if (leaf.leaf.count == 0) continue;
        const Moments part = leaf.moments((p.flags & WN_FLAG_MEAN_SQUARE) != 0);
        Moments* const parts = global<Moments>(p.parts) + split.row * leaves_of(chunks, p.leaf_shift);
        if (threadIdx.x % WN_WARP == 0) parts[split.leaf] = part;
    }
}

// The second launch begins with what the first one read last, which is still in L2.
template <class T>
__device__ __forceinline__ void rows_split_apply(const WnRowsParams& p) {
    WN_SHARED(Moments, merged, 2 * WN_ROWS_BLOCK_WARPS);
    const Chunks chunks{p.length};
    const uint32_t warp = threadIdx.x / WN_WARP;
    const uint32_t leaves = leaves_of(chunks, p.leaf_shift);
    const uint64_t splits = p.rows * p.splits;
    uint32_t turn = 0;
    for (uint64_t done = blockIdx.x; done < splits; done += gridDim.x) {
        const Split split(p, splits - 1 - done);
        // Every warp merges a subtree of the row, and then those of all warps.
        const uint32_t first = warp * WN_ROWS_LEAVES;
        const uint32_t left = first < leaves ? leaves - first : 0;
        const Moments* const parts = global<const Moments>(p.parts) + split.row * leaves + first;
        const Moments part = merge_many(parts, left < WN_ROWS_LEAVES ? left : WN_ROWS_LEAVES);
        Moments* const all = merged + turn * WN_ROWS_BLOCK_WARPS;
        turn ^= 1u;
        if (threadIdx.x % WN_WARP == 0) all[warp] = part;
        __syncthreads();
        const Moments moments = merge_few(all, (leaves + WN_ROWS_LEAVES - 1) / WN_ROWS_LEAVES);
        const RowInput<T, true> input(p, split.row);
        const LeafInMemory<T> leaf{input, chunks, Leaf(chunks, p.leaf_shift, split.leaf)};
        leaf.write(epilogue_of<T, true>(p, split.row, moments));
    }
}

}  // namespace wn
