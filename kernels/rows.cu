// LayerNorm and RMSNorm, GroupNorm and InstanceNorm in NCHW, with what most calls have: a residual, weight and bias, an
// activation. All rows begin on a 16-byte word and end with a vector, and where weight and bias go by the channel, a vector has
// one. Rows elsewhere, and whatever else may surround a norm, are in fused_rows.cu: what every vector would have to ask for
// their sake costs more than the norm.
//
//     s = x + residual                                 (f32; written out as `sum` if asked)
//     y = activation((s - mean(s)) / sqrt(var(s) + eps) * weight + bias)
//     RMSNorm: the same with s / sqrt(mean(s^2) + eps)
//
// A row is [length] elements at x + row * x_stride; each byte of x, residual, sum and y moves once, as 16-byte words. Weight
// and bias, [length] or [channels], come from L2 after the first rows. The regimes differ in who holds a row:
//
//     rows_group_E   1..32 lanes of a warp, E elements a lane, in registers: rows of one chunk; shuffles only, no barrier
//     rows_shared    1..16 blocks of a cluster, in shared memory; one barrier of the cluster, and one of the block: norms with
//                    weight (and bias) of T and nothing else, in as few registers as that takes
//     rows_any_shared    the same with whatever else a plain row has
//     rows_long      nobody, where rows are too long: two launches, of which the second begins with what the first read last,
//                    which may still be in L2. Several blocks share a row
//
// A block has its rows and ends; the chip begins the next one in its place. Blocks that walk on over rows, and ask for the next
// while they are busy, were a tenth slower at every length (H200).
#include "rows.cuh"

namespace wn {

// What a row is made of.
template <class T>
struct PlainInput {
    Stretch<const T> x;
    const T* residual;

    __device__ __forceinline__ PlainInput(const WnRowsParams& p, uint64_t row)
        : x(stretch_of<const T>(p.x, row, p.x_stride, p.length)), residual(row_at<T>(p.residual, row, p.residual_stride)) {}

    // Brings the first `count` elements behind `begin` to where they are held. All words are asked for before one is used.
    // kMayAdd: there may be a residual.
    template <bool kMayAdd, class Held>
    __device__ __forceinline__ void fill(Held& held, const LaneTeam& team, uint64_t begin, uint32_t count) const {
        uint4 words[Held::kVectors];
        load_words(x.start + begin, team, count, words);
        if (!kMayAdd || residual == nullptr) {
#pragma unroll
            for (uint32_t k = 0; k < Held::kVectors; k++) unpack<T>(words[k], held.value[k]);
            return;
        }
        uint4 others[Held::kVectors];
        load_words(residual + begin, team, count, others);
#pragma unroll
        for (uint32_t k = 0; k < Held::kVectors; k++) {
            float added[kVector<T>];
            unpack<T>(words[k], held.value[k]);
            unpack<T>(others[k], added);
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) held.value[k][e] += added[e];
        }
    }

private:
    template <uint32_t kVectors>
    static __device__ __forceinline__ void load_words(const T* row, const LaneTeam& team, uint32_t count, uint4 (&words)[kVectors]) {
#pragma unroll
        for (uint32_t k = 0; k < kVectors; k++) {
            const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
            words[k] = uint4{0, 0, 0, 0};
            if (first < count) words[k] = load_at_once(row + first);
        }
    }
};

using Form = WnForm;

__device__ __forceinline__ Form form_of(const WnRowsParams& p) { return static_cast<Form>(p.form); }

// How a row is finished.
template <class T>
struct PlainOutput {
    const WnRowsParams& p;
    T* sum;
    T* y;
    Normalization by;
    uint32_t first_channel;
    // Of the channel that a lane has come to: its next vector is mostly of the same.
    uint32_t channel;
    ChannelMap map;

    __device__ __forceinline__ PlainOutput(const WnRowsParams& params, uint64_t row, const Normalization& by)
        : p(params),
          sum(row_at<T>(p.sum, row, p.sum_stride)),
          y(global<T>(p.y) + row * p.y_stride),
          by(by),
          first_channel(0),
          channel(UINT32_MAX),
          map{} {
        if (p.affine == WN_AFFINE_PER_ELEMENT) return;
        const uint64_t group = row - divide(row, p.groups) * p.groups.divisor;
        first_channel = static_cast<uint32_t>(group * p.channels_per_group);
    }

