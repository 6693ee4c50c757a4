// Rows: moments over one contiguous stretch. LayerNorm, RMSNorm, and GroupNorm and InstanceNorm in NCHW. What the kernels of
// rows.cu, fused_rows.cu and head_rows.cu have in common: who holds what of a row, and how its moments come about.
//
// A chunk is 1,024 elements of a row. Its moments are those of a warp, by one sweep about a pivot: c = mean(s - pivot) and
// Q = sum((s - pivot)^2) together. The pivot is the mean of four of the chunk's elements, a quarter of its lanes apart; where
// it turns out to lie further from the mean than the chunk's deviation, or nearly so, the sweep is made once more about
// pivot + c. The pair (pivot, c) is the mean to twice the precision of f32, so a constant row gives exactly the bias, and a
// mean of 1e4 beside a deviation of 1 costs nothing. The moments of a row are those of its chunks, merged along the binary tree
// over their numbers. Who does how much of that tree makes no difference to the result: a row's bits depend neither on the
// regime, the cluster or the device, nor on the other rows, nor on its address.
#pragma once

#include "moments.cuh"
#include "stages.cuh"

namespace wn {

// Of a pivot whose distance from the mean, squared, is more than so many variances. A sum's rounding errors are a part of that
// distance, and sum((s - pivot)^2) is three times the squares about the mean at most, so both moments stay within the bound.
constexpr float kFarPivot = 2.0f;

// What a lane of a team holds of a row: vectors k * lanes + lane, in registers. Past its end stand zeros.
template <class T, uint32_t kElements>
struct HeldInRegisters {
    // All loops over them: registers have no index at run time.
    static constexpr uint32_t kVectors = kElements / kVector<T>;
    static constexpr uint32_t kUnrolled = kVectors;
    static constexpr uint32_t kMomentsUnrolled = kVectors;
    static constexpr uint32_t kFullUnrolled = kVectors;
    static constexpr uint32_t kWriteUnrolled = 0;
    float value[kVectors][kVector<T>];

    static __device__ __forceinline__ uint32_t vectors(uint32_t) { return kVectors; }

    __device__ __forceinline__ void read(uint32_t k, float (&out)[kVector<T>]) const {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) out[e] = value[k][e];
    }
};

// The same in shared memory, in f32. A lane reads only what it wrote itself. Loops over it are as short as they are: all that
// may surround a norm, unrolled, is large.
template <class T, uint32_t kElements>
struct HeldByTeam {
    static constexpr uint32_t kVectors = kElements / kVector<T>;
    static constexpr uint32_t kUnrolled = 1;
    static constexpr uint32_t kMomentsUnrolled = 1;
    static constexpr uint32_t kFullUnrolled = 1;
    static constexpr uint32_t kWords = kVector<T> / 4;                                       // of a vector
    static constexpr uint32_t kRoom = WN_ROWS_GROUP_THREADS * kElements / kVector<float>;  // of a block
    uint4* words;  // of the lane, one in every WN_WARP

    static __device__ __forceinline__ HeldByTeam in(uint4* room) {
        return HeldByTeam{room + threadIdx.x / WN_WARP * (WN_WARP * kElements / kVector<float>) + threadIdx.x % WN_WARP};
    }

    static __device__ __forceinline__ uint32_t vectors(uint32_t) { return kVectors; }

    __device__ __forceinline__ void read(uint32_t k, float (&out)[kVector<T>]) const {
#pragma unroll
        for (uint32_t w = 0; w < kWords; w++) unpack<float>(words[(k * kWords + w) * WN_WARP], out + w * 4);
    }

    __device__ __forceinline__ void write(uint32_t k, const float (&in)[kVector<T>]) const {
#pragma unroll
        for (uint32_t w = 0; w < kWords; w++) words[(k * kWords + w) * WN_WARP] = pack<float>(in + w * 4);
    }
};

// The same of a chunk, by all lanes of a warp.
template <class T>
struct HeldInShared : HeldByTeam<T, WN_CHUNK / WN_WARP> {
    static constexpr uint32_t kMomentsUnrolled = 2;
    static constexpr uint32_t kFullUnrolled = 2;

    static __device__ __forceinline__ uint32_t vectors(uint32_t count) {
        return (count + WN_WARP * kVector<T> - 1) / (WN_WARP * kVector<T>);
    }
};

// Of a chunk's count. Known beforehand: a division is many instructions.
__device__ __forceinline__ float inverse_of(const WnRowsParams& p, uint32_t count) {
    return count == WN_CHUNK ? 1.0f / WN_CHUNK : p.inverse_rest;
}

