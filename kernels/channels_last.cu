// Channels last: GroupNorm and InstanceNorm in NHWC, any number of channels and groups; and batch statistics of whatever is one
// sample of them, a group for a channel.
//
//     s = x + residual + channel_bias[n, c]
//     y = activation(((s - mean(group)) / sqrt(var(group) + eps) * weight[c] + bias[c]) * scale[n, c] + shift[n, c])
//
//     channels_last_resident   one launch that reads x once: a slab stays in the shared memory of 1..16 blocks, which find its
//                              moments together and write it from there
//     channels_last_moments    of two launches the first, which leaves what each group is normalized by in the workspace
//     channels_last_apply      the second, which reads all again, beginning with what the first read last: that may still be
//                              in L2
//     channels_last_any_*      the same three of s, of tensors off a 16-byte boundary, of samples that do not end with a vector,
//                              and to y of another type
//
// How a tensor is cut, and how moments come about: slabs.cuh. Of a slab both ways make the same bits.
#include "slabs.cuh"

namespace wn {

// What is added to the slots of a vector on the way in. Out of line, for it is rare and long.
template <class T>
__device__ __noinline__ Vector<T> channel_biases(const WnSlabGeometry& g, uint64_t address, bool is_f32, uint64_t first_channel,
                                                 uint32_t position) {
    const Coefficients<T> bias{address, is_f32};
    Vector<T> added;
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) {
        const SlotPlace place(g, static_cast<uint64_t>(position) * kVector<T> + e);
        added.elements[e] = bias.at(first_channel + place.channel, 0.0f);
    }
    return added;
}

// The vectors of a tile in memory, in f32: x, and what is added to it.
template <class T>
struct SlabInMemory {
    const SlabTile<T>& tile;
    const T* x;
    const T* residual;
    bool is_aligned;
    Vector<T> added;  // to a thread's slots

    __device__ __forceinline__ SlabInMemory(const WnChannelsLastParams& p, const SlabTile<T>& of, uint32_t position)
        : tile(of), x(tensor<const T>(p.x)), residual(tensor<const T>(p.residual)),
          is_aligned(aligned_16(x + of.start) && (residual == nullptr || aligned_16(residual + of.start))) {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) added.elements[e] = -0.0f;  // to which every number is added unchanged
        if (p.modulation.channel_bias == 0) return;
        const uint64_t first = (tile.sample * tile.g.sections.divisor + tile.section) * tile.g.channels.divisor;
        added = channel_biases<T>(p.slab, p.modulation.channel_bias, (p.flags & WN_FLAG_CHANNEL_BIAS_F32) != 0, first,
                                  position);
    }

    // A thread's next ones: all are asked for before any is used.
    template <uint32_t kCount>
    __device__ __forceinline__ void load_aligned(Vector<T> (&batch)[kCount], uint64_t round, const SlabThread& thread) const {
        const auto words = [&](const T* of, uint32_t k) {
            return *reinterpret_cast<const uint4*>(as_global(of) + tile.element(round + k * thread.rows, thread.position));
        };
        uint4 x_words[kCount], more[kCount];
#pragma unroll
        for (uint32_t k = 0; k < kCount; k++) x_words[k] = words(x, k);
        if (residual != nullptr) {
#pragma unroll
            for (uint32_t k = 0; k < kCount; k++) more[k] = words(residual, k);
        }
#pragma unroll
        for (uint32_t k = 0; k < kCount; k++) {
            unpack<T>(x_words[k], batch[k].elements);
            if (residual != nullptr) add(more[k], batch[k]);
            add_bias(batch[k]);
        }
    }

    __device__ __forceinline__ Vector<T> vector(uint64_t round, uint32_t position) const {
        const uint64_t own = tile.own(round);
        const uint64_t first = tile.element(round, position) - own;
        Vector<T> vector = load_anywhere(x + own, residual == nullptr ? nullptr : residual + own, tile.own_length, first);
        add_bias(vector);
        return vector;
    }

private:
    __device__ __forceinline__ static void add(const uint4& words, Vector<T>& vector) {
        float more[kVector<T>];
        unpack<T>(words, more);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) vector.elements[e] += more[e];
    }

    __device__ __forceinline__ void add_bias(Vector<T>& vector) const {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) vector.elements[e] += added.elements[e];
    }
};