    // A usual norm of the vector to which weight and bias point.
    template <Form kForm>
    __device__ __forceinline__ void normalize_usual(const T* weight, const T* bias, float (&value)[kVector<T>]) const {
        float w[kVector<T>], b[kVector<T>];
        load_whole(weight, w);
        if constexpr (kForm == WN_FORM_LAYER_NORM) {
            load_whole(bias, b);
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) value[e] = fused(by.of(value[e]), w[e], b[e]);
        } else {
            // As where a bias is added: a zero that is not -0.
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) value[e] = fused(product(value[e], by.rstd), w[e], 0.0f);
        }
    }

    // kMaySum: there may be a sum to be written out.
    template <Form kForm, bool kMaySum, class Index>
    __device__ __forceinline__ void write(Index first, float (&value)[kVector<T>]) {
        if (kMaySum && sum != nullptr) store_whole(sum + first, value);
        if constexpr (kForm == WN_FORM_LAYER_NORM || kForm == WN_FORM_RMS_NORM) {
            normalize_usual<kForm>(global<const T>(p.weight) + first, global<const T>(p.bias) + first, value);
        } else {
            if constexpr (kForm == WN_FORM_BY_CHANNEL) {
                const uint32_t next = divide(static_cast<uint32_t>(first), p.short_spatial);
                if (next != channel) come_to(next);
#pragma unroll
                for (uint32_t e = 0; e < kVector<T>; e++) value[e] = map.of(value[e]);
            } else {
                normalize(first, value);
            }
            activate(value, p.activation);
        }
        store_whole(y + first, value);
    }

private:
    __device__ __forceinline__ void come_to(uint32_t next) {
        channel = next;
        const Coefficients<T> weight{p.weight, (p.flags & WN_FLAG_WEIGHT_F32) != 0};
        const Coefficients<T> bias{p.bias, (p.flags & WN_FLAG_BIAS_F32) != 0};
        map = by.with(Affine{weight.at(first_channel + channel, 1.0f), bias.at(first_channel + channel, 0.0f)});
    }

    __device__ __forceinline__ void normalize(uint64_t first, float (&value)[kVector<T>]) const {
        float w[kVector<T>], b[kVector<T>];
        load_coefficients(p.weight, WN_FLAG_WEIGHT_F32, first, 1.0f, w);
        load_coefficients(p.bias, WN_FLAG_BIAS_F32, first, 0.0f, b);
        if (p.flags & WN_FLAG_WEIGHT_PLUS_ONE) {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) w[e] += 1.0f;
        }
        if (p.flags & WN_FLAG_MEAN_SQUARE) {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) value[e] = product(value[e], by.rstd);
        } else {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) value[e] = by.of(value[e]);
        }
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = fused(value[e], w[e], b[e]);
    }

    __device__ __forceinline__ void load_coefficients(uint64_t address, uint32_t is_f32, uint64_t first, float absent,
                                                      float (&out)[kVector<T>]) const {
        if (address == 0) {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) out[e] = absent;
        } else if ((p.flags & is_f32) != 0) {
            load_whole(global<const float>(address) + first, out);
        } else {
            load_whole(global<const T>(address) + first, out);
        }
    }
};

// kFull: all vectors are there. Else the loops are short.
template <class T, Form kForm, bool kFull, bool kMaySum, class Held, class Index>
__device__ __forceinline__ void write_as(const Held& held, const LaneTeam& team, Index begin, uint32_t count,
                                         PlainOutput<T>& output) {
    constexpr bool kIsUsual = kForm == WN_FORM_LAYER_NORM || kForm == WN_FORM_RMS_NORM;
    if constexpr (kFull && kIsUsual && !kMaySum && Held::kWriteUnrolled == Held::kVectors) {
        // From where the lane begins: one address for each tensor, and constants from there on.
        const Index first = begin + team.lane() * kVector<T>;
        const T* const weight = global<const T>(output.p.weight) + first;
        const T* const bias = global<const T>(output.p.bias) + first;
        T* const y = output.y + first;
#pragma unroll
        for (uint32_t k = 0; k < Held::kVectors; k++) {
            const uint32_t at = k * team.lanes * kVector<T>;
            float value[kVector<T>];
            held.read(k, value);
            output.template normalize_usual<kForm>(weight + at, bias + at, value);
            store_whole(y + at, value);
        }
        return;
    }
#pragma unroll(kFull ? Held::kFullUnrolled : Held::kUnrolled)
    for (uint32_t k = 0; k < Held::kVectors; k++) {
        const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
        if (!kFull && first >= count) continue;
        float value[kVector<T>];
        held.read(k, value);
        output.template write<kForm, kMaySum>(begin + first, value);
    }
}

