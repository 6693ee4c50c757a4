// Slabs: [rounds, channels], the channels of a group between each other's, as GroupNorm in NHWC has them.
//
// A sample is walked as vectors from its start. After a round of vectors, the least number of them that is a whole number of
// pixels, the channels repeat. So a thread whose vectors lie whole rounds apart has the same channels in all of them, whatever
// the number of channels: where a vector spans several, or several pixels, its elements are slots of their own, and meet the
// other slots of their group only at the end. Where groups end with vectors, a round falls apart into sections that have
// nothing to do with each other.
//
//     slab      a section of a sample
//     tile      the rounds of a slab that a block has
//     piece     as many of those as a thread may sum; mostly all
//     strip     of a round, at most 256 vectors, beside each other in a block; mostly all
//     part      of a tile and a group: what the block found
//
// Nothing but a sample's size and type decides how it is cut.
#pragma once

#include "channel_moments.cuh"

namespace wn {

// A tile of a slab, and where that lies in a tensor. Elements are counted from the tensor's start.
template <class T>
struct SlabTile {
    const WnSlabGeometry& g;
    uint64_t sample;
    uint64_t section;
    uint64_t start;  // of the slab: its first round
    uint64_t begin;  // rounds
    uint64_t end;
    uint64_t whole;  // where those end that are not cut by the sample's end
    // The elements that the block has for itself: of several sections its part of a round, else all rounds.
    uint64_t own_begin;
    uint64_t own_step;  // from one round to the next
    uint64_t own_length;

    __device__ __forceinline__ SlabTile(const WnSlabGeometry& geometry, uint64_t slab, uint64_t tile) : g(geometry) {
        sample = divide(slab, g.sections);
        section = slab - sample * g.sections.divisor;
        start = sample * g.length + section * g.period * kVector<T>;
        begin = tile * g.tile_rounds;
        end = begin + g.tile_rounds < g.rounds ? begin + g.tile_rounds : g.rounds;
        whole = end < g.whole_rounds ? end : g.whole_rounds;
        const bool is_all = g.sections.divisor == 1;
        own_begin = start + (is_all ? begin * g.round : 0);
        own_step = is_all ? 0 : g.round;
        const uint64_t most = is_all ? (end - begin) * g.round : static_cast<uint64_t>(g.period) * kVector<T>;
        const uint64_t left = end_of_sample() - own_begin;
        own_length = left < most ? left : most;
    }

    // Those around a vector of a round. In place and off an aligned address, nothing may be read beyond: another block may be
    // writing it.
    __device__ __forceinline__ uint64_t own(uint64_t round) const { return own_begin + round * own_step; }

    __device__ __forceinline__ uint64_t element(uint64_t round, uint32_t position) const {
        return start + round * g.round + static_cast<uint64_t>(position) * kVector<T>;
    }

    __device__ __forceinline__ uint64_t end_of_sample() const { return (sample + 1) * g.length; }
};

// The part of a strip that a thread has: a position, and every `rows`-th round. `active` is false for the threads that are left
// over.
struct SlabThread {
    uint32_t first;  // position of the strip
    uint32_t width;  // positions of the strip
    uint32_t rows;
    uint32_t position;  // of the round
    uint32_t row;
    bool active;

    __device__ __forceinline__ SlabThread(const WnSlabGeometry& g, uint32_t strip) {
        first = strip * g.strip;
        width = g.period - first < g.strip ? g.period - first : g.strip;
        rows = g.rows;
        // The quotient, of so few threads. (A division is many instructions.)
        row = threadIdx.x * (width == g.strip ? g.strip_magic : WN_STRIP_ONE / width + 1) >> WN_STRIP_SHIFT;
        position = first + threadIdx.x - row * width;
        active = row < rows;
    }
};

// Vectors that a thread sums together.
constexpr uint32_t kSlabBatch = 4;

// What a thread finds in its slots: sums of differences from the mean of the first batch, and of their squares.
template <class T>
struct SlotSums {
    float pivot[kVector<T>];
    float sum[kVector<T>] = {};
    float squares[kVector<T>] = {};

    // With the first batch. `at(k, e)`: slot e of its vector k.
    template <class At>
    __device__ __forceinline__ void begin(const At& at) {
        float difference[kSlabBatch];
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
#pragma unroll
            for (uint32_t k = 0; k < kSlabBatch; k++) difference[k] = at(k, e) - at(0, e);
            pivot[e] = fused(tree_sum(difference), 1.0f / kSlabBatch, at(0, e));
        }
    }

