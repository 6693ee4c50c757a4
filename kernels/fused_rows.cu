// Rows with whatever can be around them, GroupNorm and InstanceNorm in NCHW, and rows that are too long to be held.
//
//     u = x + input_bias
//     v = u, or with a norm of the input (u - mean(u)) / sqrt(var(u) + eps) * post_weight + post_bias
//     s = v * gate[n] + residual + second_residual + channel_bias[n, c]
//                                                        (f32, each step rounded to it; written out as `sum` if asked)
//     y = activation(((s - mean(s)) / sqrt(var(s) + eps) * weight + bias) * scale[n] + shift[n])
//     RMSNorm: the same without the means
//
// What a sample n has of its own goes by the position in the row (LayerNorm, RMSNorm; there is no channel_bias then), or by
// the channel (GroupNorm, InstanceNorm; there is no norm of the input, input_bias, gate or second residual). y may be of
// another type than the rest, or quantized: see quantization.cuh.
//
// The regimes, as in rows.cu:
//
//     fused_rows_group_8   1..32 lanes of a warp, 8 elements a lane, in registers
//     fused_rows_warp      a warp, in shared memory: rows of one chunk; no barrier
//     fused_rows_shared    1..16 blocks of a cluster, in shared memory
//     fused_rows_stream    nobody: a block reads the row once for each of its moments, and again to write, through L2
//     fused_rows_split_*   nobody: the same by many blocks a row, in two launches with a workspace between
//
// Where a row is held, it is so from x on: what it is completed to, and a y whose scale is not known yet, take its place.
#include "fused_rows.cuh"

namespace wn {

// What is done with a vector on its way out. What is not stored is measured: the largest magnitude of y.
struct Steps {
    bool writes_sum;
    bool finishes;  // s to y
    bool stores;
};

__device__ __forceinline__ Steps all_steps() { return Steps{true, true, true}; }

// One vector, by all lanes of a warp together: `inside` says which have one. Returns its amplitude if it is measured.
template <class T>
__device__ __forceinline__ uint32_t take(const Steps& steps, FusedOutput<T>& output, uint64_t first, bool inside,
                                         float (&value)[kVector<T>]) {
    if (steps.writes_sum) output.write_sum(first, inside, value);
    if (inside && steps.finishes) output.finish(first, value);
    const bool has_groups = output.p.scaling == WN_SCALING_GROUPS;
    uint32_t amplitude = 0;
    if (inside && (has_groups || !steps.stores)) amplitude = output.amplitude(first, value);
    if (!steps.stores) return amplitude;
    if (has_groups) {
        const LaneTeam group{WN_SCALE_GROUP / kVector<T>};
        output.scale_by(group.largest(amplitude), first / WN_SCALE_GROUP, inside && group.lane() == 0);
    }
    output.store(first, inside, value);
    return 0;
}

// Brings a chunk to where it is held, or completes what is held there.
template <class T, class Held>
__device__ __forceinline__ void bring(Held& held, const LaneTeam& team, uint64_t begin, uint32_t count,
                                      const FusedInput<T>& input, bool is_there) {
    if (!is_there && held.copy(input.stored(), team, begin, count)) return;
#pragma unroll(Held::kUnrolled)
    for (uint32_t k = 0; k < Held::vectors(count); k++) {
        const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
        float value[kVector<T>] = {};
        if (first < count) {
            if (is_there) {
                held.read(k, value);
            } else {
                input.load(begin + first, value);
            }
            if (input.is_complete) input.complete(begin + first, value);
        }
        held.write(k, value);
    }
}

template <class T, class Held>
__device__ __forceinline__ uint32_t take_held(Held& held, const LaneTeam& team, uint64_t begin, uint32_t count,
                                              const Steps& steps, FusedOutput<T>& output) {
    uint32_t amplitude = 0;
#pragma unroll(Held::kUnrolled)
    for (uint32_t k = 0; k < Held::vectors(count); k++) {
        const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
        float value[kVector<T>];
        held.read(k, value);
        amplitude = max(amplitude, take(steps, output, begin + first, first < count, value));
        if (!steps.stores && first < count) held.write(k, value);
    }
    return amplitude;
}

// A row's way through a kernel. `mine` is what the thread's warp, or team of lanes, has of it.
template <class T, class Mine>
__device__ __forceinline__ void normalize(const WnRowsParams& p, uint64_t row, Mine& mine) {
    FusedInput<T> input(p, row);
    Moments moments;
    // Loops and no branches, so that the code of each step stands here once.
    for (bool is_there = false;; is_there = true) {
        mine.bring(input, is_there);
        moments = mine.moments(input);
        if (input.is_complete) break;
        input.normalize_by(moments);
    }
    FusedOutput<T> output(p, row, mine.lanes(), moments);
    Steps steps = p.scaling == WN_SCALING_ROWS ? Mine::measuring() : all_steps();
    for (;;) {
        const uint32_t amplitude = mine.take(steps, input, output);
        if (steps.stores) return;
        output.scale_by(mine.largest(amplitude), 0, mine.is_first());
        steps = Mine::storing();
    }
}

// What is held is measured as y, which takes the place of s.
struct HeldIsMeasured {
    static __device__ __forceinline__ Steps measuring() { return Steps{true, true, false}; }
    static __device__ __forceinline__ Steps storing() { return Steps{false, false, true}; }
};

// A row of one chunk, by a team of lanes.
template <class T, class Held>
struct RowOfTeam : HeldIsMeasured {
    LaneTeam team;
    uint32_t count;  // none in a team that has no row
    bool mean_square;
    Held held;

