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
//     rows_block     a block, a chunk a warp, in registers; one barrier
//     rows_shared    1..16 blocks of a cluster, in shared memory; one barrier of the cluster
//     rows_long      nobody, where rows are too long: two launches, of which the second begins with what the first read last,
//                    which may still be in L2. Several blocks share a row
//
// But for rows_group_8 and rows_shared, what comes next is on its way to shared memory while a row, or a chunk, is dealt with.
#include "rows.cuh"

namespace wn {

// What a row is made of.
template <class T>
struct PlainInput {
    Stretch<const T> x;
    const T* residual;

    __device__ __forceinline__ PlainInput(const WnRowsParams& p, uint64_t row)
        : x(stretch_of<const T>(p.x, row, p.x_stride, p.length)), residual(row_at<const T>(p.residual, row, p.residual_stride)) {}

    __device__ __forceinline__ void load(uint64_t first, float (&value)[kVector<T>]) const {
        load_whole(x.start + first, value);
        if (residual == nullptr) return;
        float added[kVector<T>];
        load_whole(residual + first, added);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] += added[e];
    }
};

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

    __device__ __forceinline__ PlainOutput(const WnRowsParams& params, uint64_t row, const Moments& moments)
        : p(params),
          sum(row_at<T>(p.sum, row, p.sum_stride)),
          y(row_at<T>(p.y, row, p.y_stride)),
          by(normalization_of(moments, p.inverse_length, p.eps)),
          first_channel(0),
          channel(UINT32_MAX),
          map{} {
        if (p.affine == WN_AFFINE_PER_ELEMENT) return;
        const uint64_t group = row - divide(row, p.groups) * p.groups.divisor;
        first_channel = static_cast<uint32_t>(group * p.channels_per_group);
    }

    // Weight and bias by the position, and nothing behind them.
    __device__ __forceinline__ bool is_bare() const {
        return p.affine == WN_AFFINE_PER_ELEMENT && p.activation == WN_ACTIVATION_NONE;
    }

    __device__ __forceinline__ void write_bare(uint64_t first, float (&value)[kVector<T>]) const {
        if (sum != nullptr) store_whole(sum + first, value);
        normalize(first, value);
        store_whole(y + first, value);
    }

    // kInTurn: vectors come one after another, and not all that the lane has at once.
    template <bool kInTurn>
    __device__ __forceinline__ void write(uint64_t first, float (&value)[kVector<T>]) {
        if (sum != nullptr) store_whole(sum + first, value);
        if (p.affine == WN_AFFINE_PER_CHANNEL) {
            // All of the vector is of one channel.
            const uint32_t next = divide(static_cast<uint32_t>(first), p.short_spatial);
            if (!kInTurn || next != channel) come_to(next);
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) value[e] = map.of(value[e]);
        } else {
            normalize(first, value);
        }
        activate(value, p.activation);
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

// kBare: the bare norm need not ask for every vector what else there is.
template <class T, bool kBare, class Held>
__device__ __forceinline__ void write(const Held& held, const LaneTeam& team, uint64_t begin, uint32_t count,
                                      PlainOutput<T>& output) {
#pragma unroll(Held::kUnrolled)
    for (uint32_t k = 0; k < Held::kVectors; k++) {
        const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
        if (first >= count) continue;
        float value[kVector<T>];
        held.read(k, value);
        if (kBare) {
            output.write_bare(begin + first, value);
        } else {
            output.template write<Held::kUnrolled < Held::kVectors>(begin + first, value);
        }
    }
}

template <class T, class Held>
__device__ __forceinline__ void write(const Held& held, const LaneTeam& team, uint64_t begin, uint32_t count,
                                      PlainOutput<T>& output) {
    if (output.is_bare()) {
        write<T, true>(held, team, begin, count, output);
    } else {
        write<T, false>(held, team, begin, count, output);
    }
}

// What is on its way to the threads of a block while they are busy with the rows before: of each, its vectors of x and of the
// residual, in shared memory, of kTurns rows by turns. A thread takes only what it asked for itself, so that no barrier is
// needed.
template <class T, uint32_t kVectors>
struct Arrivals {
    static constexpr uint32_t kTurns = kVectors * 16 < WN_ROWS_AHEAD_BYTES ? WN_ROWS_AHEAD_BYTES / (kVectors * 16) : 1;
    uint4* own;  // of this turn, one in every blockDim.x words: x, then the residual
    uint32_t turn = 0;
    uint32_t words_of_turn;

    __device__ __forceinline__ Arrivals(uint4* room, bool has_residual)
        : own(room + threadIdx.x), words_of_turn((has_residual ? 2 : 1) * kVectors * blockDim.x) {}

    __device__ __forceinline__ void ask(const PlainInput<T>& input, const LaneTeam& team, uint64_t begin, uint32_t count) const {
        ask_for(own, input.x.start, team, begin, count);
        if (input.residual != nullptr) ask_for(own + kVectors * blockDim.x, input.residual, team, begin, count);
    }

    __device__ __forceinline__ void turn_over() {
        turn_asked();
        if (kTurns == 1) return;
        turn++;
        own += words_of_turn;
        if (turn < kTurns) return;
        turn = 0;
        own -= kTurns * words_of_turn;
    }

