// Rows with whatever can be around them, GroupNorm and InstanceNorm in NCHW where vectors have several channels, and rows that
// are too long to be held.
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
//     fused_rows_group_16    1..16 lanes of a warp, 16 elements a lane, in shared memory; no barrier
//     fused_rows_shared      1..16 blocks of a cluster, in shared memory, or a warp, without a barrier: whole vectors of tensors
//                            that begin on 16-byte words, weight and bias by the position (fused_batches.cuh)
//     fused_rows_any_shared  the same of all other rows
//     fused_rows_long        nobody: a block reads the row once for each of its moments, and again to write, through L2; or many
//                          blocks do, in two launches with a workspace between
//
// Where a row is held, it is so from x on: what it is completed to, and a y whose scale is not known yet, take its place.
#include "fused_batches.cuh"

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
    if (mine.is_done()) return;
    FusedOutput<T> output(p, row, mine.lanes(), moments);
    Steps steps = p.scaling == WN_SCALING_ROWS ? Mine::measuring() : all_steps();
    for (;;) {
        const uint32_t amplitude = mine.take(steps, input, output);
        if (steps.stores) return;
        output.scale_by(mine.largest(amplitude), 0, mine.is_first());
        steps = Mine::storing();
    }
}

// What is held is measured as y, which takes the place of s, and is written in the same launch.
struct RowIsHeld {
    static __device__ __forceinline__ bool is_done() { return false; }
    static __device__ __forceinline__ Steps measuring() { return Steps{true, true, false}; }
    static __device__ __forceinline__ Steps storing() { return Steps{false, false, true}; }
};

// A row of one chunk, by a team of lanes.
template <class T, class Held>
struct RowOfTeam : RowIsHeld {
    LaneTeam team;
    uint32_t count;  // none in a team that has no row
    float inverse;   // of the row's length
    bool mean_square;
    Held held;

    __device__ __forceinline__ RowOfTeam(const WnRowsParams& p, bool present)
        : team{p.lanes},
          count(present ? static_cast<uint32_t>(p.length) : 0),
          inverse(p.inverse_length),
          mean_square((p.flags & WN_FLAG_MEAN_SQUARE) != 0) {}

    __device__ __forceinline__ void bring(const FusedInput<T>& input, bool is_there) {
        wn::bring(held, team, 0, count, input, is_there);
    }

    __device__ __forceinline__ Moments moments(const FusedInput<T>&) const {
        return moments_of_held<T, false>(held, team, count, inverse, mean_square);
    }

    __device__ __forceinline__ uint32_t take(const Steps& steps, const FusedInput<T>&, FusedOutput<T>& output) {
        return take_held(held, team, 0, count, steps, output);
    }

    __device__ __forceinline__ const LaneTeam& lanes() const { return team; }
    __device__ __forceinline__ uint32_t largest(uint32_t amplitude) const { return team.largest(amplitude); }
    __device__ __forceinline__ bool is_first() const { return count > 0 && team.lane() == 0; }
};

template <class T>
__device__ __forceinline__ void fused_rows_group_16(const WnRowsParams& p) {
    WN_SHARED(uint4, room, (HeldByTeam<T, 16>::kRoom));
    const LaneTeam team{p.lanes};
    const uint32_t rows_per_block = team.teams(blockDim.x);
    const uint32_t slot = team.number();
    for (uint64_t base = static_cast<uint64_t>(blockIdx.x) * rows_per_block; base < p.rows;
         base += static_cast<uint64_t>(gridDim.x) * rows_per_block) {
        // Lanes that have no row take part in the shuffles and touch no memory.
        const bool present = base + slot < p.rows;
        RowOfTeam<T, HeldByTeam<T, 16>> mine(p, present);
        mine.held = HeldByTeam<T, 16>::in(room);
        normalize<T>(p, present ? base + slot : 0, mine);
    }
}

// A leaf of a row in shared memory.
template <class T>
struct LeafInShared : RowIsHeld {
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

    __device__ __forceinline__ HeldInShared<T> held(uint32_t i) const { return rooms.chunk(i); }
    __device__ __forceinline__ uint64_t begin(uint32_t i) const { return chunks.begin(leaf.first + i); }
    __device__ __forceinline__ uint32_t count(uint32_t i) const { return chunks.elements(leaf.first + i); }

    __device__ __forceinline__ void bring(const FusedInput<T>& input, bool is_there) const {
        for (uint32_t i = 0; i < leaf.count; i++) {
            HeldInShared<T> chunk = held(i);
            wn::bring(chunk, LaneTeam{WN_WARP}, begin(i), count(i), input, is_there);
        }
    }

