// Moments of channels that lie between each other in memory, and how the blocks that share a tensor bring theirs together.
//
// A slab is [pixels, channels], walked as vectors from its start. After a period of vectors, the least number of them that
// is a whole number of pixels, the channels repeat. So a thread whose vectors lie whole periods apart has the same channels
// in all of them, whatever the number of channels: where a vector spans several, or several pixels, its elements are slots
// of their own, and meet the other slots of their group only at the end.
//
//     block     a strip of at most 256 positions of a period, times as many rounds (periods) as fit beside each other
//     tile      the rounds of a block, some in flight at once
//     partial   per tile, strip and group: what the block found
//
// Tiles are cut by the slab's size alone. What the last block of a column of blocks merges, it merges in the order of their
// numbers, so no bit depends on which was the last.
#pragma once

#include "moments.cuh"
#include "stages.cuh"

namespace wn {

// Where a block is in a tensor of slabs.
struct SlabPlace {
    uint64_t column;
    uint64_t tile;
    uint32_t strip;

    __device__ __forceinline__ SlabPlace(const WnSlabGeometry& g, uint64_t block) {
        strip = static_cast<uint32_t>(block % g.strips);
        tile = block / g.strips % g.tiles;
        column = block / g.strips / g.tiles;
    }
};

// The part of a block that a thread has: a position of the strip, and every `rows`-th round. `active` is false for the
// threads that are left over.
struct SlabThread {
    uint32_t width;  // positions of this strip
    uint32_t rows;
    uint32_t position;
    uint32_t row;
    bool active;

    __device__ __forceinline__ SlabThread(const WnSlabGeometry& g, uint32_t strip) {
        const uint32_t first = strip * g.strip;
        width = g.period - first < g.strip ? g.period - first : g.strip;
        rows = blockDim.x / width;
        position = threadIdx.x % width;
        row = threadIdx.x / width;
        active = row < rows;
    }
};

// Elements in flight for each slot.
constexpr uint32_t kRoundsInFlight = 4;

// What a thread finds in its rounds of one tile of a slab, slot by slot.
// `load` reads a vector of the slab.
template <class T, class Load>
__device__ __forceinline__ void slot_moments(const WnSlabGeometry& g, const Load& load, const SlabPlace& place,
                                             const SlabThread& thread, Moments (&slot)[kVector<T>]) {
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) slot[e] = no_moments();
    if (!thread.active) return;
    const uint64_t period = static_cast<uint64_t>(g.period) * kVector<T>;
    const uint64_t offset = (static_cast<uint64_t>(place.strip) * g.strip + thread.position) * kVector<T>;
    const uint64_t end = (place.tile + 1) * g.tile_rounds;
    for (uint64_t round = place.tile * g.tile_rounds + thread.row; round < end; round += kRoundsInFlight * thread.rows) {
        float value[kRoundsInFlight][kVector<T>];
#pragma unroll
        for (uint32_t k = 0; k < kRoundsInFlight; k++) {
            const uint64_t at = round + k * thread.rows;
            const uint64_t first = at * period + offset;
            if (at < end && first < g.length) {
                load(first, value[k]);
            } else {
#pragma unroll
                for (uint32_t e = 0; e < kVector<T>; e++) value[k][e] = 0.0f;
            }
        }
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
            // Rounds end for all at the same one, but for elements past the end of the slab.
            uint32_t count = 0;
            float column[kRoundsInFlight];
#pragma unroll
            for (uint32_t k = 0; k < kRoundsInFlight; k++) {
                const uint64_t at = round + k * thread.rows;
                count += at < end && at * period + offset + e < g.length ? 1 : 0;
                column[k] = value[k][e];
            }
            if (count > 0) slot[e] = merge(slot[e], moments_of(column, count));
        }
    }
}

// All slots of a block, in shared memory: first of every thread, then merged over its rows.
template <class T>
struct SlotScratch {
    Moments of[WN_SLAB_THREADS * kVector<T>];
};

template <class T>
__device__ __forceinline__ void merge_rows(SlotScratch<T>* scratch, const SlabThread& thread,
                                           Moments (&slot)[kVector<T>]) {
    const auto store = [&] {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
            if (thread.active) scratch->of[(thread.row * thread.width + thread.position) * kVector<T> + e] = slot[e];
        }
    };
    store();
    __syncthreads();
    uint32_t reach = 1;
    while (reach < thread.rows) reach *= 2;
    for (reach /= 2; reach > 0; reach /= 2) {
        const uint32_t other = thread.row + reach;
        const bool merges = thread.active && thread.row < reach && other < thread.rows;
        if (merges) {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) {
                slot[e] = merge(slot[e], scratch->of[(other * thread.width + thread.position) * kVector<T> + e]);
            }
        }
        // What is overwritten next was read above by nobody else.
        if (merges) store();
        __syncthreads();
    }
}

// The lanes that merge what belongs to one group, several groups a warp if they are few. All threads of the block must
// take part in every turn.
struct GroupTeams {
    LaneTeam team;
    uint64_t teams;
    uint64_t first;
    uint32_t lane;

    __device__ __forceinline__ explicit GroupTeams(uint64_t members) : team{1} {
        while (team.lanes < WN_WARP && team.lanes < members) team.lanes *= 2;
        teams = blockDim.x / team.lanes;
        first = threadIdx.x / team.lanes;
        lane = threadIdx.x % team.lanes;
    }
};

// Merges the slots of each group and writes them as this block's partials.
template <class T>
__device__ __forceinline__ void write_partials(const WnSlabGeometry& g, const SlotScratch<T>* scratch,
                                               const SlabPlace& place, const SlabThread& thread, uint64_t sample) {
    const uint64_t period = static_cast<uint64_t>(g.period) * kVector<T>;
    const uint64_t first_element = static_cast<uint64_t>(place.strip) * g.strip * kVector<T>;
    const uint64_t channels = g.channels.divisor;
    const uint64_t members = period / channels * g.channels_per_group;
    Moments* partials = global<Moments>(g.partials) +
                        ((sample * g.tiles + place.tile) * g.strips + place.strip) * g.groups;
    const GroupTeams groups(members);
    for (uint64_t base = 0; base < g.groups; base += groups.teams) {
        const uint64_t group = base + groups.first;
        Moments mine = no_moments();
        if (group < g.groups) {
            for (uint64_t member = groups.lane; member < members; member += groups.team.lanes) {
                const uint64_t pixel = member / g.channels_per_group;
                const uint64_t element = pixel * channels + group * g.channels_per_group + member % g.channels_per_group;
                // In another strip, perhaps.
                const uint64_t place_of = element - first_element;
                if (element >= first_element && place_of < thread.width * kVector<T>) {
                    mine = merge(mine, scratch->of[place_of]);
                }
            }
        }
        mine = groups.team.merge_all(mine);
        if (groups.lane == 0 && group < g.groups) partials[group] = mine;
    }
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

// The partials of one group over the parts of a tensor, `stride` apart, by the lanes of a team.
__device__ __forceinline__ Moments merged_partials(const Moments* partials, uint64_t parts, uint64_t stride,
                                                   const LaneTeam& team, uint32_t lane) {
    Moments mine = no_moments();
    for (uint64_t part = lane; part < parts; part += team.lanes) mine = merge(mine, partials[part * stride]);
    return team.merge_all(mine);
}

}  // namespace wn
