// What channels last and batch statistics have in common: sums that a thread takes in one pass, how those of many threads and
// blocks come together, and the running statistics.
//
// A thread reads several vectors at a time. The mean of the first of these is its pivot, from which it sums differences and
// their squares, of at most 64 vectors: so an outlier costs few more digits than it has in the deviation itself. From then on
// sets are parts of 16 bytes. Every order is that of numbers which follow from the tensor's size, so no bit depends on which
// block comes last.
#pragma once

#include "moments.cuh"
#include "stages.cuh"

namespace wn {

template <class T>
__device__ __forceinline__ T* tensor(uint64_t address) {
    return stretch_of<T>(address, 0, 0, 0).start;
}

// x + residual, which may be absent, of the vector at `first` of a stretch. Out of line: for what is off a 16-byte boundary.
template <class T>
__device__ __noinline__ Vector<T> load_anywhere(const T* x, const T* residual, uint64_t length, uint64_t first) {
    Vector<T> vector;
    load(as_global(x), length, first, vector.elements);
    if (residual != nullptr) add(Stretch<const T>{as_global(residual), length}, first, vector.elements);
    return vector;
}

// A set's count, its mean as a pair, and the sum of its squared deviations. One word of 16 bytes.
struct alignas(16) Part {
    float count;
    float high;
    float low;
    float m2;
};

__device__ __forceinline__ Part no_part() { return Part{0.0f, 0.0f, 0.0f, 0.0f}; }

// Of `count` numbers by the sum of their differences from a pivot, and of the squares of those. `inverse` is 1 / count.
__device__ __forceinline__ Part part_of(float count, float inverse, float pivot, float sum, float squares) {
    const float offset = product(sum, inverse);
    const float high = pivot + offset;
    return Part{count, high, (pivot - high) + offset, fused(-sum, offset, squares)};
}

// All parts of a team of lanes as one, which every lane gets: first their mean, by differences from the first of them, then
// what is left of it and the squares around it. `visit(see)` calls `see` with each part of its lane, each time in one order.
template <class Visit>
__device__ __forceinline__ Part combined(const LaneTeam& team, const Visit& visit) {
    float count = 0.0f;
    float sum = 0.0f;
    float pivot = 0.0f;
    visit([&](const Part& part) {
        if (count == 0.0f) pivot = part.high;
        count += part.count;
        sum = fused(part.count, (part.high - pivot) + part.low, sum);
    });
    const uint32_t lane = threadIdx.x % WN_WARP;
    const uint32_t first = WN_WARP - team.largest(count == 0.0f ? 0 : WN_WARP - lane);
    const float of_all = from_lane(pivot, first % WN_WARP);
    if (count != 0.0f) sum = fused(count, pivot - of_all, sum);
    team.sum(count, sum);
    const float inverse = count == 0.0f ? 0.0f : 1.0f / count;
    const float high = of_all + product(sum, inverse);
    float rest = 0.0f;
    PairSum squares{0.0f, 0.0f};
    visit([&](const Part& part) {
        const float difference = (part.high - high) + part.low;
        rest = fused(part.count, difference, rest);
        squares.add(fused(product(part.count, difference), difference, part.m2));
    });
    float m2 = squares.value();
    team.sum(rest, m2);
    if (count == 0.0f) return no_part();
    const float low = product(rest, inverse);
    return Part{count, high, low, fused(-count, product(low, low), m2)};
}

// Two parts as one (Chan, Golub and LeVeque, 1979).
__device__ __forceinline__ Part together(const Part& a, const Part& b) {
    if (a.count == 0.0f) return b;
    if (b.count == 0.0f) return a;
    const float count = a.count + b.count;
    const float share = b.count / count;
    const float difference = (b.high - a.high) + (b.low - a.low);
    const float offset = product(difference, share);
    const float high = a.high + offset;
    const float m2 = fused(product(difference, difference), product(a.count, share), a.m2 + b.m2);
    return Part{count, high, ((a.high - high) + offset) + a.low, m2};
}

// What another block has written in this launch.
__device__ __forceinline__ Part load_fresh(const Part* part) {
    const uint4 words = load_uncached(reinterpret_cast<const uint4*>(part));
    return Part{__uint_as_float(words.x), __uint_as_float(words.y), __uint_as_float(words.z), __uint_as_float(words.w)};
}

// The lanes that bring together what belongs to one of several sets; a block's threads are shared out among those.
struct Teams {
    LaneTeam team;
    uint64_t count;
    uint64_t first;
    uint32_t lane;

