// Sums and moments, and the teams of threads that share them.
#pragma once

#include "device.cuh"

namespace wn {

// The sum over neighbouring elements as a balanced tree: short error paths and no chain of dependent additions.
template <uint32_t kCount>
__device__ __forceinline__ float tree_sum(const float (&in)[kCount]) {
    float level[kCount];
#pragma unroll
    for (uint32_t i = 0; i < kCount; i++) level[i] = in[i];
#pragma unroll
    for (uint32_t width = kCount / 2; width > 0; width /= 2) {
#pragma unroll
        for (uint32_t i = 0; i < width; i++) level[i] += level[i + width];
    }
    return level[0];
}

// The same of their squares.
template <uint32_t kCount>
__device__ __forceinline__ float tree_sum_of_squares(const float (&in)[kCount]) {
    float level[kCount / 2];
#pragma unroll
    for (uint32_t i = 0; i < kCount / 2; i++) level[i] = fused(in[i + kCount / 2], in[i + kCount / 2], product(in[i], in[i]));
    return tree_sum(level);
}

// A sum as an unevaluated pair: adding to it loses nothing, however long it goes on. Not a luxury: where the terms are
// equal, as in a row that repeats itself, the rounding errors of a plain sum are equal too, in every lane, and add up.
struct PairSum {
    float high;
    float low;

    __device__ __forceinline__ void add(float term) {
        // Knuth's two-sum: high + low == the old high + term exactly.
        const float sum = high + term;
        const float taken = sum - high;
        low += (high - (sum - taken)) + (term - taken);
        high = sum;
    }

    // Of an infinite sum the remainder is NaN and means nothing.
    __device__ __forceinline__ float value() const { return high - high == 0.0f ? high + low : high; }
};

// Of numbers, and of their squares.
struct Sums {
    float first;
    float squares;
};

// Count, mean and sum of squared deviations of a set of numbers. The mean is a pair, so that a mean of 1e4 beside
// a deviation of 1 costs nothing of the deviation's precision.
struct Moments {
    float count;
    PairSum mean;
    PairSum m2;
};

__device__ __forceinline__ Moments no_moments() { return Moments{0.0f, {0.0f, 0.0f}, {0.0f, 0.0f}}; }

// The moments of two disjoint sets together (Chan, Golub and LeVeque, 1979). Not symmetric in its rounding: callers
// keep the order of the arguments fixed, or two lanes that should agree would not.
__device__ __forceinline__ Moments merge(const Moments& a, const Moments& b) {
    if (b.count == 0.0f) return a;
    if (a.count == 0.0f) return b;
    Moments both = a;
    both.count += b.count;
    // Mostly they are of one size. (A division is many instructions, and a call.)
    const float share = a.count == b.count ? 0.5f : b.count / both.count;
    const float delta = (b.mean.high - a.mean.high) + (b.mean.low - a.mean.low);
    both.mean.add(product(delta, share));
    both.m2.add(b.m2.high);
    both.m2.add(product(product(delta, delta), product(a.count, share)));
    both.m2.low += b.m2.low;
    return both;
}

// `lanes` neighbouring lanes of a warp, a power of two. Sums are butterflies: every lane ends with the same bits.
struct LaneTeam {
    uint32_t lanes;

    __device__ __forceinline__ uint32_t lane() const { return threadIdx.x & (lanes - 1); }

    // Of so many threads, and of this one among the block's.
    __device__ __forceinline__ uint32_t teams(uint32_t threads) const { return threads >> __popc(lanes - 1); }
    __device__ __forceinline__ uint32_t number() const { return teams(threadIdx.x); }

    __device__ __forceinline__ float of_first(float value) const {
        return from_lane(value, threadIdx.x % WN_WARP & ~(lanes - 1));
    }

    __device__ __forceinline__ float sum(float value) const {
        for (uint32_t mask = lanes / 2; mask > 0; mask /= 2) value += from_lane_xor(value, mask);
        return value;
    }

    __device__ __forceinline__ void sum(float& first, float& second) const {
        for (uint32_t mask = lanes / 2; mask > 0; mask /= 2) {
            first += from_lane_xor(first, mask);
            second += from_lane_xor(second, mask);
        }
    }

    __device__ __forceinline__ uint32_t largest(uint32_t value) const {
        for (uint32_t mask = lanes / 2; mask > 0; mask /= 2) value = max(value, from_lane_xor(value, mask));
        return value;
    }