    __device__ __forceinline__ Moments moments(const FusedInput<T>& input) const {
        TreeOfWarp tree;
        for (uint32_t i = 0; i < leaf.count; i++) {
            const LaneTeam team{WN_WARP};
            tree.add(moments_of_held<T, false>(held(i), team, count(i), inverse_of(input.p, count(i)), mean_square));
        }
        return merge_many(parts.exchange(tree.root()), parts.leaves);
    }

    __device__ __forceinline__ uint32_t take(const Steps& steps, const FusedInput<T>&, FusedOutput<T>& output) const {
        uint32_t amplitude = 0;
        for (uint32_t i = 0; i < leaf.count; i++) {
            HeldInShared<T> chunk = held(i);
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
__device__ __forceinline__ void fused_rows_any_shared(const WnRowsParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    PartsOfCluster parts(reinterpret_cast<Moments*>(room), leaves_of(Chunks{p.length}, p.leaf_shift));
    LeafInShared<T> mine(p, room, parts);
    for (uint64_t row = blockIdx.x / parts.blocks; row < p.rows; row += gridDim.x / parts.blocks) {
        normalize<T>(p, row, mine);
    }
    parts.end();
}

// What a warp has of a row whose every tensor comes in whole vectors (fused_batches.cuh): a leaf of it, as LeafInShared, or
// all of a row of one chunk. Of the latter a block has as many as warps, and no barrier.
template <class T>
struct LeafOfBatches {
    const WnRowsParams& p;
    PartsOfCluster& parts;
    Normalization* of_row;  // what all of the block normalize by
    HeldBatches<T> held;
    uint32_t length;
    uint32_t first;   // the lane's first vector in the row
    uint32_t behind;  // its first that is not of the leaf
    bool is_whole_row;

    __device__ __forceinline__ LeafOfBatches(const WnRowsParams& p, uint4* room, PartsOfCluster& parts)
        : p(p), parts(parts), of_row(reinterpret_cast<Normalization*>(room + p.parts_words - 1)), held(of_warp(p, room)) {
        const uint32_t lane = threadIdx.x % WN_WARP;
        const uint32_t leaf = WN_CHUNK << p.leaf_shift;
        length = static_cast<uint32_t>(p.length);
        is_whole_row = p.parts_words == 0;
        const uint32_t begin = is_whole_row ? 0 : parts.number * leaf;
        first = kept(begin + lane * kVector<T>);
        behind = kept(begin < length ? min(begin + leaf, length) + lane * kVector<T> : 0);
    }

    static __device__ __forceinline__ HeldBatches<T> of_warp(const WnRowsParams& p, uint4* room) {
        const uint32_t words = HeldBatches<T>::size(p.residual != 0) << p.leaf_shift;
        uint4* const own = room + p.parts_words + threadIdx.x / WN_WARP * words + threadIdx.x % WN_WARP;
        return HeldBatches<T>{SharedWords(own).kept(), p.leaf_shift};
    }

    // Calls for every batch, by its number and the lane's place.
    template <class Each>
    __device__ __forceinline__ void each_batch(Each each) const {
        BatchPlace<T> place{first, length};
#pragma unroll 1
        for (uint32_t batch = 0; place.at < behind; batch++, place.at += kBatch * WN_WARP) each(batch, place);
    }

    __device__ __forceinline__ void copy(uint64_t row) const {
        const T* const x = global<const T>(p.x) + row * p.x_stride;
        const T* const residual = global<const T>(p.residual) + row * p.residual_stride;
        constexpr uint32_t kWords = HeldBatches<T>::kVectors * WN_WARP;
        uint32_t words = 0;
#pragma unroll 1
        for (uint32_t at = first; at < behind; at += WN_CHUNK, words += kWords) {
            HeldBatches<T>::copy(held.stored().behind(words), x, at, behind - at, length);
            if (p.residual != 0) HeldBatches<T>::copy(held.residual().behind(words), residual, at, behind - at, length);
        }
        if (parts.blocks > 1) parts.await();
        copies_arrived();
    }

    // Of the whole row, by the warp's part of it.
    __device__ __forceinline__ Normalization normalization(const Moments& part) const {
        if (is_whole_row) return normalization_of(part, p.inverse_length, p.eps);
        const Moments* const all = parts.exchange_after_await(part);
        // One warp merges for all.
        if (threadIdx.x < WN_WARP) {
            const Moments moments = merge_many_here(all, parts.leaves);
            if (threadIdx.x == 0) *of_row = normalization_of(moments, p.inverse_length, p.eps);
        }
        __syncthreads();
        return *of_row;
    }

    __device__ __forceinline__ uint32_t largest(float amplitude) const {
        const uint32_t largest = largest_of_warp(__float_as_uint(amplitude));
        if (is_whole_row) return largest;
        return largest_of(parts.exchange_after_await(__uint_as_float(largest)), parts.leaves);
    }

    __device__ __forceinline__ void normalize(uint64_t row) const {
        copy(row);
        const BatchInput<T> input(p, row);
        const bool has_own_norm = (p.flags & WN_FLAG_POST_NORM) != 0;
        bool is_stored = true;  // what is held: x, until it changes
        bool changes = has_own_norm ? input.begins() : input.begins() || input.completes();
        Normalization by{0.0f, 1.0f, 0.0f};
        // A loop, so that the code of each step stands here once.
        for (bool is_begun = false;; is_begun = true) {
            const bool is_last = is_begun || !has_own_norm;
            // A lane has the moments of the chunk of its number, or every lane those of the only one.
            Moments part = no_moments();
            MomentsOfBatches<T> moments{p, (p.flags & WN_FLAG_MEAN_SQUARE) != 0};
            each_batch([&](uint32_t batch, const BatchPlace<T>& place) {
                float value[kBatch];
                held.read_batch(is_stored, batch, value);
                if (changes) {
                    if (is_begun) {
                        input.post_normalize(place, by, value);
                    } else {
                        input.begin(place, value);
                    }
                    if (is_last) input.complete(place, held, batch, value);
                    held.write_batch(batch, value);
                }
                const uint32_t of_chunk = batch % HeldBatches<T>::kBatches;
                moments.add(place, of_chunk == 0, value);
                if (of_chunk + 1 < HeldBatches<T>::kBatches && place.at + kBatch * WN_WARP < behind) return;
                const uint32_t begin = place.at - of_chunk * (kBatch * WN_WARP);
                const uint32_t count = min(behind - begin, static_cast<uint32_t>(WN_CHUNK));
                const Moments all = moments.moments(held, !changes, batch - of_chunk, BatchPlace<T>{begin, length}, count);
                if (p.leaf_shift == 0) {
                    part = all;
                } else if (threadIdx.x % WN_WARP == batch / HeldBatches<T>::kBatches) {
                    part = all;
                }
                moments.sums = Sums{0.0f, 0.0f};
            });
            if (p.leaf_shift != 0) part = LaneTeam{WN_WARP}.merge_all(part);
            by = normalization(part);
            is_stored = !changes;
            if (is_last) break;
            changes = true;
        }
        const BatchOutput<T> output(input, by);
        const bool is_measured = p.scaling == WN_SCALING_ROWS;
        float amplitude = 0.0f;
        each_batch([&](uint32_t batch, const BatchPlace<T>& place) {
            float value[kBatch];
            held.read_batch(is_stored, batch, value);
            output.write_sum(place, value);
            output.finish(place, value);
            if (!is_measured) return output.store(place, value);
#pragma unroll
            for (uint32_t v = 0; v < kBatchVectors<T>; v++) {
                const float of_vector = BatchOutput<T>::amplitude(v, value);
                if (place.inside(v)) amplitude = larger_magnitude(amplitude, of_vector);
            }
            held.write_batch(batch, value);
        });
        if (!is_measured) return;
        const float inverse_scale = output.scale(largest(amplitude), 0, first == 0 && first < behind);
        each_batch([&](uint32_t batch, const BatchPlace<T>& place) {
            float value[kBatch];
            held.read_batch(false, batch, value);
            output.store_by(inverse_scale, place, value);
        });
    }
};

template <class T>
__device__ __forceinline__ void fused_rows_shared(const WnRowsParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    const uint32_t leaf = WN_CHUNK << p.leaf_shift;
    const uint32_t leaves = (static_cast<uint32_t>(p.length) + leaf - 1) / WN_CHUNK >> p.leaf_shift;
    PartsOfCluster parts(reinterpret_cast<Moments*>(room), leaves);
    LeafOfBatches<T> mine(p, room, parts);
    // Of as many rows as a block has at a time, or of a part of one. The loop is the block's, and not the warp's, which perhaps
    // has no row in the end: for what all threads do alike, the compiler needs fewer instructions.
    const uint32_t at_a_time = mine.is_whole_row ? blockDim.x / WN_WARP : 1;
    uint64_t base = static_cast<uint64_t>(parts.of_blocks(blockIdx.x)) * at_a_time;
    while (base < p.rows) {
        uint64_t row = base;
        if (mine.is_whole_row) {
            row += threadIdx.x / WN_WARP;
            if (row >= p.rows) mine.behind = 0;
        }
        mine.normalize(row);
        // Mostly these were all.
        base += static_cast<uint64_t>(parts.of_blocks(kept(gridDim.x))) * at_a_time;
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

    __device__ __forceinline__ Moments moments(HeldInShared<T> held) const {
        const LaneTeam team{WN_WARP};
        TreeOfWarp tree;
        for (uint32_t chunk = 0; chunk < leaf.count; chunk++) {
            const uint32_t count = chunks.elements(leaf.first + chunk);
            bring(held, team, chunks.begin(leaf.first + chunk), count, input, false);
            const bool mean_square = (input.p.flags & WN_FLAG_MEAN_SQUARE) != 0;
            tree.add(moments_of_held<T, false>(held, team, count, inverse_of(input.p, count), mean_square));
        }
        return tree.root();
    }

    // Every element is loaded by the lane that has it before any lane of the warp writes it, so `y` may be `x`, and `sum` the
    // residual. (Off a 16-byte boundary the words that a lane loads hold its neighbours' elements too, at a leaf's end those
    // of another warp or block, perhaps written by now; those are dropped.)
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

// What a warp has of a row in memory: every so many-th leaf. A block has the whole row; or several share it, and its moments
// meet between two launches, in the workspace.
template <class T>
struct RowInMemory {
    const WnRowsParams& p;
    Chunks chunks;
    uint32_t leaves;
    uint32_t first;
    uint32_t every;
    uint64_t row;
    RoomOfWarp<T> rooms;  // of one chunk
    Moments* parts;       // two sets by turns, as PartsOfCluster has them
    uint32_t turn;

    __device__ __forceinline__ RowInMemory(const WnRowsParams& p, uint4* room, Moments* parts)
        : p(p), chunks{p.length}, leaves(leaves_of(chunks, p.leaf_shift)), rooms(p, room, 1), parts(parts), turn(0) {
        every = blockDim.x / WN_WARP * p.splits;
    }

    __device__ __forceinline__ void begin(uint64_t split) {
        row = split / p.splits;
        first = static_cast<uint32_t>(split - row * p.splits) * (blockDim.x / WN_WARP) + threadIdx.x / WN_WARP;
    }

    // Nothing is kept: a measured y is made again to be stored.
    static __device__ __forceinline__ Steps measuring() { return Steps{false, true, false}; }
    static __device__ __forceinline__ Steps storing() { return all_steps(); }

    __device__ __forceinline__ void bring(const FusedInput<T>&, bool) const {}

    __device__ __forceinline__ Moments moments(const FusedInput<T>& input) {
        Moments* const of_row = global<Moments>(p.parts) + row * leaves;
        if (p.step == WN_STEP_APPLY) return merge_leaves(of_row, leaves, next_parts());
        Moments* const all = is_done() ? of_row : next_parts();
        for (uint32_t leaf = first; leaf < leaves; leaf += every) {
            const LeafInMemory<T> mine{input, chunks, Leaf(chunks, p.leaf_shift, leaf)};
            const Moments part = mine.moments(rooms.chunk(0));
            if (threadIdx.x % WN_WARP == 0) all[leaf] = part;
        }
        if (is_done()) return no_moments();
        __syncthreads();
        return merge_many(all, leaves);
    }

    // The first of two launches leaves moments, and no more.
    __device__ __forceinline__ bool is_done() const { return p.step == WN_STEP_MOMENTS; }

    __device__ __forceinline__ uint32_t take(const Steps& steps, const FusedInput<T>& input,
                                             FusedOutput<T>& output) const {
        uint32_t amplitude = 0;
        const uint32_t mine = first < leaves ? (leaves - first + every - 1) / every : 0;
        for (uint32_t i = mine; i-- > 0;) {
            const LeafInMemory<T> leaf{input, chunks, Leaf(chunks, p.leaf_shift, first + i * every)};
            amplitude = max(amplitude, leaf.take(steps, output));
        }
        return amplitude;
    }

    __device__ __forceinline__ uint32_t largest(uint32_t amplitude) {
        Moments* const all = next_parts();
        const float part = __uint_as_float(LaneTeam{WN_WARP}.largest(amplitude));
        if (threadIdx.x % WN_WARP == 0) all[threadIdx.x / WN_WARP].count = part;
        __syncthreads();
        return largest_of(all, blockDim.x / WN_WARP);
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

// The second of two launches begins with what the first one read last, which is still in L2.
template <class T>
__device__ __forceinline__ void fused_rows_long(const WnRowsParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    WN_SHARED(Moments, parts, 2 * WN_ROWS_LEAVES);
    RowInMemory<T> mine(p, room, parts);
    const uint64_t splits = p.rows * p.splits;
    for (uint64_t done = blockIdx.x; done < splits; done += gridDim.x) {
        mine.begin(p.step == WN_STEP_APPLY ? splits - 1 - done : done);
        normalize<T>(p, mine.row, mine);
    }
}

}  // namespace wn

using namespace wn;

WN_FUSED_ROWS_KERNELS(WN_DEFINE)