    // Behind turns_arrived(); from then on there is room for the row that comes kTurns later. Behind a row's end nothing is
    // taken, and nobody reads it.
    __device__ __forceinline__ void take(HeldInRegisters<T, kVectors * kVector<T>>& held, const LaneTeam& team, uint32_t count,
                                         bool has_residual) const {
#pragma unroll
        for (uint32_t k = 0; k < kVectors; k++) {
            if ((k * team.lanes + team.lane()) * kVector<T> >= count) continue;
            float value[kVector<T>];
            unpack<T>(own[k * blockDim.x], value);
            if (has_residual) {
                float added[kVector<T>];
                unpack<T>(own[(kVectors + k) * blockDim.x], added);
#pragma unroll
                for (uint32_t e = 0; e < kVector<T>; e++) value[e] += added[e];
            }
            held.write(k, value);
        }
    }

private:
    static __device__ __forceinline__ void ask_for(uint4* own, const T* row, const LaneTeam& team, uint64_t begin,
                                                   uint32_t count) {
        const T* const start = row + begin + team.lane() * kVector<T>;
#pragma unroll
        for (uint32_t k = 0; k < kVectors; k++) {
            const bool inside = (k * team.lanes + team.lane()) * kVector<T> < count;
            const T* const source = start + k * team.lanes * kVector<T>;
            if (inside) copy_async(own + k * blockDim.x, reinterpret_cast<const uint4*>(source));
        }
    }
};

// Weight and bias, as far as a team's first row wants them: they arrive while its x does.
template <class T>
__device__ __forceinline__ void fetch_coefficients(const WnRowsParams& p, const LaneTeam& team, uint64_t begin, uint32_t count) {
    if (p.affine != WN_AFFINE_PER_ELEMENT) return;
    const auto fetch = [&](uint64_t address, uint32_t is_f32) {
        if (address == 0) return;
        const uint64_t size = (p.flags & is_f32) != 0 ? sizeof(float) : sizeof(T);
        for (uint32_t first = team.lane() * kVector<T>; first < count; first += team.lanes * kVector<T>) {
            fetch_ahead(global<const uint8_t>(address + (begin + first) * size));
        }
    };
    fetch(p.weight, WN_FLAG_WEIGHT_F32);
    fetch(p.bias, WN_FLAG_BIAS_F32);
}

template <class T, uint32_t kElements>
__device__ __forceinline__ void rows_group(const WnRowsParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    // Rows of more than 256 elements have a whole warp.
    const LaneTeam team{kElements == 8 ? p.lanes : static_cast<uint32_t>(WN_WARP)};
    const uint32_t rows_per_block = team.teams(blockDim.x);
    const uint32_t slot = team.number();
    const bool mean_square = (p.flags & WN_FLAG_MEAN_SQUARE) != 0;
    const uint64_t step = static_cast<uint64_t>(gridDim.x) * rows_per_block;
    const uint32_t length = static_cast<uint32_t>(p.length);
    // One vector a lane is too little for it to be worth asking ahead: more blocks at once have more on the way (H100).
    constexpr bool kAhead = kElements > 8;
    Arrivals<T, kElements / kVector<T>> arrivals(room, p.residual != 0);
    constexpr uint32_t kTurns = decltype(arrivals)::kTurns;
    // Lanes that have no row take part in the shuffles and touch no memory.
    const auto ask = [&](uint64_t base) {
        if (base + slot < p.rows) arrivals.ask(PlainInput<T>(p, base + slot), team, 0, length);
        arrivals.turn_over();
    };
    uint64_t base = static_cast<uint64_t>(blockIdx.x) * rows_per_block;
    if constexpr (kAhead) {
#pragma unroll
        for (uint32_t turn = 0; turn < kTurns; turn++) ask(base + turn * step);
        fetch_coefficients<T>(p, team, 0, length);
    }
    for (; base < p.rows; base += step) {
        const bool present = base + slot < p.rows;
        const uint64_t row = present ? base + slot : 0;
        const uint32_t count = present ? length : 0;
        HeldInRegisters<T, kElements> held;
        if constexpr (kAhead) {
            turns_arrived<kTurns - 1>();
            arrivals.take(held, team, count, p.residual != 0);
            ask(base + kTurns * step);
        } else {
            // Here, zeros that nobody reads cost registers if they are left out (nvcc 13.0).
            fill<T, false>(held, team, 0, count, PlainInput<T>(p, row));
        }
        const Moments moments = moments_of_held<T, true>(held, team, count, p.inverse_length, mean_square);
        PlainOutput<T> output(p, row, moments);
        write(held, team, 0, count, output);
    }
}