    template <class At>
    __device__ __forceinline__ void add_batch(const At& at) {
        float difference[kSlabBatch];
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
#pragma unroll
            for (uint32_t k = 0; k < kSlabBatch; k++) difference[k] = at(k, e) - pivot[e];
            sum[e] += tree_sum(difference);
            squares[e] += tree_sum_of_squares(difference);
        }
    }

    // One vector, of which a slot may be missing.
    __device__ __forceinline__ void add(bool is_first, const float (&value)[kVector<T>], uint32_t missing) {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
            if (is_first) pivot[e] = value[e];
            const float difference = (missing >> e & 1u) != 0 ? 0.0f : value[e] - pivot[e];
            sum[e] += difference;
            squares[e] = fused(difference, difference, squares[e]);
        }
    }
};

// What a thread's slots hold in the rounds [begin, end) of a tile, in batches and then, what is less than one, by rounds. A
// source has `vector`, zero past the sample's end, and, where it `is_aligned`, `load_aligned`, several of rounds that are whole.
template <class T, class Source>
__device__ __forceinline__ void slot_parts(const Source& source, const SlabTile<T>& tile, uint64_t begin, uint64_t end,
                                           const SlabThread& thread, Part (&part)[kVector<T>]) {
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) part[e] = no_part();
    uint64_t round = begin + thread.row;
    if (!thread.active || round >= end) return;
    const uint64_t whole = tile.whole < end ? tile.whole : end;
    SlotSums<T> sums;
    uint32_t rounds = 0;
#pragma unroll 1
    for (; round + (kSlabBatch - 1) * thread.rows < whole; round += kSlabBatch * thread.rows) {
        Vector<T> batch[kSlabBatch];
        if (source.is_aligned) {
            source.load_aligned(batch, round, thread);
        } else {
#pragma unroll
            for (uint32_t k = 0; k < kSlabBatch; k++) batch[k] = source.vector(round + k * thread.rows, thread.position);
        }
        const auto at = [&](uint32_t k, uint32_t e) { return batch[k].elements[e]; };
        if (rounds == 0) sums.begin(at);
        sums.add_batch(at);
        rounds += kSlabBatch;
    }
    uint32_t missing = 0;  // slots that the last round has not
#pragma unroll 1
    for (; round < end; round += thread.rows) {
        const Vector<T> one = source.vector(round, thread.position);
        const uint64_t element = tile.element(round, thread.position), end_of_sample = tile.end_of_sample();
        const uint64_t left = element < end_of_sample ? end_of_sample - element : 0;
        missing = left < kVector<T> ? ~0u << left : 0;
        sums.add(rounds == 0, one.elements, missing);
        rounds++;
    }
    const float counts[2] = {static_cast<float>(rounds), static_cast<float>(rounds - 1)};
    const float inverses[2] = {1.0f / counts[0], rounds == 1 ? 0.0f : 1.0f / counts[1]};
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) {
        const bool is_missing = (missing >> e & 1u) != 0;
        part[e] = part_of(is_missing ? counts[1] : counts[0], is_missing ? inverses[1] : inverses[0], sums.pivot[e],
                          sums.sum[e], sums.squares[e]);
    }
}

// A thread's vectors in some rounds of a tile, where samples end with a vector.
struct WholeRounds {
    uint64_t first;    // element of the tensor
    uint64_t step;     // elements from one to the next
    uint32_t count;    // the sample's last round may end before the thread's vector
    uint32_t batched;  // of those, as many as `slot_parts` has in batches: none of a round that is cut

    template <class T>
    __device__ __forceinline__ WholeRounds(const SlabTile<T>& tile, uint64_t begin, uint64_t end, const SlabThread& thread)
        : first(0), step(kept(thread.rows * tile.g.round)), count(0), batched(0) {
        const uint64_t round = begin + thread.row;
        if (!thread.active || round >= end) return;
        first = tile.element(round, thread.position);
        const uint32_t left = static_cast<uint32_t>(end - round);
        count = (left - 1) / thread.rows + 1;
        const bool is_cut = end > tile.whole && (left - 1) % thread.rows == 0;
        batched = (count - (is_cut ? 1 : 0)) / kSlabBatch * kSlabBatch;
        if (is_cut && tile.element(end - 1, thread.position) >= tile.end_of_sample()) count--;
    }
};

// The same as slot_parts, to the same bits, of words that `next` gives one by one: those of a batch are asked for before one is
// used.
template <class T, class Next>
__device__ __forceinline__ void whole_slot_parts(const WholeRounds& rounds, const Next& next, Part (&part)[kVector<T>]) {
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) part[e] = no_part();
    if (rounds.count == 0) return;
    SlotSums<T> sums;
    uint32_t done = 0;
    if (rounds.batched > 0) {
        uint4 words[kSlabBatch];
        float value[kSlabBatch][kVector<T>];
        const auto load = [&] {
#pragma unroll
            for (uint32_t k = 0; k < kSlabBatch; k++) words[k] = next();
        };
        const auto unpack_all = [&] {
#pragma unroll
            for (uint32_t k = 0; k < kSlabBatch; k++) unpack<T>(words[k], value[k]);
        };
        const auto at = [&](uint32_t k, uint32_t e) { return value[k][e]; };
        load();
        unpack_all();
        sums.begin(at);
        // The loop asks nothing of the first batch, and has the numbers as stored until it wants them.
#pragma unroll 1
        for (;; load()) {
            unpack_all();
            sums.add_batch(at);
            done += kSlabBatch;
            if (done == rounds.batched) break;
        }
    }