// The same in shared memory: x as stored, where nothing is added to it, or in f32. A thread reads only what it wrote itself.
template <class T>
struct SlabInShared {
    static constexpr uint32_t kWords = kVector<T> / 4;  // of a vector in f32
    static constexpr bool is_aligned = true;
    const SlabTile<T>& tile;
    uint4* held;
    bool is_stored;

    // Word by word, so that those of a warp's threads lie beside each other.
    __device__ __forceinline__ uint4& word(uint64_t round, uint32_t position, uint32_t number) const {
        const uint32_t row = number * static_cast<uint32_t>(tile.g.tile_rounds) + static_cast<uint32_t>(round - tile.begin);
        return held[row * tile.g.period + position];
    }

    __device__ __forceinline__ Vector<T> vector(uint64_t round, uint32_t position) const {
        Vector<T> vector;
        if (is_stored) {
            unpack<T>(word(round, position, 0), vector.elements);
        } else {
#pragma unroll
            for (uint32_t w = 0; w < kWords; w++) unpack<float>(word(round, position, w), vector.elements + w * 4);
        }
        return vector;
    }

    template <uint32_t kCount>
    __device__ __forceinline__ void load_aligned(Vector<T> (&batch)[kCount], uint64_t round, const SlabThread& thread) const {
#pragma unroll
        for (uint32_t k = 0; k < kCount; k++) batch[k] = vector(round + k * thread.rows, thread.position);
    }

    // Brings a strip of the tile here.
    __device__ __forceinline__ void fill(const WnChannelsLastParams& p, const SlabThread& thread) const {
        if (!thread.active) return;
        const SlabInMemory<T> source(p, tile, thread.position);
        uint64_t round = tile.begin + thread.row;
        if (source.is_aligned) {
            constexpr uint32_t kAtOnce = 4;
#pragma unroll 1
            for (; round + (kAtOnce - 1) * thread.rows < tile.whole; round += kAtOnce * thread.rows) {
                Vector<T> batch[kAtOnce];
                source.load_aligned(batch, round, thread);
#pragma unroll
                for (uint32_t k = 0; k < kAtOnce; k++) store(batch[k], round + k * thread.rows, thread.position);
            }
        }
#pragma unroll 1
        for (; round < tile.end; round += thread.rows) {
            store(source.vector(round, thread.position), round, thread.position);
        }
    }

private:
    __device__ __forceinline__ void store(const Vector<T>& vector, uint64_t round, uint32_t position) const {
        if (is_stored) {
            word(round, position, 0) = pack<T>(vector.elements);
            return;
        }
#pragma unroll
        for (uint32_t w = 0; w < kWords; w++) word(round, position, w) = pack<float>(vector.elements + w * 4);
    }
};

// What a slot of a strip is normalized with, and by which of the section's groups.
template <class T>
struct SlotAffine {
    Affine affine;
    uint32_t group;

    // A strip may have fewer slots.
    __device__ __forceinline__ SlotAffine(const WnChannelsLastParams& p, const SlabTile<T>& tile, const SlabThread& thread,
                                          uint32_t slot)
        : affine{1.0f, 0.0f}, group(0) {
        if (slot >= thread.width * kVector<T>) return;
        const WnSlabGeometry& g = p.slab;
        const SlotPlace place(g, static_cast<uint64_t>(thread.first) * kVector<T> + slot);
        const uint64_t channel = tile.section * g.channels.divisor + place.channel;
        const bool by_group = (p.flags & WN_FLAG_AFFINE_BY_GROUP) != 0;
        const uint64_t index = by_group ? tile.section * g.groups + place.group : channel;
        const Coefficients<T> weight{p.weight, (p.flags & WN_FLAG_WEIGHT_F32) != 0};
        const Coefficients<T> bias{p.bias, (p.flags & WN_FLAG_BIAS_F32) != 0};
        const uint64_t of_sample = tile.sample * g.sections.divisor * g.channels.divisor;
        group = place.group;
        affine = modulate<T>(Affine{weight.at(index, 1.0f), bias.at(index, 0.0f)}, p.modulation, p.flags, of_sample + channel);
    }
};