// Whether all teams of a warp have all that they can hold: then no vector need be asked whether it is there.
template <class T, class Held>
__device__ __forceinline__ bool is_full(const LaneTeam& team, uint32_t count) {
    return !any_lane(count < team.lanes * Held::kVectors * kVector<T>);
}

// What one sweep finds: sum(s - pivot) and sum((s - pivot)^2) of the `count` elements that a team of lanes holds; without
// kCentered, sum(s^2) alone. kWhole: in whole vectors; kFull: in all of them.
template <class T, bool kWhole, bool kFull, bool kCentered, class Held>
__device__ __forceinline__ Sums sums_of_held(const Held& held, const LaneTeam& team, uint32_t count, float pivot) {
    Sums sums{0.0f, 0.0f};
#pragma unroll(kFull ? Held::kFullUnrolled : Held::kMomentsUnrolled)
    for (uint32_t k = 0; k < (kFull ? Held::kVectors : Held::vectors(count)); k++) {
        const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
        if (kWhole && !kFull && first >= count) continue;
        float difference[kVector<T>];
        held.read(k, difference);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
            if (kCentered) difference[e] -= pivot;
            if (!kWhole && !kFull && first + e >= count) difference[e] = 0.0f;
        }
        if (kCentered) sums.first += tree_sum(difference);
        sums.squares += tree_sum_of_squares(difference);
    }
    if (kCentered) {
        team.sum(sums.first, sums.squares);
    } else {
        sums.squares = team.sum(sums.squares);
    }
    return sums;
}

// Near the mean, mostly: the mean of four elements, a quarter of the lanes apart, the first ones of their vectors. The same in
// every lane, and where all four are equal, exactly they.
template <class T, bool kWhole, class Held>
__device__ __forceinline__ float pivot_of_held(const Held& held, const LaneTeam& team, uint32_t count) {
    float first[kVector<T>] = {};
    if (!kWhole || team.lane() * kVector<T> < count) held.read(0, first);
    float pivot = first[0];
#pragma unroll
    for (uint32_t part = 2; part <= 4; part *= 2) {
        const uint32_t apart = team.lanes / part;
        const float other = from_lane_xor(pivot, apart);
        // Of lanes that have an element; in a team of so few lanes, the lane itself.
        if ((team.lane() ^ apart) * kVector<T> < count) pivot = fused(other - pivot, 0.5f, pivot);
    }
    return team.of_first(pivot);
}