// The usual norms alone, of x alone.
template <class T, class Held, class Index>
__device__ __forceinline__ void write_usual(Form form, const Held& held, const LaneTeam& team, Index begin, uint32_t count,
                                            PlainOutput<T>& output) {
    const bool full = is_full<T, Held>(team, count);
    if (form == WN_FORM_LAYER_NORM && full) {
        write_as<T, WN_FORM_LAYER_NORM, true, false>(held, team, begin, count, output);
    } else if (form == WN_FORM_LAYER_NORM) {
        write_as<T, WN_FORM_LAYER_NORM, false, false>(held, team, begin, count, output);
    } else if (full) {
        write_as<T, WN_FORM_RMS_NORM, true, false>(held, team, begin, count, output);
    } else {
        write_as<T, WN_FORM_RMS_NORM, false, false>(held, team, begin, count, output);
    }
}

// Index: of as many bits as a row's length may have. kMayBeUsual: else the usual norms are not worth code of their own.
template <class T, bool kMayBeUsual, class Held, class Index>
__device__ __forceinline__ void write(Form form, const Held& held, const LaneTeam& team, Index begin, uint32_t count,
                                      PlainOutput<T>& output) {
    const bool full = is_full<T, Held>(team, count);
    if (kMayBeUsual && form == WN_FORM_LAYER_NORM && full) {
        write_as<T, WN_FORM_LAYER_NORM, true, true>(held, team, begin, count, output);
    } else if (kMayBeUsual && form == WN_FORM_RMS_NORM && full) {
        write_as<T, WN_FORM_RMS_NORM, true, true>(held, team, begin, count, output);
    } else if (form == WN_FORM_BY_CHANNEL && full) {
        write_as<T, WN_FORM_BY_CHANNEL, true, true>(held, team, begin, count, output);
    } else if (form == WN_FORM_BY_CHANNEL) {
        write_as<T, WN_FORM_BY_CHANNEL, false, true>(held, team, begin, count, output);
    } else {
        write_as<T, WN_FORM_BY_POSITION, false, true>(held, team, begin, count, output);
    }
}

// kIsUsual: of x alone, as write_usual has it.
template <class T, uint32_t kElements, bool kIsUsual>
__device__ __forceinline__ void rows_in_registers(const WnRowsParams& p, Form form) {
    const LaneTeam team{p.lanes};
    const uint32_t rows_per_block = team.teams(blockDim.x);
    const uint32_t slot = team.number();
    const bool mean_square = (p.flags & WN_FLAG_MEAN_SQUARE) != 0;
    const uint64_t step = static_cast<uint64_t>(gridDim.x) * rows_per_block;
    for (uint64_t base = static_cast<uint64_t>(blockIdx.x) * rows_per_block; base < p.rows; base += step) {
        // Lanes that have no row take part in the shuffles and touch no memory.
        const bool present = base + slot < p.rows;
        const uint64_t row = present ? base + slot : 0;
        const uint32_t count = present ? static_cast<uint32_t>(p.length) : 0;
        HeldInRegisters<T, kElements> held;
        PlainInput<T>(p, row).template fill<!kIsUsual>(held, team, 0, count);
        const Moments moments = moments_of_held<T, true>(held, team, count, p.inverse_length, mean_square);
        PlainOutput<T> output(p, row, normalization_of(moments, p.inverse_length, p.eps));
        if (kIsUsual) {
            write_usual(form, held, team, 0u, count, output);
        } else {
            write<T, true>(form, held, team, 0u, count, output);
        }
    }
}

// Two bodies: one for all was 3 to 5 % slower for the usual norms of 16 bits (H200). Of f32, which memory bounds, 32 elements
// have one; with two they spill.
template <class T, uint32_t kElements>
__device__ __forceinline__ void rows_group(const WnRowsParams& p) {
    constexpr bool kHasUsual = sizeof(T) == 2 || kElements == 16;
    const Form form = form_of(p);
    if (kHasUsual && p.residual == 0 && (form == WN_FORM_LAYER_NORM || form == WN_FORM_RMS_NORM)) {
        rows_in_registers<T, kElements, true>(p, form);
    } else {
        rows_in_registers<T, kElements, false>(p, form);
    }
}