// Leaves what is done to each slot of a strip: of all threads, which then read it there. `mine` is of the thread's first one.
template <class T>
__device__ __forceinline__ void leave_maps(const WnChannelsLastParams& p, const SlabTile<T>& tile, const SlabThread& thread,
                                           const Normalization* groups, ChannelMap* maps, SlotAffine<T> mine) {
    uint32_t slot = threadIdx.x;
    const uint32_t slots = thread.width * kVector<T>;
#pragma unroll 1
    while (slot < slots) {
        maps[place_in_scratch(slot / kVector<T>, slot % kVector<T>)] = groups[mine.group].with(mine.affine);
        slot += blockDim.x;
        if (slot < slots) mine = SlotAffine<T>(p, tile, thread, slot);
    }
    __syncthreads();
}

// What a thread does to its slots.
template <class T>
struct SlotMaps {
    ChannelMap map[kVector<T>];

    __device__ __forceinline__ SlotMaps(const ChannelMap* maps, const SlabThread& thread) {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) map[e] = maps[place_in_scratch(thread.position - thread.first, e)];
    }

    __device__ __forceinline__ void apply(uint32_t activation, float (&value)[kVector<T>]) const {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = map[e].of(value[e]);
        activate(value, activation);
    }
};

// Writes a strip of a tile by the maps of its slots.
template <class T, class Source>
__device__ __forceinline__ void write_strip(const WnChannelsLastParams& p, const Source& source, const SlabTile<T>& tile,
                                            const SlabThread& thread, const ChannelMap* maps) {
    if (!thread.active) return;
    const SlotMaps<T> of_slots(maps, thread);
    T* const sum = tensor<T>(p.sum);
    T* const y = tensor<T>(p.y);
#pragma unroll 1
    for (uint64_t round = tile.begin + thread.row; round < tile.end; round += thread.rows) {
        const uint64_t own = tile.own(round);
        const uint64_t first = tile.element(round, thread.position) - own;
        if (own + first >= tile.end_of_sample()) return;
        Vector<T> vector = source.vector(round, thread.position);
        if (sum != nullptr) store(sum + own, tile.own_length, first, vector.elements);
        of_slots.apply(p.activation, vector.elements);
        store_as(p.y_type, y + own, p.y, own, tile.own_length, first, vector.elements);
    }
}

// Makes of the parts of a slab's groups [first, end) what they are normalized by. `parts_of(group)` is for all threads of a warp.
template <class PartsOf>
__device__ __forceinline__ void finish_groups(const WnChannelsLastParams& p, uint64_t slab, const Teams& teams,
                                              Normalization* groups, bool moves_running, uint64_t first, uint64_t end,
                                              const PartsOf& parts_of) {
    const bool moves = moves_running && p.running.mean != 0;
    const float share = moves ? share_of_batch(p.running, p.flags) : 0.0f;
    for (uint64_t base = first; base < end; base += teams.count) {
        const bool present = base + teams.first < end;
        if (!any_lane(present)) continue;
        const uint64_t group = present ? base + teams.first : first;
        const Part all = parts_of(group);
        if (teams.lane != 0 || !present) continue;
        groups[group] = normalization_of(all, p.eps);
        if (moves) move_running(p.running, slab * p.slab.groups + group, all, share);
    }
}

// Makes of what many blocks have left of a slab what its groups are normalized by. Neighbouring threads have neighbouring groups,
// which lie beside each other, and each so many of the tiles.
__device__ __forceinline__ void finish_many_tiles(const WnChannelsLastParams& p, uint64_t slab, const Part* parts,
                                                  Normalization* groups, Part* scratch) {
    const WnSlabGeometry& g = p.slab;
    const uint32_t width = g.groups < blockDim.x ? static_cast<uint32_t>(g.groups) : blockDim.x;
    const uint32_t slices = blockDim.x / width;
    const uint32_t slice = threadIdx.x / width;
    const Teams teams(lanes_for(slices));
    for (uint64_t base = 0; base < g.groups; base += width) {
        const uint64_t group = base + threadIdx.x - slice * width;
        const bool present = slice < slices && group < g.groups;
        const Part mine = combined_in_memory(1, parts + group, present ? g.tiles : 0, g.groups, slice, slices);
        if (present) scratch[threadIdx.x] = mine;
        __syncthreads();
        finish_groups(p, slab, teams, groups, true, base, base + width < g.groups ? base + width : g.groups, [&](uint64_t group) {
            return combined(teams.team, [&](const auto& see) {
                for (uint32_t i = teams.lane; i < slices; i += teams.team.lanes) see(scratch[i * width + (group - base)]);
            });
        });
        __syncthreads();  // before the scratch is used again
    }
}