// The moments of the `count` elements that a team of lanes holds. kWhole: in whole vectors.
template <class T, bool kWhole, class Held>
__device__ __forceinline__ Moments moments_of_held(const Held& held, const LaneTeam& team, uint32_t count,
                                                   float inverse, bool mean_square) {
    const float n = static_cast<float>(count);
    const bool full = is_full<T, Held>(team, count);
    if (mean_square) {
        const Sums sums = full ? sums_of_held<T, kWhole, true, false>(held, team, count, 0.0f)
                               : sums_of_held<T, kWhole, false, false>(held, team, count, 0.0f);
        return Moments{n, {0.0f, 0.0f}, {sums.squares, 0.0f}};
    }
    float pivot = pivot_of_held<T, kWhole>(held, team, count);
    // A loop, so that the sweep's code stands here once.
#pragma unroll 1
    for (bool is_again = false;; is_again = true) {
        const Sums sums = full ? sums_of_held<T, kWhole, true, true>(held, team, count, pivot)
                               : sums_of_held<T, kWhole, false, true>(held, team, count, pivot);
        const float rest = product(sums.first, inverse);
        const float m2 = fused(-sums.first, rest, sums.squares);
        const bool is_near = product(sums.first, rest) <= kFarPivot * m2;
        if (is_again || !any_lane(!is_near && count > 0)) {
            PairSum mean{pivot, 0.0f};
            mean.add(rest);
            return Moments{n, mean, {m2, 0.0f}};
        }
        if (!is_near) pivot += rest;
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

// Of which there are at most WN_ROWS_LEAVES in a row, and WN_ROWS_SUBTREES times as many where blocks share it.
__device__ __forceinline__ uint32_t leaves_of(const Chunks& chunks, uint32_t shift) {
    return static_cast<uint32_t>((chunks.count() + (1ull << shift) - 1) >> shift);
}

// One vector of each lane of a warp, of rows that perhaps begin off a 16-byte boundary. There a vector lies in two aligned
// words, and the second is the next lane's first: so each lane writes one whole word, of the last elements of the lane before
// and the first of its own. What is left at both ends of a team's lanes goes element by element. In place that is right: the
// shuffle has what every lane made of what it had loaded, before any lane writes. Out of line, as load_irregular.
template <class T>
__device__ __noinline__ void store_shifted(T* stretch, uint64_t length, uint64_t first, uint32_t lanes, bool inside,
                                           uint4 words) {
    stretch = as_global(stretch);
    const uint32_t shift = static_cast<uint32_t>(reinterpret_cast<uintptr_t>(stretch) & 15u);
    const uint32_t lane = threadIdx.x & (lanes - 1);
    const bool is_whole = inside && first + kVector<T> <= length;
    const uint32_t before = (threadIdx.x + WN_WARP - 1) % WN_WARP;
    const uint32_t behind = (threadIdx.x + 1) % WN_WARP;
    const bool next_is_whole = from_lane(is_whole ? 1u : 0u, behind) != 0 && lane + 1 < lanes;
    uint32_t word[8] = {from_lane(words.x, before), from_lane(words.y, before), from_lane(words.z, before),
                        from_lane(words.w, before), words.x, words.y, words.z, words.w};
    if (!inside) return;

    // The word begins `shift` bytes before the vector; conditional steps, since registers have no index at run time.
    const uint32_t skipped = 16 - shift;
    if (skipped & 16u) {
#pragma unroll
        for (int i = 0; i < 4; i++) word[i] = word[i + 4];
    }
    if (skipped & 8u) {
#pragma unroll
        for (int i = 0; i < 6; i++) word[i] = word[i + 2];
    }
    if (skipped & 4u) {
#pragma unroll
        for (int i = 0; i < 5; i++) word[i] = word[i + 1];
    }
    if (skipped & 2u) {
#pragma unroll
        for (int i = 0; i < 4; i++) word[i] = (word[i] >> 16) | (word[i + 1] << 16);
    }
    const bool writes_word = is_whole && (lane > 0 || shift == 0);
    if (writes_word) {
        const uintptr_t begin = reinterpret_cast<uintptr_t>(stretch + first) - shift;
        *global<uint4>(begin) = uint4{word[0], word[1], word[2], word[3]};
    }
    if (writes_word && (next_is_whole || shift == 0)) return;
    Words<T> own;
    own.words = words;
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) {
        const bool is_of_own_word = e < skipped / sizeof(T);
        const bool is_written = is_of_own_word ? writes_word : next_is_whole;
        if (!is_written && first + e < length) stretch[first + e] = own.elements[e];
    }
}

// The rows that a warp writes, which are perhaps absent: all lanes together.
struct RowWriter {
    uint32_t lanes;
    bool shifts;  // one of them begins off a boundary

    __device__ __forceinline__ RowWriter(const LaneTeam& team, const void* row, const void* other)
        : lanes(team.lanes), shifts(any_lane(!aligned_16(row) || !aligned_16(other))) {}

    template <class T>
    __device__ __forceinline__ void write(T* row, uint64_t length, uint64_t first, bool inside,
                                          const float (&value)[kVector<T>]) const {
        if (row == nullptr) return;
        if (shifts) return store_shifted(row, length, first, lanes, inside, pack<T>(value));
        if (inside) store(row, length, first, value);
    }
};

template <class T>
__device__ __forceinline__ T* row_at(uint64_t address, uint64_t row, uint64_t stride) {
    return address == 0 ? nullptr : global<T>(address) + row * stride;
}

__device__ __forceinline__ Normalization normalization_of(const Moments& moments, float inverse_length, float eps) {
    const float variance = product(moments.m2.value(), inverse_length);
    const float rstd = reciprocal_deviation(variance, eps);
    // Finite, for a rest of zero shifts by zero also where rstd is infinite: without eps, where squares are zero.
    const float factor = fminf(rstd, 0x1.fffffep127f);
    return Normalization{moments.mean.high, rstd, product(-moments.mean.low, factor)};
}

// Weight and bias by the position in the row, their types by the flags.
template <class T>
__device__ __forceinline__ void load_affine(uint64_t weight, uint64_t bias, uint32_t flags, uint64_t length, uint64_t first,
                                            float (&w)[kVector<T>], float (&b)[kVector<T>]) {
    Coefficients<T>{weight, (flags & WN_FLAG_WEIGHT_F32) != 0}.load(length, first, 1.0f, w);
    Coefficients<T>{bias, (flags & WN_FLAG_BIAS_F32) != 0}.load(length, first, 0.0f, b);
    if (flags & WN_FLAG_WEIGHT_PLUS_ONE) {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) w[e] += 1.0f;
    }
}

// What the warps of a row's blocks leave for each other in the shared memory of all of them: two sets of parts by turns, so
// that one barrier is enough. A warp that is two turns ahead of another has passed a barrier that the other passed only after
// its reads.
struct PartsOfCluster {
    Moments* parts;
    uint32_t blocks;
    uint32_t number;  // of the warp, in all blocks
    uint32_t leaves;  // those that have a part
    uint32_t turn = 0;
    bool begun;