// What a lane of a warp holds of a chunk, as stored in shared memory, where it has it copied: x, and behind all of it the
// residual.
template <class T, bool kHasResidual>
struct HeldAsStored {
    static constexpr uint32_t kVectors = WN_CHUNK / WN_WARP / kVector<T>;
    static constexpr uint32_t kUnrolled = 1;
    static constexpr uint32_t kMomentsUnrolled = 1;
    static constexpr uint32_t kFullUnrolled = 2;
    static constexpr uint32_t kWriteUnrolled = 4;  // of the usual norms
    static constexpr uint32_t kWords = (kHasResidual ? 2 : 1) * kVectors * WN_WARP;  // of all lanes
    const uint4* words;  // of the lane, one in every WN_WARP

    static __device__ __forceinline__ uint32_t vectors(uint32_t) { return kVectors; }

    __device__ __forceinline__ void read(uint32_t k, float (&out)[kVector<T>]) const {
        unpack<T>(words[k * WN_WARP], out);
        if (!kHasResidual) return;
        float added[kVector<T>];
        unpack<T>(words[(kVectors + k) * WN_WARP], added);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) out[e] += added[e];
    }
};

// Has a lane's vectors of a chunk's `count` elements copied; `source` is its first one.
template <class T>
__device__ __forceinline__ void copy_chunk(const SharedWords& target, const T* source, uint32_t lane, uint32_t count) {
    constexpr uint32_t kVectors = WN_CHUNK / WN_WARP / kVector<T>;
    const uint4* const words = reinterpret_cast<const uint4*>(as_global(source));
    if (count >= WN_CHUNK) {
#pragma unroll
        for (uint32_t k = 0; k < kVectors; k++) copy_async(target, k * WN_WARP, words + k * WN_WARP);
        return;
    }
#pragma unroll 1
    for (uint32_t k = 0; k < kVectors && (k * WN_WARP + lane) * kVector<T> < count; k++) {
        copy_async(target.behind(k * WN_WARP), 0, words + k * WN_WARP);
    }
}

// A row of a cluster, a leaf of it each warp's. Its length, and whatever is counted in it, has 32 bits, for it fits the chip;
// and so has the number of such rows, of more than a chunk each, that fit a device.
// kIsUsual: LayerNorm or RMSNorm as write_usual has them.
template <class T, bool kHasResidual, bool kIsUsual>
__device__ __forceinline__ void rows_in_shared(const WnRowsParams& p, uint4* room) {
    using Held = HeldAsStored<T, kHasResidual>;
    const LaneTeam team{WN_WARP};
    const bool mean_square = (p.flags & WN_FLAG_MEAN_SQUARE) != 0;
    const uint32_t length = static_cast<uint32_t>(p.length);
    const uint32_t leaf = WN_CHUNK << p.leaf_shift;  // elements
    PartsOfCluster parts(reinterpret_cast<Moments*>(room), (length + leaf - 1) / WN_CHUNK >> p.leaf_shift);
    Normalization* const by = reinterpret_cast<Normalization*>(room + p.parts_words - 1);
    // Of the warp: none behind the row's end.
    const uint32_t begin = parts.number * leaf;
    const uint32_t elements = begin < length ? min(length - begin, leaf) : 0;
    uint4* const own = room + p.parts_words + (threadIdx.x / WN_WARP << p.leaf_shift) * Held::kWords + team.lane();
    const uint32_t first = begin + team.lane() * kVector<T>;
    const uint32_t rows = static_cast<uint32_t>(p.rows);
    const uint32_t of_blocks = __popc(parts.blocks - 1);
    // What a row begins with is made anew, and the turn counted once for all: registers are few.
    for (uint32_t turn = 0;; turn++) {
        const uint32_t row = (block_number() >> of_blocks) + turn * (gridDim.x >> of_blocks);
        if (row >= rows) break;
        const T* const x = global<const T>(p.x) + row * p.x_stride + first;
        SharedWords target(own);
#pragma unroll 1
        for (uint32_t chunk = 0; chunk < elements; chunk += WN_CHUNK) {
            copy_chunk(target, x + chunk, team.lane(), elements - chunk);
            if (kHasResidual) {
                const T* const residual = global<const T>(p.residual) + row * p.residual_stride + first;
                copy_chunk(target.behind(Held::kWords / 2), residual + chunk, team.lane(), elements - chunk);
            }
            target = target.behind(Held::kWords);
        }
        copies_arrived();
        Moments part = no_moments();
        if (elements <= WN_CHUNK) {
            if (elements > 0) part = moments_of_held<T, true>(Held{own}, team, elements, inverse_of(p, elements), mean_square);
        } else {
            TreeOfWarp tree;
            Held held{own};
#pragma unroll 1
            for (uint32_t chunk = 0; chunk < elements; chunk += WN_CHUNK, held.words += Held::kWords) {
                const uint32_t count = min(elements - chunk, static_cast<uint32_t>(WN_CHUNK));
                tree.add(moments_of_held<T, true>(held, team, count, inverse_of(p, count), mean_square));
            }
            part = tree.root();
        }
        const Moments* const all = parts.exchange(part, turn);
        // One warp merges for all: it is as many instructions as a quarter of the row for each that does.
        if (threadIdx.x < WN_WARP) {
            const Moments moments = merge_many_here(all, parts.leaves);
            if (threadIdx.x == 0) *by = normalization_of(moments, p.inverse_length, p.eps);
        }
        __syncthreads();
        PlainOutput<T> output(p, row, *by);
        const Form form = form_of(p);
        Held held{own};
#pragma unroll 1
        for (uint32_t chunk = 0; chunk < elements; chunk += WN_CHUNK, held.words += Held::kWords) {
            const uint32_t count = min(elements - chunk, static_cast<uint32_t>(WN_CHUNK));
            if (kIsUsual) {
                write_usual(form, held, team, begin + chunk, count, output);
            } else {
                // Without a residual those are rows_shared's.
                write<T, kHasResidual>(form, held, team, begin + chunk, count, output);
            }
        }
    }
    parts.end();
}