    __device__ __forceinline__ RowOfTeam(const WnRowsParams& p, bool present)
        : team{p.lanes},
          count(present ? static_cast<uint32_t>(p.length) : 0),
          mean_square((p.flags & WN_FLAG_MEAN_SQUARE) != 0) {}

    __device__ __forceinline__ void bring(const FusedInput<T>& input, bool is_there) {
        wn::bring(held, team, 0, count, input, is_there);
        copies_arrived();
    }

    __device__ __forceinline__ Moments moments(const FusedInput<T>&) const {
        return moments_of_held<T>(held, team, count, mean_square);
    }

    __device__ __forceinline__ uint32_t take(const Steps& steps, const FusedInput<T>&, FusedOutput<T>& output) {
        return take_held(held, team, 0, count, steps, output);
    }

    __device__ __forceinline__ const LaneTeam& lanes() const { return team; }
    __device__ __forceinline__ uint32_t largest(uint32_t amplitude) const { return team.largest(amplitude); }
    __device__ __forceinline__ bool is_first() const { return count > 0 && team.lane() == 0; }
};

template <class T>
__device__ __forceinline__ void fused_rows_group_8(const WnRowsParams& p) {
    const uint32_t rows_per_block = blockDim.x / p.lanes;
    const uint32_t slot = threadIdx.x / p.lanes;
    for (uint64_t base = static_cast<uint64_t>(blockIdx.x) * rows_per_block; base < p.rows;
         base += static_cast<uint64_t>(gridDim.x) * rows_per_block) {
        // Lanes that have no row take part in the shuffles and touch no memory.
        const bool present = base + slot < p.rows;
        RowOfTeam<T, HeldInRegisters<T, 8>> mine(p, present);
        normalize<T>(p, present ? base + slot : 0, mine);
    }
}

template <class T>
__device__ __forceinline__ void fused_rows_warp(const WnRowsParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    const uint64_t warp = threadIdx.x / WN_WARP;
    const uint64_t warps = blockDim.x / WN_WARP;
    const RoomOfWarp<T> rooms(p, room, 1);
    for (uint64_t row = blockIdx.x * warps + warp; row < p.rows; row += gridDim.x * warps) {
        RowOfTeam<T, HeldInShared<T, true>> mine(p, true);
        mine.held = rooms.template chunk<true>(0);
        normalize<T>(p, row, mine);
    }
}

// A leaf of a row in shared memory.
template <class T>
struct LeafInShared : HeldIsMeasured {
    Chunks chunks;
    Leaf leaf;
    RoomOfWarp<T> rooms;
    PartsOfCluster& parts;
    bool mean_square;

    __device__ __forceinline__ LeafInShared(const WnRowsParams& p, uint4* room, PartsOfCluster& parts)
        : chunks{p.length},
          leaf(chunks, p.leaf_shift, parts.number),
          rooms(p, room, 1u << p.leaf_shift),
          parts(parts),
          mean_square((p.flags & WN_FLAG_MEAN_SQUARE) != 0) {}

    __device__ __forceinline__ HeldInShared<T, true> held(uint32_t i) const { return rooms.template chunk<true>(i); }
    __device__ __forceinline__ uint64_t begin(uint32_t i) const { return chunks.begin(leaf.first + i); }
    __device__ __forceinline__ uint32_t count(uint32_t i) const { return chunks.elements(leaf.first + i); }

    __device__ __forceinline__ void bring(const FusedInput<T>& input, bool is_there) const {
        for (uint32_t i = 0; i < leaf.count; i++) {
            HeldInShared<T, true> chunk = held(i);
            wn::bring(chunk, LaneTeam{WN_WARP}, begin(i), count(i), input, is_there);
        }
        copies_arrived();
    }

    __device__ __forceinline__ Moments moments(const FusedInput<T>&) const {
        TreeOfWarp tree;
        for (uint32_t i = 0; i < leaf.count; i++) {
            tree.add(moments_of_held<T>(held(i), LaneTeam{WN_WARP}, count(i), mean_square));
        }
        return merge_many(parts.exchange(tree.root()), parts.leaves);
    }