    // Nobody may write into a block that has not begun.
    __device__ __forceinline__ PartsOfCluster(Moments* parts, uint32_t leaves)
        : parts(parts), blocks(cluster::size()), leaves(leaves), begun(blocks == 1) {
        number = cluster::rank() * (blockDim.x / WN_WARP) + threadIdx.x / WN_WARP;
        if (blocks > 1) cluster::begin();
    }

    // Returns where all of them are.
    __device__ __forceinline__ const Moments* exchange(const Moments& part) {
        turn ^= 1u;
        return exchange(part, turn);
    }

    // The same where the caller counts the turns.
    __device__ __forceinline__ const Moments* exchange(const Moments& part, uint32_t turn) {
        await();
        Moments* const all = of_turn(turn);
        if (number < leaves) publish(all + number, part);
        meet();
        return all;
    }

    // Before exchanges of those who need not be asked each time.
    __device__ __forceinline__ void await() {
        if (!begun) cluster::wait();
        begun = true;
    }

    __device__ __forceinline__ const Moments* exchange_after_await(const Moments& part) {
        turn ^= 1u;
        Moments* const all = of_turn(turn);
        if (number < leaves) publish(all + number, part);
        meet();
        return all;
    }

    // The same of one number, which stands in the place of the count.
    __device__ __forceinline__ const Moments* exchange_after_await(float part) {
        turn ^= 1u;
        Moments* const all = of_turn(turn);
        if (number < leaves) {
            const uint32_t lane = threadIdx.x % WN_WARP;
            float* const place = &all[number].count;
            if (blocks == 1) {
                if (lane == 0) *place = part;
            } else if (lane < blocks) {
                cluster::store(place, lane, part);
            }
        }
        meet();
        return all;
    }

    // Of so many blocks, the clusters. (A division is many instructions, and mostly a cluster is one block.)
    __device__ __forceinline__ uint32_t of_blocks(uint32_t count) const { return blocks == 1 ? count : count / blocks; }

    // Only if there was no row: else another block could still be told to wait for this one.
    __device__ __forceinline__ void end() const {
        if (!begun) cluster::wait();
    }

private:
    __device__ __forceinline__ Moments* of_turn(uint32_t turn) const {
        return parts + (turn & 1u) * blocks * (blockDim.x / WN_WARP);
    }

    __device__ __forceinline__ void meet() const {
        if (blocks == 1) {
            __syncthreads();
        } else {
            cluster::arrive();
            cluster::wait();
        }
    }

    // Leaves a part for every block of the cluster, at the same place in its shared memory.
    __device__ __forceinline__ void publish(Moments* place, const Moments& part) const {
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
};

// The largest of numbers that were left in the place of counts, by their bits.
__device__ __forceinline__ uint32_t largest_of(const Moments* parts, uint32_t count) {
    uint32_t result = 0;
    // Mostly one for each lane.
#pragma unroll 1
    for (uint32_t i = threadIdx.x % WN_WARP; i < count; i += WN_WARP) {
        result = max(result, __float_as_uint(parts[i].count));
    }
    return largest_of_warp(result);
}

// What a warp has of the dynamic shared memory behind the parts: room for some chunks.
template <class T>
struct RoomOfWarp {
    static constexpr uint32_t kWordsOfChunk = WN_CHUNK / kVector<float>;
    uint4* own;  // of the lane

    __device__ __forceinline__ RoomOfWarp(const WnRowsParams& p, uint4* room, uint32_t chunks)
        : own(room + p.parts_words + threadIdx.x / WN_WARP * chunks * kWordsOfChunk + threadIdx.x % WN_WARP) {}

    __device__ __forceinline__ HeldInShared<T> chunk(uint32_t number) const {
        return HeldInShared<T>{{own + number * kWordsOfChunk}};
    }
};

// The moments of a row whose leaves are in the workspace: the warps of a block merge subtrees, and then each of them those of
// all. Of all threads; `subtrees` has room for WN_ROWS_SUBTREES.
__device__ __forceinline__ Moments merge_leaves(const Moments* of_row, uint32_t leaves, Moments* subtrees) {
    const uint32_t count = (leaves + WN_ROWS_LEAVES - 1) / WN_ROWS_LEAVES;
    for (uint32_t subtree = threadIdx.x / WN_WARP; subtree < count; subtree += blockDim.x / WN_WARP) {
        const uint32_t first = subtree * WN_ROWS_LEAVES;
        const Moments part = merge_many(of_row + first, min(leaves - first, static_cast<uint32_t>(WN_ROWS_LEAVES)));
        if (threadIdx.x % WN_WARP == 0) subtrees[subtree] = part;
    }
    __syncthreads();
    return merge_few(subtrees, count);
}

}  // namespace wn