#pragma unroll 1
    for (; done < rounds.count; done++) {
        float value[kVector<T>];
        unpack<T>(next(), value);
        sums.add(done == 0, value, 0);
    }
    const float count = static_cast<float>(rounds.count);
    const float inverse = 1.0f / count;
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) part[e] = part_of(count, inverse, sums.pivot[e], sums.sum[e], sums.squares[e]);
}

// Where a slot of a thread is in the scratch: neither those of a warp's threads nor those beside each other in a pixel meet
// in one bank.
__device__ __forceinline__ uint32_t place_in_scratch(uint32_t thread, uint32_t slot) {
    return slot * (blockDim.x + 1) + thread;
}

// Brings a piece's strip together, as far as it is of one group or another, and with what `parts` has of the piece's other
// strips and of other pieces. Of all threads; `scratch` has what they found, slot by slot. A team's lanes are shared out among a
// group's slots, and then among the rows of threads, which a lane walks from one to the next.
template <class T>
__device__ __forceinline__ void add_to_groups(const WnSlabGeometry& g, const Part* scratch, const SlabThread& thread,
                                              bool is_first, Part* parts) {
    const uint32_t slots = thread.width * kVector<T>;
    const uint64_t first_slot = static_cast<uint64_t>(thread.first) * kVector<T>;
    const uint64_t channels = g.channels.divisor;
    const uint32_t of_group = static_cast<uint32_t>(g.group.divisor);
    const uint32_t pixels = static_cast<uint32_t>(g.pixels);
    uint32_t lanes = 1;
    while (lanes < WN_WARP && 2 * lanes * g.groups <= blockDim.x) lanes *= 2;
    const Teams teams(lanes);
    LaneTeam inner{1};  // lanes that share out the slots; as many rows at a time as there are of those in a team
    while (inner.lanes < lanes && inner.lanes < pixels * of_group) inner.lanes *= 2;
    const uint32_t outer = inner.teams(lanes);
    const uint32_t first_row = inner.teams(teams.lane);
    for (uint64_t base = 0; base < g.groups; base += teams.count) {
        const uint64_t group = base + teams.first;
        const bool present = group < g.groups;
        if (!any_lane(present)) continue;
        const Part found = combined(teams.team, [&](const auto& see) {
#pragma unroll 1
            for (uint32_t element = inner.lane(); present && element < pixels * of_group; element += inner.lanes) {
                const uint32_t pixel = pixels == 1 ? 0 : element / of_group;
                const uint64_t slot = pixel * channels + group * of_group + (element - pixel * of_group) - first_slot;
                // In another strip, perhaps.
                if (slot >= slots) continue;
                const uint32_t at = static_cast<uint32_t>(slot);
                const Part* part = scratch + place_in_scratch(first_row * thread.width + at / kVector<T>, at % kVector<T>);
#pragma unroll 2
                for (uint32_t row = first_row; row < thread.rows; row += outer, part += outer * thread.width) see(*part);
            }
        });
        if (teams.lane == 0 && present) parts[group] = is_first ? found : together(parts[group], found);
    }
}

// What a tile has of each group, into `parts`; behind it, all threads of the block see them. `of_slots` finds what a thread's
// slots hold in some rounds.
template <class T, class OfSlots>
__device__ __forceinline__ void tile_parts(const SlabTile<T>& tile, Part* scratch, Part* parts, const OfSlots& of_slots) {
    const WnSlabGeometry& g = tile.g;
    for (uint64_t begin = tile.begin; begin < tile.end; begin += g.piece_rounds) {
        const uint64_t end = begin + g.piece_rounds < tile.end ? begin + g.piece_rounds : tile.end;
        for (uint32_t strip = 0; strip < g.strips; strip++) {
            const SlabThread thread(g, strip);
            Part part[kVector<T>];
            of_slots(begin, end, thread, part);
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) {
                if (thread.active) scratch[place_in_scratch(threadIdx.x, e)] = part[e];
            }
            __syncthreads();
            add_to_groups<T>(g, scratch, thread, begin == tile.begin && strip == 0, parts);
            __syncthreads();  // before the scratch is used again
        }
    }
}

// Where a slot of a round is: the channel and the group, both of the section.
struct SlotPlace {
    uint32_t channel;
    uint32_t group;

    __device__ __forceinline__ SlotPlace(const WnSlabGeometry& g, uint64_t slot) {
        channel = static_cast<uint32_t>(slot - divide(slot, g.channels) * g.channels.divisor);
        group = static_cast<uint32_t>(divide(channel, g.group));
    }
};

}  // namespace wn