    __device__ __forceinline__ uint32_t take(const Steps& steps, const FusedInput<T>&, FusedOutput<T>& output) const {
        uint32_t amplitude = 0;
        for (uint32_t i = 0; i < leaf.count; i++) {
            HeldInShared<T, true> chunk = held(i);
            const LaneTeam team{WN_WARP};
            amplitude = max(amplitude, take_held(chunk, team, begin(i), count(i), steps, output));
        }
        return amplitude;
    }

    __device__ __forceinline__ uint32_t largest(uint32_t amplitude) const {
        const LaneTeam team{WN_WARP};
        const float part = __uint_as_float(team.largest(amplitude));
        return largest_of(parts.exchange(Moments{part, {0.0f, 0.0f}, {0.0f, 0.0f}}), parts.leaves);
    }

    __device__ __forceinline__ LaneTeam lanes() const { return LaneTeam{WN_WARP}; }
    __device__ __forceinline__ bool is_first() const { return parts.number == 0 && threadIdx.x % WN_WARP == 0; }
};

template <class T>
__device__ __forceinline__ void fused_rows_shared(const WnRowsParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    PartsOfCluster parts(reinterpret_cast<Moments*>(room), leaves_of(Chunks{p.length}, p.leaf_shift));
    LeafInShared<T> mine(p, room, parts);
    for (uint64_t row = blockIdx.x / parts.blocks; row < p.rows; row += gridDim.x / parts.blocks) {
        normalize<T>(p, row, mine);
    }
    parts.end();
}

// For rows that nobody holds: a leaf that is read for its moments, chunk by chunk into the warp's part of the shared memory,
// and once more, backwards, to be written.
template <class T>
struct LeafInMemory {
    const FusedInput<T>& input;
    Chunks chunks;
    Leaf leaf;

    __device__ __forceinline__ Moments moments(HeldInShared<T, true> held) const {
        const LaneTeam team{WN_WARP};
        TreeOfWarp tree;
        for (uint32_t chunk = 0; chunk < leaf.count; chunk++) {
            const uint32_t count = chunks.elements(leaf.first + chunk);
            bring(held, team, chunks.begin(leaf.first + chunk), count, input, false);
            copies_arrived();
            tree.add(moments_of_held<T>(held, team, count, (input.p.flags & WN_FLAG_MEAN_SQUARE) != 0));
        }
        return tree.root();
    }

    // Each lane uses again only what it alone writes, so `y` may be `x`, and `sum` the residual. (Off a 16-byte boundary the
    // words that it loads hold elements of its neighbours too, perhaps written by now; those are dropped.)
    __device__ __forceinline__ uint32_t take(const Steps& steps, FusedOutput<T>& output) const {
        const LaneTeam team{WN_WARP};
        uint32_t amplitude = 0;
        for (uint32_t chunk = leaf.count; chunk-- > 0;) {
            const uint64_t begin = chunks.begin(leaf.first + chunk);
            const uint32_t count = chunks.elements(leaf.first + chunk);
#pragma unroll 1
            for (uint32_t round = 0; round < count; round += WN_WARP * kVector<T>) {
                const uint32_t first = round + team.lane() * kVector<T>;
                float value[kVector<T>] = {};
                if (first < count) {
                    input.load(begin + first, value);
                    input.complete(begin + first, value);
                }
                amplitude = max(amplitude, wn::take(steps, output, begin + first, first < count, value));
            }
        }
        return amplitude;
    }
};

// The leaves of a row that a warp of a block has: every so many-th.
template <class T>
struct RowInMemory {
    Chunks chunks;
    uint32_t leaf_shift;
    uint32_t leaves;
    uint32_t warp;
    uint32_t warps;
    RoomOfWarp<T> rooms;  // of one chunk
    Moments* parts;       // two sets by turns, as PartsOfCluster has them
    uint32_t turn;

    __device__ __forceinline__ RowInMemory(const WnRowsParams& p, uint4* room, Moments* parts)
        : chunks{p.length},
          leaf_shift(p.leaf_shift),
          leaves(leaves_of(chunks, p.leaf_shift)),
          warp(threadIdx.x / WN_WARP),
          warps(blockDim.x / WN_WARP),
          rooms(p, room, 1),
          parts(parts),
          turn(0) {}

    // Nothing is kept: a measured y is made again to be stored.
    static __device__ __forceinline__ Steps measuring() { return Steps{false, true, false}; }
    static __device__ __forceinline__ Steps storing() { return all_steps(); }

    __device__ __forceinline__ void bring(const FusedInput<T>&, bool) const {}