    // Neighbours first: the aligned binary tree over the lanes. The two are put in order before they are merged: it is one merge
    // then, and not one for each order, of which a warp would go through both.
    __device__ __forceinline__ Moments merge_all(Moments mine) const {
#pragma unroll 1
        for (uint32_t mask = 1; mask < lanes; mask *= 2) {
            const bool is_right = (threadIdx.x & mask) != 0;
            const auto left = [&](float own, float other) { return is_right ? other : own; };
            const auto right = [&](float own, float other) { return is_right ? own : other; };
            const Moments other{from_lane_xor(mine.count, mask),
                                {from_lane_xor(mine.mean.high, mask), from_lane_xor(mine.mean.low, mask)},
                                {from_lane_xor(mine.m2.high, mask), from_lane_xor(mine.m2.low, mask)}};
            const Moments first{left(mine.count, other.count),
                                {left(mine.mean.high, other.mean.high), left(mine.mean.low, other.mean.low)},
                                {left(mine.m2.high, other.m2.high), left(mine.m2.low, other.m2.low)}};
            const Moments second{right(mine.count, other.count),
                                 {right(mine.mean.high, other.mean.high), right(mine.mean.low, other.mean.low)},
                                 {right(mine.m2.high, other.m2.high), right(mine.m2.low, other.m2.low)}};
            mine = merge(first, second);
        }
        return mine;
    }
};

// The root of an aligned binary tree whose leaves come one after another: merge(a, b) of every two that begin at an even
// number, of every two of those, and so on, in whatever warp. For all lanes of a warp together, which must agree.
struct TreeOfWarp {
    Moments pending = no_moments();  // of lane j: the subtree of 2^j leaves that waits for its right half
    uint32_t leaves = 0;

    __device__ __forceinline__ Moments waiting(uint32_t level) const {
        return Moments{from_lane(pending.count, level),
                       {from_lane(pending.mean.high, level), from_lane(pending.mean.low, level)},
                       {from_lane(pending.m2.high, level), from_lane(pending.m2.low, level)}};
    }

    __device__ __forceinline__ void add(Moments subtree) {
        uint32_t level = 0;
        for (; (leaves >> level & 1u) != 0; level++) subtree = merge(waiting(level), subtree);
        if (threadIdx.x % WN_WARP == level) pending = subtree;
        leaves++;
    }

    // Of a tree that ends within its last leaves: what is missing leaves the other half as it is.
    __device__ __forceinline__ Moments root() const {
        Moments subtree = no_moments();
        for (uint32_t level = 0; leaves >> level != 0; level++) {
            if ((leaves >> level & 1u) != 0) subtree = merge(waiting(level), subtree);
        }
        return subtree;
    }
};

__device__ __forceinline__ Moments leaf_at(const Moments* leaves, uint32_t count, uint32_t index) {
    return index < count ? leaves[index] : no_moments();
}

// The root of a tree over `count` leaves, up to those of a warp; the same in every lane.
__device__ __forceinline__ Moments merge_few_here(const Moments* leaves, uint32_t count) {
    uint32_t lanes = 1;
    while (lanes < count) lanes *= 2;
    const LaneTeam team{lanes};
    return team.merge_all(leaf_at(leaves, count, team.lane()));
}

// The same of up to WN_ROWS_LEAVES leaves: each lane merges eight of its own first.
__device__ __forceinline__ Moments merge_many_here(const Moments* leaves, uint32_t count) {
    static_assert(WN_ROWS_LEAVES == 8 * WN_WARP, "eight leaves for each lane");
    if (count <= WN_WARP) return merge_few_here(leaves, count);
    const LaneTeam team{WN_WARP};
    // A loop, so that the code is that of three merges and not of seven: subtrees of one, two and four leaves wait for their
    // other half.
    Moments one = no_moments(), two = no_moments(), four = no_moments(), subtree = no_moments();
#pragma unroll 1
    for (uint32_t i = 0; i < 8; i++) {
        subtree = leaf_at(leaves, count, team.lane() * 8 + i);
        if ((i & 1u) == 0) {
            one = subtree;
            continue;
        }
        subtree = merge(one, subtree);
        if ((i & 2u) == 0) {
            two = subtree;
            continue;
        }
        subtree = merge(two, subtree);
        if ((i & 4u) == 0) four = subtree;
    }
    return team.merge_all(merge(four, subtree));
}

// Both out of line, for kernels that have them at several places.
__device__ __noinline__ inline Moments merge_few(const Moments* leaves, uint32_t count) { return merge_few_here(leaves, count); }
__device__ __noinline__ inline Moments merge_many(const Moments* leaves, uint32_t count) { return merge_many_here(leaves, count); }

// 1 / sqrt(variance + eps), correctly rounded, with the variance clamped at zero. Written so that NaN stays NaN.
__device__ __forceinline__ float reciprocal_deviation(float variance, float eps) {
    return __frsqrt_rn((variance < 0.0f ? 0.0f : variance) + eps);
}

}  // namespace wn
