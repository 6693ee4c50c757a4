// Channels last: GroupNorm and InstanceNorm in NHWC, any number of channels and groups; and batch statistics of whatever is one
// sample of them, a group for a channel.
//
//     s = x + residual + channel_bias[n, c]
//     y = activation(((s - mean(group)) / sqrt(var(group) + eps) * weight[c] + bias[c]) * scale[n, c] + shift[n, c])
//
//     channels_last_resident   one launch that reads x and residual once: a slab stays in the shared memory of 1..16 blocks,
//                              which find its moments together and write it from there
//     channels_last_moments    of two launches the first, which leaves what each group is normalized by in the workspace
//     channels_last_apply      the second, which reads all again, beginning with what the first read last: that may still be
//                              in L2
//     channels_last_any_moments, channels_last_any_apply    the same of s, of tensors off a 16-byte boundary, of samples that
//                              do not end with a vector, and to y of another type
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

// The vectors of a tile in memory: x, or, where there is more than that, s.
template <class T, bool kSums>
struct SlabInMemory {
    using Vector = SlabVector<T, kSums>;
    const SlabTile<T>& tile;
    const T* x;
    const T* residual;
    bool is_aligned;
    wn::Vector<T> added;  // kSums: to a thread's slots

    __device__ __forceinline__ SlabInMemory(const WnChannelsLastParams& p, const SlabTile<T>& of, uint32_t position)
        : tile(of), x(tensor<const T>(p.x)), residual(kSums ? tensor<const T>(p.residual) : nullptr),
          is_aligned(aligned_16(x + of.start) && (residual == nullptr || aligned_16(residual + of.start))) {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) added.elements[e] = -0.0f;  // to which every number is added unchanged
        if (!kSums || p.modulation.channel_bias == 0) return;
        const uint64_t first = (tile.sample * tile.g.sections.divisor + tile.section) * tile.g.channels.divisor;
        added = channel_biases<T>(p.slab, p.modulation.channel_bias, (p.flags & WN_FLAG_CHANNEL_BIAS_F32) != 0, first,
                                  position);
    }

    // A thread's next ones: all are asked for before any is used.
    template <uint32_t kCount>
    __device__ __forceinline__ void load_aligned(Vector (&batch)[kCount], uint64_t round, const SlabThread& thread) const {
        const auto words = [&](const T* of, uint32_t k) {
            return *reinterpret_cast<const uint4*>(as_global(of) + tile.element(round + k * thread.rows, thread.position));
        };
        if constexpr (kSums) {
            uint4 x_words[kCount], more[kCount];
#pragma unroll
            for (uint32_t k = 0; k < kCount; k++) x_words[k] = words(x, k);
            if (residual != nullptr) {
#pragma unroll
                for (uint32_t k = 0; k < kCount; k++) more[k] = words(residual, k);
            }
#pragma unroll
            for (uint32_t k = 0; k < kCount; k++) {
                unpack<T>(x_words[k], batch[k].value);
                if (residual != nullptr) add(more[k], batch[k]);
                add_bias(batch[k]);
            }
        } else {
#pragma unroll
            for (uint32_t k = 0; k < kCount; k++) batch[k].stored.words = words(x, k);
        }
    }

    __device__ __forceinline__ Vector vector(uint64_t round, uint32_t position) const {
        const uint64_t own = tile.own(round);
        const uint64_t first = tile.element(round, position) - own;
        Vector vector;
        if constexpr (kSums) {
            const wn::Vector<T> loaded =
                load_anywhere(x + own, residual == nullptr ? nullptr : residual + own, tile.own_length, first);
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) vector.value[e] = loaded.elements[e];
            add_bias(vector);
        } else {
            vector.stored.words = load_irregular(x + own, tile.own_length, first);
        }
        return vector;
    }

private:
    __device__ __forceinline__ static void add(const uint4& words, Vector& vector) {
        float more[kVector<T>];
        unpack<T>(words, more);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) vector.value[e] += more[e];
    }

    __device__ __forceinline__ void add_bias(Vector& vector) const {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) vector.value[e] += added.elements[e];
    }
};

// The same in shared memory. A thread reads only what it wrote, or had copied, itself.
template <class T, bool kSums>
struct SlabInShared {
    using Vector = SlabVector<T, kSums>;
    static constexpr uint32_t kWords = kSums ? kVector<T> / 4 : 1;  // of a vector
    static constexpr bool is_aligned = true;
    const SlabTile<T>& tile;
    uint4* held;