    __device__ __forceinline__ Moments moments(const FusedInput<T>& input) {
        Moments* const all = next_parts();
        for (uint32_t leaf = warp; leaf < leaves; leaf += warps) {
            const LeafInMemory<T> mine{input, chunks, Leaf(chunks, leaf_shift, leaf)};
            const Moments part = mine.moments(rooms.template chunk<true>(0));
            if (threadIdx.x % WN_WARP == 0) all[leaf] = part;
        }
        __syncthreads();
        return merge_many(all, leaves);
    }

    __device__ __forceinline__ uint32_t take(const Steps& steps, const FusedInput<T>& input,
                                             FusedOutput<T>& output) const {
        uint32_t amplitude = 0;
        const uint32_t mine = warp < leaves ? (leaves - warp + warps - 1) / warps : 0;
        for (uint32_t i = mine; i-- > 0;) {
            const LeafInMemory<T> leaf{input, chunks, Leaf(chunks, leaf_shift, warp + i * warps)};
            amplitude = max(amplitude, leaf.take(steps, output));
        }
        return amplitude;
    }

    __device__ __forceinline__ uint32_t largest(uint32_t amplitude) {
        Moments* const all = next_parts();
        const float part = __uint_as_float(LaneTeam{WN_WARP}.largest(amplitude));
        if (threadIdx.x % WN_WARP == 0) all[warp].count = part;
        __syncthreads();
        return largest_of(all, warps);
    }

    __device__ __forceinline__ LaneTeam lanes() const { return LaneTeam{WN_WARP}; }
    __device__ __forceinline__ bool is_first() const { return threadIdx.x == 0; }

private:
    __device__ __forceinline__ Moments* next_parts() {
        Moments* const all = parts + turn * WN_ROWS_LEAVES;
        turn ^= 1u;
        return all;
    }
};

template <class T>
__device__ __forceinline__ void fused_rows_stream(const WnRowsParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    WN_SHARED(Moments, parts, 2 * WN_ROWS_LEAVES);
    RowInMemory<T> mine(p, room, parts);
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) normalize<T>(p, row, mine);
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
__device__ __forceinline__ void fused_rows_split_moments(const WnRowsParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    const RoomOfWarp<T> rooms(p, room, 1);
    const Chunks chunks{p.length};
    for (uint64_t number = blockIdx.x; number < p.rows * p.splits; number += gridDim.x) {
        const Split split(p, number);
        const FusedInput<T> input(p, split.row);
        const LeafInMemory<T> leaf{input, chunks, Leaf(chunks, p.leaf_shift, split.leaf)};
        if (leaf.leaf.count == 0) continue;
        const Moments part = leaf.moments(rooms.template chunk<true>(0));
        Moments* const parts = global<Moments>(p.parts) + split.row * leaves_of(chunks, p.leaf_shift);
        if (threadIdx.x % WN_WARP == 0) parts[split.leaf] = part;
    }
}

// The second launch begins with what the first one read last, which is still in L2.
template <class T>
__device__ __forceinline__ void fused_rows_split_apply(const WnRowsParams& p) {
    WN_SHARED(Moments, merged, 2 * WN_ROWS_SUBTREES);
    const Chunks chunks{p.length};
    const uint32_t warp = threadIdx.x / WN_WARP;
    const uint32_t leaves = leaves_of(chunks, p.leaf_shift);
    const uint32_t subtrees = (leaves + WN_ROWS_LEAVES - 1) / WN_ROWS_LEAVES;
    const uint64_t splits = p.rows * p.splits;
    uint32_t turn = 0;
    for (uint64_t done = blockIdx.x; done < splits; done += gridDim.x) {
        const Split split(p, splits - 1 - done);
        // The warps merge subtrees of the row, and then each of them those of all.
        const Moments* const parts = global<const Moments>(p.parts) + split.row * leaves;
        Moments* const all = merged + turn * WN_ROWS_SUBTREES;
        turn ^= 1u;
        for (uint32_t subtree = warp; subtree < subtrees; subtree += blockDim.x / WN_WARP) {
            const uint32_t first = subtree * WN_ROWS_LEAVES;
            const Moments part = merge_many(parts + first, min(leaves - first, static_cast<uint32_t>(WN_ROWS_LEAVES)));
            if (threadIdx.x % WN_WARP == 0) all[subtree] = part;
        }
        __syncthreads();
        const Moments moments = merge_few(all, subtrees);
        const FusedInput<T> input(p, split.row);
        FusedOutput<T> output(p, split.row, LaneTeam{WN_WARP}, moments);
        LeafInMemory<T>{input, chunks, Leaf(chunks, p.leaf_shift, split.leaf)}.take(all_steps(), output);
    }
}

}  // namespace wn

using namespace wn;

WN_FUSED_ROWS_KERNELS(WN_DEFINE)