template <class T, bool kIsWhole>
__device__ __forceinline__ void channels_last_moments(const WnChannelsLastParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    WN_SHARED(uint32_t, arrived, 1);
    const WnSlabGeometry& g = p.slab;
    const uint64_t slabs = g.samples * g.sections.divisor;
    const uint64_t column = blockIdx.x / g.tiles;
    const uint64_t number = blockIdx.x % g.tiles;
    Part* const parts = global<Part>(g.partials);
    for (uint64_t slab = column; slab < slabs; slab += g.columns) {
        const SlabTile<T> tile(g, slab, number);
        tile_parts(tile, reinterpret_cast<Part*>(room), parts + (slab * g.tiles + number) * g.groups,
                   [&](uint64_t begin, uint64_t end, const SlabThread& thread, Part(&part)[kVector<T>]) {
                       if (kIsWhole) {
                           const WholeRounds rounds(tile, begin, end, thread);
                           const T* from = tensor<const T>(p.x) + rounds.first;
                           const auto next = [&] {
                               const uint4 words = load_at_once(from);
                               from += rounds.step;
                               return words;
                           };
                           whole_slot_parts<T>(rounds, next, part);
                       } else {
                           slot_parts(SlabInMemory<T>(p, tile, thread.position), tile, begin, end, thread, part);
                       }
                   });
    }
    if (!is_last(g.counters, column, static_cast<uint32_t>(g.tiles), arrived)) return;
    for (uint64_t slab = column; slab < slabs; slab += g.columns) {
        const Part* const of_slab = parts + slab * g.tiles * g.groups;
        Normalization* const groups = global<Normalization>(p.results) + slab * g.groups;
        if (g.tiles <= WN_CLUSTER) {
            // As a cluster has it, or a block alone: what is combined with nothing may be rounded once more.
            const Teams teams(lanes_for(g.tiles));
            finish_groups(p, slab, teams, groups, true, 0, g.groups, [&](uint64_t group) {
                return g.tiles == 1 ? load_fresh(of_slab + group) : combined_tiles(teams, of_slab + group, g.tiles, g.groups);
            });
        } else {
            finish_many_tiles(p, slab, of_slab, groups, reinterpret_cast<Part*>(room));
        }
    }
    count_batch(p.running, p.flags, g.counters, column, g.columns, arrived);
}

// Writes a thread's vectors of a strip: those that it begins with are on their way while the block makes its maps.
template <class T>
__device__ __forceinline__ void apply_whole(const WnChannelsLastParams& p, const SlabTile<T>& tile, const SlabThread& thread,
                                            const Normalization* groups, ChannelMap* maps) {
    constexpr uint32_t kAtOnce = 4;
    const WholeRounds rounds(tile, tile.begin, tile.end, thread);
    const T* from = tensor<const T>(p.x) + rounds.first;
    T* to = tensor<T>(p.y) + rounds.first;
    uint4 words[kAtOnce];
    const auto load = [&](uint32_t done) {
#pragma unroll
        for (uint32_t k = 0; k < kAtOnce; k++, from += rounds.step) {
            if (done + k < rounds.count) words[k] = load_at_once(from);
        }
    };
    load(0);
    const SlotAffine<T> mine(p, tile, thread, threadIdx.x);
    __syncthreads();  // before the maps are overwritten
    leave_maps(p, tile, thread, groups, maps, mine);
    if (rounds.count == 0) return;
    const SlotMaps<T> of_slots(maps, thread);
#pragma unroll 1
    for (uint32_t done = 0; done < rounds.count; done += kAtOnce) {
#pragma unroll
        for (uint32_t k = 0; k < kAtOnce; k++, to += rounds.step) {
            if (done + k >= rounds.count) break;
            float value[kVector<T>];
            unpack<T>(words[k], value);
            of_slots.apply(p.activation, value);
            store_whole(to, value);
        }
        load(done + kAtOnce);
    }
}