template <class T>
__device__ __forceinline__ void rows_block(const WnRowsParams& p) {
    WN_SHARED(Moments, parts, 2 * WN_ROWS_BLOCK_WARPS);
    WN_DYNAMIC_SHARED(uint4, room);
    const LaneTeam team{WN_WARP};
    const Chunks chunks{p.length};
    const uint32_t warp = threadIdx.x / WN_WARP;  // and its chunk
    const uint64_t begin = chunks.begin(warp);
    const uint32_t count = chunks.elements(warp);
    const float inverse = inverse_of(count);
    const bool mean_square = (p.flags & WN_FLAG_MEAN_SQUARE) != 0;
    Arrivals<T, WN_CHUNK / WN_WARP / kVector<T>> arrivals(room, p.residual != 0);
    static_assert(decltype(arrivals)::kTurns == 1, "one row ahead");
    uint32_t turn = 0;
    const auto ask = [&](uint64_t row) {
        if (row < p.rows) arrivals.ask(PlainInput<T>(p, row), team, begin, count);
        arrivals.turn_over();
    };
    ask(blockIdx.x);
    fetch_coefficients<T>(p, team, begin, count);
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        HeldInRegisters<T, WN_CHUNK / WN_WARP> held;
        turns_arrived<0>();
        arrivals.take(held, team, count, p.residual != 0);
        ask(row + gridDim.x);
        const Moments mine = moments_of_held<T, true>(held, team, count, inverse, mean_square);
        // By turns, as PartsOfCluster has them.
        Moments* const all = parts + turn * WN_ROWS_BLOCK_WARPS;
        turn ^= 1u;
        if (team.lane() == 0) all[warp] = mine;
        __syncthreads();
        const Moments moments = merge_few(all, blockDim.x / WN_WARP);
        PlainOutput<T> output(p, row, moments);
        write(held, team, begin, count, output);
    }
}

template <class T>
__device__ __forceinline__ void rows_shared(const WnRowsParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    const LaneTeam team{WN_WARP};
    const Chunks chunks{p.length};
    const bool mean_square = (p.flags & WN_FLAG_MEAN_SQUARE) != 0;
    PartsOfCluster parts(reinterpret_cast<Moments*>(room), leaves_of(chunks, p.leaf_shift));
    const Leaf leaf(chunks, p.leaf_shift, parts.number);
    const RoomOfWarp<T> rooms(p, room, 1u << p.leaf_shift);
    for (uint64_t row = blockIdx.x / parts.blocks; row < p.rows; row += gridDim.x / parts.blocks) {
        const PlainInput<T> input(p, row);
        for (uint32_t i = 0; i < leaf.count; i++) {
            HeldInShared<T, true> held = rooms.template chunk<true>(i);
            fill<T, true>(held, team, chunks.begin(leaf.first + i), chunks.elements(leaf.first + i), input);
        }
        copies_arrived();
        TreeOfWarp tree;
        for (uint32_t i = 0; i < leaf.count; i++) {
            const uint32_t count = chunks.elements(leaf.first + i);
            const HeldInShared<T, true> held = rooms.template chunk<true>(i);
            tree.add(moments_of_held<T, true>(held, team, count, inverse_of(count), mean_square));
        }
        const Moments moments = merge_many(parts.exchange(tree.root()), parts.leaves);
        PlainOutput<T> output(p, row, moments);
        for (uint32_t i = 0; i < leaf.count; i++) {
            const uint32_t count = chunks.elements(leaf.first + i);
            write(rooms.template chunk<true>(i), team, chunks.begin(leaf.first + i), count, output);
        }
    }
    parts.end();
}

// A leaf of a row for each warp.
template <class T>
__device__ __forceinline__ void rows_long(const WnRowsParams& p) {
    WN_SHARED(Moments, subtrees, WN_ROWS_SUBTREES);
    WN_DYNAMIC_SHARED(uint4, room);
    Arrivals<T, WN_CHUNK / WN_WARP / kVector<T>> arrivals(room, p.residual != 0);
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
        // A chunk is asked for while the one before is dealt with; those that are written come backwards.
        const auto chunk = [&](uint32_t i) { return leaf.first + (applies ? leaf.count - 1 - i : i); };
        const auto ask = [&](uint32_t i) {
            if (i < leaf.count) arrivals.ask(input, team, chunks.begin(chunk(i)), chunks.elements(chunk(i)));
            arrivals.turn_over();
        };
        const auto take = [&](uint32_t i) {
            turns_arrived<0>();
            arrivals.take(held, team, chunks.elements(chunk(i)), p.residual != 0);
            ask(i + 1);
        };
        ask(0);
        if (!applies) {
            TreeOfWarp tree;
            for (uint32_t i = 0; i < leaf.count; i++) {
                const uint32_t count = chunks.elements(chunk(i));
                take(i);
                tree.add(moments_of_held<T, true>(held, team, count, inverse_of(count), mean_square));
            }
            const Moments part = tree.root();
            if (team.lane() == 0 && number < leaves) of_row[number] = part;
            continue;
        }
        PlainOutput<T> output(p, row, merge_leaves(of_row, leaves, subtrees));
        for (uint32_t i = 0; i < leaf.count; i++) {
            take(i);
            write<T, false>(held, team, chunks.begin(chunk(i)), chunks.elements(chunk(i)), output);
        }
        __syncthreads();  // before the subtrees are overwritten
    }
}

}  // namespace wn

using namespace wn;

WN_ROWS_KERNELS(WN_DEFINE)