    // Word by word, so that those of a warp's threads lie beside each other.
    __device__ __forceinline__ uint4& word(uint64_t round, uint32_t position, uint32_t number) const {
        const uint32_t row = number * static_cast<uint32_t>(tile.g.tile_rounds) + static_cast<uint32_t>(round - tile.begin);
        return held[row * tile.g.period + position];
    }

    __device__ __forceinline__ Vector vector(uint64_t round, uint32_t position) const {
        Vector vector;
        if constexpr (kSums) {
#pragma unroll
            for (uint32_t w = 0; w < kWords; w++) unpack<float>(word(round, position, w), vector.value + w * 4);
        } else {
            vector.stored.words = word(round, position, 0);
        }
        return vector;
    }

    template <uint32_t kCount>
    __device__ __forceinline__ void load_aligned(Vector (&batch)[kCount], uint64_t round, const SlabThread& thread) const {
#pragma unroll
        for (uint32_t k = 0; k < kCount; k++) batch[k] = vector(round + k * thread.rows, thread.position);
    }

    // Brings a strip of the tile here. What is copied is here behind copies_arrived().
    __device__ __forceinline__ void fill(const WnChannelsLastParams& p, const SlabThread& thread) const {
        if (!thread.active) return;
        const SlabInMemory<T, kSums> source(p, tile, thread.position);
        uint64_t round = tile.begin + thread.row;
        if (!kSums && source.is_aligned) {
            for (; round < tile.whole; round += thread.rows) {
                const T* const from = source.x + tile.element(round, thread.position);
                copy_async(&word(round, thread.position, 0), reinterpret_cast<const uint4*>(from));
            }
        }
        if (kSums && source.is_aligned) {
            constexpr uint32_t kAtOnce = 4;
            for (; round + (kAtOnce - 1) * thread.rows < tile.whole; round += kAtOnce * thread.rows) {
                Vector batch[kAtOnce];
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
    __device__ __forceinline__ void store(const Vector& vector, uint64_t round, uint32_t position) const {
#pragma unroll
        for (uint32_t w = 0; w < kWords; w++) {
            if constexpr (kSums) {
                word(round, position, w) = pack<float>(vector.value + w * 4);
            } else {
                word(round, position, w) = vector.stored.words;
            }
        }
    }
};

// Leaves what is done to each slot of a strip: of all threads, which then read it there.
template <class T>
__device__ __forceinline__ void leave_maps(const WnChannelsLastParams& p, const SlabTile<T>& tile, const SlabThread& thread,
                                           const Normalization* groups, ChannelMap* maps) {
    const WnSlabGeometry& g = p.slab;
    const Coefficients<T> weight{p.weight, (p.flags & WN_FLAG_WEIGHT_F32) != 0};
    const Coefficients<T> bias{p.bias, (p.flags & WN_FLAG_BIAS_F32) != 0};
    const bool by_group = (p.flags & WN_FLAG_AFFINE_BY_GROUP) != 0;
    const uint64_t first_channel = tile.section * g.channels.divisor;
    const uint64_t of_sample = tile.sample * g.sections.divisor * g.channels.divisor;
#pragma unroll 1
    for (uint32_t slot = threadIdx.x; slot < thread.width * kVector<T>; slot += blockDim.x) {
        const SlotPlace place(g, static_cast<uint64_t>(thread.first) * kVector<T> + slot);
        const uint64_t channel = first_channel + place.channel;
        const uint64_t index = by_group ? tile.section * g.groups + place.group : channel;
        const Affine affine{weight.at(index, 1.0f), bias.at(index, 0.0f)};
        maps[place_in_scratch(slot / kVector<T>, slot % kVector<T>)] =
            groups[place.group].with(modulate<T>(affine, p.modulation, p.flags, of_sample + channel));
    }
    __syncthreads();
}

// Where a tile goes.
template <class T, bool kSums>
struct SlabOutput {
    const WnChannelsLastParams& p;
    const SlabTile<T>& tile;
    T* sum;
    T* y;
    bool is_aligned;  // and of the input's type

    __device__ __forceinline__ SlabOutput(const WnChannelsLastParams& params, const SlabTile<T>& of)
        : p(params), tile(of), sum(kSums ? tensor<T>(p.sum) : nullptr), y(tensor<T>(p.y)),
          is_aligned(aligned_16(y + of.start) && (sum == nullptr || aligned_16(sum + of.start)) &&
                     p.y_type == WN_ELEMENT_AS_INPUT) {}

    // Of a whole round, where it is aligned.
    __device__ __forceinline__ void write_aligned(uint64_t round, uint32_t position, const ChannelMap (&map)[kVector<T>],
                                                  float (&value)[kVector<T>]) const {
        const uint64_t element = tile.element(round, position);
        if (kSums && sum != nullptr) store_whole(sum + element, value);
        apply(map, value);
        store_whole(y + element, value);
    }

    __device__ __forceinline__ void write(uint64_t round, uint32_t position, const ChannelMap (&map)[kVector<T>],
                                          float (&value)[kVector<T>]) const {
        const uint64_t own = tile.own(round);
        const uint64_t first = tile.element(round, position) - own;
        if (kSums && sum != nullptr) store(sum + own, tile.own_length, first, value);
        apply(map, value);
        store_as(p.y_type, y + own, p.y, own, tile.own_length, first, value);
    }

private:
    __device__ __forceinline__ void apply(const ChannelMap (&map)[kVector<T>], float (&value)[kVector<T>]) const {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = map[e].of(value[e]);
        activate(value, p.activation);
    }
};

// Writes a strip of a tile by the maps of its slots, kAtOnce vectors in flight.
template <class T, bool kSums, uint32_t kAtOnce, class Source>
__device__ __forceinline__ void write_strip(const WnChannelsLastParams& p, const Source& source, const SlabTile<T>& tile,
                                            const SlabThread& thread, const ChannelMap* maps) {
    if (!thread.active) return;
    ChannelMap map[kVector<T>];
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) map[e] = maps[place_in_scratch(thread.position - thread.first, e)];
    const SlabOutput<T, kSums> output(p, tile);
    const auto values_of = [](const typename Source::Vector& vector, float(&value)[kVector<T>]) {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = vector.at(e);
    };
    uint64_t round = tile.begin + thread.row;
    if (source.is_aligned && output.is_aligned) {
        for (; round + (kAtOnce - 1) * thread.rows < tile.whole; round += kAtOnce * thread.rows) {
            typename Source::Vector vector[kAtOnce];
            source.load_aligned(vector, round, thread);
#pragma unroll
            for (uint32_t k = 0; k < kAtOnce; k++) {
                float value[kVector<T>];
                values_of(vector[k], value);
                output.write_aligned(round + k * thread.rows, thread.position, map, value);
            }
        }
    }
#pragma unroll 1
    for (; round < tile.end && tile.element(round, thread.position) < tile.end_of_sample(); round += thread.rows) {
        float value[kVector<T>];
        values_of(source.vector(round, thread.position), value);
        output.write(round, thread.position, map, value);
    }
}

// Makes of the parts of a slab's groups [first, end) what they are normalized by. `parts_of(group)` is for all threads of a team.
template <class PartsOf>
__device__ __forceinline__ void finish_groups(const WnChannelsLastParams& p, uint64_t slab, const Teams& teams,
                                              Normalization* groups, bool moves_running, uint64_t first, uint64_t end,
                                              const PartsOf& parts_of) {
    const bool moves = moves_running && p.running.mean != 0;
    const float share = moves ? share_of_batch(p.running, p.flags) : 0.0f;
    for (uint64_t base = first; base < end; base += teams.count) {
        const bool present = base + teams.first < end;
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
        const Part mine = combined(LaneTeam{1}, [&](const auto& see) {
            if (present) see_tiles(parts + group, g.tiles, g.groups, slice, slices, see);
        });
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

__device__ __forceinline__ bool takes_sums(const WnChannelsLastParams& p) {
    return (p.flags & WN_FLAG_HELD_AS_STORED) == 0;
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
                           whole_slot_parts(tensor<const T>(p.x), tile, begin, end, thread, part);
                       } else if (takes_sums(p)) {
                           slot_parts(SlabInMemory<T, true>(p, tile, thread.position), tile, begin, end, thread, part);
                       } else {
                           slot_parts(SlabInMemory<T, false>(p, tile, thread.position), tile, begin, end, thread, part);
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
    const uint64_t round = tile.begin + thread.row;
    uint32_t count = 0;
    if (thread.active && round < tile.end) {
        const uint32_t left = static_cast<uint32_t>(tile.end - round);
        count = (left - 1) / thread.rows + 1;
        const uint64_t last = round + static_cast<uint64_t>(count - 1) * thread.rows;
        if (tile.element(last, thread.position) >= tile.end_of_sample()) count--;
    }
    const uint64_t first = tile.element(round, thread.position);
    const T* from = tensor<const T>(p.x) + first;
    T* to = tensor<T>(p.y) + first;
    const uint64_t step = thread.rows * tile.g.round;
    uint4 words[kAtOnce];
    const auto load = [&](uint32_t done) {
#pragma unroll
        for (uint32_t k = 0; k < kAtOnce; k++, from += step) {
            if (done + k < count) words[k] = load_at_once(from);
        }
    };
    load(0);
    __syncthreads();  // before the maps are overwritten
    leave_maps(p, tile, thread, groups, maps);
    if (count == 0) return;
    ChannelMap map[kVector<T>];
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) map[e] = maps[place_in_scratch(thread.position - thread.first, e)];
#pragma unroll 1
    for (uint32_t done = 0; done < count; done += kAtOnce) {
#pragma unroll
        for (uint32_t k = 0; k < kAtOnce; k++, to += step) {
            if (done + k >= count) break;
            float value[kVector<T>];
            unpack<T>(words[k], value);
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) value[e] = map[e].of(value[e]);
            activate(value, p.activation);
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
            leave_maps(p, tile, thread, groups, maps);
            // Where nothing is added, x is its sum.
            write_strip<T, true, 2>(p, SlabInMemory<T, true>(p, tile, thread.position), tile, thread, maps);
        }
    }
}

template <class T>
__device__ __forceinline__ void channels_last_resident(const WnChannelsLastParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    const WnSlabGeometry& g = p.slab;
    uint32_t* const arrived = reinterpret_cast<uint32_t*>(room);
    Part* const scratch = reinterpret_cast<Part*>(room + 1);
    Part* const parts = scratch + kVector<T> * (blockDim.x + 1);
    Normalization* const groups = reinterpret_cast<Normalization*>(parts + g.groups);
    uint4* const words = reinterpret_cast<uint4*>(groups + g.groups);
    ChannelMap* const maps = reinterpret_cast<ChannelMap*>(scratch);  // when that is done with
    const uint64_t number = blockIdx.x % g.tiles;
    const uint64_t column = blockIdx.x / g.tiles;
    const uint64_t columns = gridDim.x / g.tiles;
    const Teams teams(lanes_for(g.tiles));
    for (uint64_t slab = column; slab < g.samples * g.sections.divisor; slab += columns) {
        const SlabTile<T> tile(g, slab, number);
        const SlabInShared<T, false> stored{tile, words};
        const SlabInShared<T, true> sums{tile, words};
        for (uint32_t strip = 0; strip < g.strips; strip++) {
            if (takes_sums(p)) {
                sums.fill(p, SlabThread(g, strip));
            } else {
                stored.fill(p, SlabThread(g, strip));
            }
        }
        copies_arrived();
        tile_parts(tile, scratch, parts,
                   [&](uint64_t begin, uint64_t end, const SlabThread& thread, Part(&part)[kVector<T>]) {
                       if (takes_sums(p)) {
                           slot_parts(sums, tile, begin, end, thread, part);
                       } else {
                           slot_parts(stored, tile, begin, end, thread, part);
                       }
                   });
        if (g.tiles > 1) {
            cluster::arrive();
            cluster::wait();
        }
        finish_groups(p, slab, teams, groups, number == 0, 0, g.groups, [&](uint64_t group) {
            return g.tiles == 1 ? parts[group] : combined_blocks(teams, parts + group, g.tiles);
        });
        // That this block has read what the others have.
        if (g.tiles > 1) cluster::arrive();
        __syncthreads();
        for (uint32_t strip = 0; strip < g.strips; strip++) {
            const SlabThread thread(g, strip);
            leave_maps(p, tile, thread, groups, maps);
            if (takes_sums(p)) {
                write_strip<T, true, 1>(p, sums, tile, thread, maps);
            } else {
                write_strip<T, false, 2>(p, stored, tile, thread, maps);
            }
            __syncthreads();  // before the scratch is used again
        }
        if (g.tiles > 1) cluster::wait();
    }
    if (number == 0) count_batch(p.running, p.flags, g.counters, column, columns, arrived);
}

}  // namespace wn

using namespace wn;

WN_CHANNELS_LAST_KERNELS(WN_DEFINE)