template <class T, bool kIsWhole>
__device__ __forceinline__ void channels_last_apply(const WnChannelsLastParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    const WnSlabGeometry& g = p.slab;
    ChannelMap* const maps = reinterpret_cast<ChannelMap*>(room);
    // Backwards.
    const uint64_t block = gridDim.x - 1 - blockIdx.x;
    for (uint64_t slab = block / g.tiles; slab < g.samples * g.sections.divisor; slab += g.columns) {
        const SlabTile<T> tile(g, slab, block % g.tiles);
        const Normalization* const groups = global<const Normalization>(p.results) + slab * g.groups;
        for (uint32_t strip = 0; strip < g.strips; strip++) {
            const SlabThread thread(g, strip);
            if (kIsWhole) {
                apply_whole(p, tile, thread, groups, maps);
                continue;
            }
            __syncthreads();  // before the maps are overwritten
            leave_maps(p, tile, thread, groups, maps, SlotAffine<T>(p, tile, thread, threadIdx.x));
            write_strip<T>(p, SlabInMemory<T>(p, tile, thread.position), tile, thread, maps);
        }
    }
}

// The room of a block that holds its tile.
template <class T>
struct ResidentRoom {
    uint32_t* arrived;
    Part* scratch;
    Part* parts;
    Normalization* groups;
    uint4* words;      // of the tile
    ChannelMap* maps;  // where the scratch was, when that is done with

    __device__ __forceinline__ ResidentRoom(uint4* room, const WnSlabGeometry& g)
        : arrived(reinterpret_cast<uint32_t*>(room)), scratch(reinterpret_cast<Part*>(room + 1)) {
        parts = scratch + kVector<T> * (blockDim.x + 1);
        groups = reinterpret_cast<Normalization*>(parts + g.groups);
        words = reinterpret_cast<uint4*>(groups + g.groups);
        maps = reinterpret_cast<ChannelMap*>(scratch);
    }
};

// One of a slab's tiles, which a cluster has between its blocks.
struct BlockOfSlab {
    uint32_t number;
    uint32_t column;
    uint32_t columns;

    __device__ __forceinline__ BlockOfSlab()
        : number(cluster::rank()), column(blockIdx.x / cluster::size()), columns(gridDim.x / cluster::size()) {}
};

// Makes of what the cluster's blocks have found what each group is normalized by, in every block. Nobody's parts may be
// overwritten before the cluster has come to cluster::wait() once more.
template <class T>
__device__ __forceinline__ void finish_cluster(const WnChannelsLastParams& p, uint64_t slab, const BlockOfSlab& block,
                                               const ResidentRoom<T>& room) {
    const WnSlabGeometry& g = p.slab;
    const Teams teams(lanes_for(g.tiles));
    if (g.tiles > 1) {
        cluster::arrive();
        cluster::wait();
    }
    finish_groups(p, slab, teams, room.groups, block.number == 0, 0, g.groups, [&](uint64_t group) {
        return g.tiles == 1 ? room.parts[group] : combined_blocks(teams, room.parts + group, g.tiles);
    });
    // That this block has read what the others have.
    if (g.tiles > 1) cluster::arrive();
    __syncthreads();
}