    __device__ __forceinline__ explicit Teams(uint32_t lanes)
        : team{lanes}, count(team.teams(blockDim.x)), first(team.number()), lane(team.lane()) {}
};

// As many lanes as there are parts, up to a warp.
__device__ __forceinline__ uint32_t lanes_for(uint64_t parts) {
    uint32_t lanes = 1;
    while (lanes < WN_WARP && lanes < parts) lanes *= 2;
    return lanes;
}

// Of what the blocks of a column have left in memory, `stride` apart: every `step`-th from `first` on, several on their way at
// once.
template <class See>
__device__ __forceinline__ void see_tiles(const Part* parts, uint64_t tiles, uint64_t stride, uint64_t first, uint64_t step,
                                          const See& see) {
    constexpr uint32_t kAtOnce = 8;
    for (uint64_t tile = first; tile < tiles; tile += kAtOnce * step) {
        Part part[kAtOnce];
#pragma unroll
        for (uint32_t k = 0; k < kAtOnce; k++) {
            part[k] = tile + k * step < tiles ? load_fresh(parts + (tile + k * step) * stride) : no_part();
        }
#pragma unroll
        for (uint32_t k = 0; k < kAtOnce; k++) see(part[k]);
    }
}

// As one, by a team of lanes of which each sees its own. Out of line: once a slab, and long.
__device__ __noinline__ inline Part combined_in_memory(uint32_t lanes, const Part* parts, uint64_t tiles, uint64_t stride,
                                                       uint64_t first, uint64_t step) {
    return combined(LaneTeam{lanes}, [&](const auto& see) { see_tiles(as_global(parts), tiles, stride, first, step, see); });
}

__device__ __forceinline__ Part combined_tiles(const Teams& teams, const Part* parts, uint64_t tiles, uint64_t stride) {
    return combined_in_memory(teams.team.lanes, parts, tiles, stride, teams.lane, teams.team.lanes);
}

// What the blocks of a cluster have, each in its copy of this shared variable; there are at most as many as lanes.
__device__ __forceinline__ Part combined_blocks(const Teams& teams, const Part* shared, uint64_t blocks) {
    Part part = no_part();
    if (teams.lane < blocks) {
        part = Part{cluster::load(&shared->count, teams.lane), cluster::load(&shared->high, teams.lane),
                    cluster::load(&shared->low, teams.lane), cluster::load(&shared->m2, teams.lane)};
    }
    return combined(teams.team, [&](const auto& see) { see(part); });
}

// Whether this block is the last of `blocks` to arrive, all of whose writes it then sees. All threads get the answer. The
// counter is zero again afterwards.
__device__ __forceinline__ bool is_last(uint64_t counters, uint64_t which, uint32_t blocks, uint32_t* scratch) {
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) scratch[0] = atomicInc(global<uint32_t>(counters) + which, blocks - 1);
    __syncthreads();
    const bool last = scratch[0] == blocks - 1;
    __threadfence();
    // The scratch may be used again.
    __syncthreads();
    return last;
}

__device__ __forceinline__ Normalization normalization_of(const Part& part, float eps) {
    const float rstd = reciprocal_deviation(part.m2 / part.count, eps);
    return Normalization{part.high, rstd, product(-part.low, rstd)};
}

// The share of this batch in the running statistics; of no use where there are none.
__device__ __forceinline__ float share_of_batch(const WnRunning& running, uint32_t flags) {
    if (running.mean == 0 || (flags & WN_FLAG_CUMULATIVE) == 0) return running.momentum;
    return 1.0f / static_cast<float>(global<const int64_t>(running.num_batches_tracked)[0] + 1);
}

// Moves a channel's running statistics, if there are any.
__device__ __forceinline__ void move_running(const WnRunning& running, uint64_t channel, const Part& batch, float share) {
    if (running.mean == 0) return;
    float* mean = global<float>(running.mean) + channel;
    float* variance = global<float>(running.var) + channel;
    const float unbiased = (batch.m2 < 0.0f ? 0.0f : batch.m2) / static_cast<float>(running.values - 1);
    *mean = fused(share, batch.high + batch.low, product(1.0f - share, *mean));
    *variance = fused(share, unbiased, product(1.0f - share, *variance));
}

// Counts the batch, once. Whoever reads the number of those so far must have done so: that is known when the last of `columns`
// arrives.
__device__ __forceinline__ void count_batch(const WnRunning& running, uint32_t flags, uint64_t counters, uint64_t column,
                                            uint64_t columns, uint32_t* scratch) {
    if (running.num_batches_tracked == 0) return;
    const bool is_read = (flags & WN_FLAG_CUMULATIVE) != 0;
    const bool counts = is_read ? is_last(counters, WN_COUNTERS - 1, static_cast<uint32_t>(columns), scratch) : column == 0;
    if (counts && threadIdx.x == 0) global<int64_t>(running.num_batches_tracked)[0] += 1;
}

}  // namespace wn