template <class T>
__device__ __forceinline__ void rows_shared(const WnRowsParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    rows_in_shared<T, false, true>(p, room);
}

template <class T>
__device__ __forceinline__ void rows_any_shared(const WnRowsParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    if (p.residual == 0) {
        rows_in_shared<T, false, false>(p, room);
    } else {
        rows_in_shared<T, true, false>(p, room);
    }
}

// A leaf of a row for each warp.
template <class T>
__device__ __forceinline__ void rows_long(const WnRowsParams& p) {
    WN_SHARED(Moments, subtrees, WN_ROWS_SUBTREES);
    const LaneTeam team{WN_WARP};
    const Chunks chunks{p.length};
    const bool mean_square = (p.flags & WN_FLAG_MEAN_SQUARE) != 0;
    const bool applies = p.step == WN_STEP_APPLY;
    const uint32_t leaves = leaves_of(chunks, p.leaf_shift);
    const uint64_t splits = p.rows * p.splits;
    for (uint64_t done = blockIdx.x; done < splits; done += gridDim.x) {
        const uint64_t split = applies ? splits - 1 - done : done;
        const uint64_t row = split / p.splits;
        const uint32_t number = static_cast<uint32_t>(split - row * p.splits) * (blockDim.x / WN_WARP) + threadIdx.x / WN_WARP;
        const Leaf leaf(chunks, p.leaf_shift, number);
        const PlainInput<T> input(p, row);
        Moments* const of_row = global<Moments>(p.parts) + row * leaves;
        HeldInRegisters<T, WN_CHUNK / WN_WARP> held;
        if (!applies) {
            TreeOfWarp tree;
            for (uint32_t i = 0; i < leaf.count; i++) {
                const uint64_t chunk = leaf.first + i;
                const uint32_t count = chunks.elements(chunk);
                input.template fill<true>(held, team, chunks.begin(chunk), count);
                tree.add(moments_of_held<T, true>(held, team, count, inverse_of(p, count), mean_square));
            }
            const Moments part = tree.root();
            if (team.lane() == 0 && number < leaves) of_row[number] = part;
            continue;
        }
        const Moments moments = merge_leaves(of_row, leaves, subtrees);
        PlainOutput<T> output(p, row, normalization_of(moments, p.inverse_length, p.eps));
        const Form form = form_of(p);
        for (uint32_t i = leaf.count; i-- > 0;) {
            const uint64_t chunk = leaf.first + i;
            input.template fill<true>(held, team, chunks.begin(chunk), chunks.elements(chunk));
            write<T, true>(form, held, team, chunks.begin(chunk), chunks.elements(chunk), output);
        }
        __syncthreads();  // before the subtrees are overwritten
    }
}

}  // namespace wn

using namespace wn;

WN_ROWS_KERNELS(WN_DEFINE)