template <class T>
__device__ __forceinline__ void channels_last_resident(const WnChannelsLastParams& p) {
    WN_DYNAMIC_SHARED(uint4, shared);
    const WnSlabGeometry& g = p.slab;
    const ResidentRoom<T> room(shared, g);
    const BlockOfSlab block;
    // A thread's words of a strip, one behind the other, from its first round on.
    const auto held = [&](const SlabThread& thread, uint64_t rounds) {
        return room.words + (static_cast<uint32_t>(rounds) + thread.row) * g.period + thread.position;
    };
    const uint64_t slabs = g.samples * g.sections.divisor;
    for (uint64_t slab = block.column; slab < slabs; slab += block.columns) {
        const SlabTile<T> tile(g, slab, block.number);
#pragma unroll 1
        for (uint32_t strip = 0; strip < g.strips; strip++) {
            const SlabThread thread(g, strip);
            const WholeRounds rounds(tile, tile.begin, tile.end, thread);
            const T* from = tensor<const T>(p.x) + rounds.first;
            SharedWords target(held(thread, 0));
            const uint32_t step = thread.rows * g.period;
#pragma unroll 4
            for (uint32_t k = 0; k < rounds.count; k++, from += rounds.step, target = target.behind(step)) {
                copy_async(target, 0, reinterpret_cast<const uint4*>(from));
            }
        }
        // Weight and bias meanwhile.
        const SlotAffine<T> mine(p, tile, SlabThread(g, 0), threadIdx.x);
        copies_arrived();
        tile_parts(tile, room.scratch, room.parts,
                   [&](uint64_t begin, uint64_t end, const SlabThread& thread, Part(&part)[kVector<T>]) {
                       const uint4* from = held(thread, begin - tile.begin);
                       const uint32_t step = thread.rows * g.period;
                       const auto next = [&] {
                           const uint4 words = *from;
                           from += step;
                           return words;
                       };
                       whole_slot_parts<T>(WholeRounds(tile, begin, end, thread), next, part);
                   });
        finish_cluster(p, slab, block, room);
#pragma unroll 1
        for (uint32_t strip = 0; strip < g.strips; strip++) {
            const SlabThread thread(g, strip);
            leave_maps(p, tile, thread, room.groups, room.maps, strip == 0 ? mine : SlotAffine<T>(p, tile, thread, threadIdx.x));
            const WholeRounds rounds(tile, tile.begin, tile.end, thread);
            if (rounds.count > 0) {
                const SlotMaps<T> of_slots(room.maps, thread);
                const uint4* from = held(thread, 0);
                T* to = tensor<T>(p.y) + rounds.first;
                uint4 words = *from;
#pragma unroll 1
                for (uint32_t k = 0; k < rounds.count; k++, to += rounds.step) {
                    float value[kVector<T>];
                    unpack<T>(words, value);
                    from += thread.rows * g.period;
                    if (k + 1 < rounds.count) words = *from;
                    of_slots.apply(p.activation, value);
                    store_whole(to, value);
                }
            }
            __syncthreads();  // before the scratch is used again
        }
        if (g.tiles > 1) cluster::wait();
    }
    if (block.number == 0) count_batch(p.running, p.flags, g.counters, block.column, block.columns, room.arrived);
}

template <class T>
__device__ __forceinline__ void channels_last_any_resident(const WnChannelsLastParams& p) {
    WN_DYNAMIC_SHARED(uint4, shared);
    const WnSlabGeometry& g = p.slab;
    const ResidentRoom<T> room(shared, g);
    const BlockOfSlab block;
    const uint64_t slabs = g.samples * g.sections.divisor;
    for (uint64_t slab = block.column; slab < slabs; slab += block.columns) {
        const SlabTile<T> tile(g, slab, block.number);
        const SlabInShared<T> held{tile, room.words, (p.flags & WN_FLAG_HELD_AS_STORED) != 0};
#pragma unroll 1
        for (uint32_t strip = 0; strip < g.strips; strip++) held.fill(p, SlabThread(g, strip));
        tile_parts(tile, room.scratch, room.parts,
                   [&](uint64_t begin, uint64_t end, const SlabThread& thread, Part(&part)[kVector<T>]) {
                       slot_parts(held, tile, begin, end, thread, part);
                   });
        finish_cluster(p, slab, block, room);
#pragma unroll 1
        for (uint32_t strip = 0; strip < g.strips; strip++) {
            const SlabThread thread(g, strip);
            leave_maps(p, tile, thread, room.groups, room.maps, SlotAffine<T>(p, tile, thread, threadIdx.x));
            write_strip<T>(p, held, tile, thread, room.maps);
            __syncthreads();  // before the scratch is used again
        }
        if (g.tiles > 1) cluster::wait();
    }
    if (block.number == 0) count_batch(p.running, p.flags, g.counters, block.column, block.columns, room.arrived);
}

}  // namespace wn

using namespace wn;

WN_CHANNELS_LAST_KERNELS(WN_DEFINE)
