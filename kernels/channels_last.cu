// Channels last: GroupNorm and InstanceNorm in NHWC, any number of channels and groups.
//
//     s = x + residual + channel_bias[n, c]
//     y = activation(((s - mean(group)) / sqrt(var(group) + eps) * weight[c] + bias[c]) * scale[n, c] + shift[n, c])
//
// Two launches. The first reads x and residual once, as 16-byte words, and leaves each group's mean (a pair) and
// 1 / deviation in the workspace; the second reads them again and writes sum and y, beginning with what the first read last,
// which may still be in L2. How moments of channels are found and brought together: channel_moments.cuh.
#include "channel_moments.cuh"

namespace wn {

template <class T>
__device__ __forceinline__ Input<T> input_of_slab(uint64_t x, uint64_t residual, uint64_t sum, uint64_t sample,
                                                  uint64_t length) {
    return Input<T>{stretch_of<const T>(x, sample, length, length), stretch_of<const T>(residual, sample, length, length),
                    stretch_of<T>(sum, sample, length, length)};
}

// The channel of a slot.
template <class T>
__device__ __forceinline__ uint64_t channel_of_slot(const WnSlabGeometry& g, const SlabPlace& place,
                                                    const SlabThread& thread, uint32_t e) {
    const uint64_t element = (static_cast<uint64_t>(place.strip) * g.strip + thread.position) * kVector<T> + e;
    return element - divide(element, g.channels) * g.channels.divisor;
}

// What each slot's channel of a sample adds to the input.
template <class T>
__device__ __forceinline__ void channel_biases(const WnChannelsLastParams& p, const SlabPlace& place,
                                               const SlabThread& thread, uint64_t sample, float (&added)[kVector<T>]) {
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) {
        const Coefficients<T> bias{p.modulation.channel_bias, (p.flags & WN_FLAG_CHANNEL_BIAS_F32) != 0};
        const uint64_t channel = channel_of_slot<T>(p.slab, place, thread, e);
        added[e] = bias.at(sample * p.slab.channels.divisor + channel, 0.0f);
    }
}

template <class T>
__device__ __forceinline__ void load_with_bias(const WnChannelsLastParams& p, const Input<T>& input, uint64_t first,
                                               const float (&added)[kVector<T>], float (&value)[kVector<T>]) {
    input.load(first, value);
    if (p.modulation.channel_bias == 0) return;
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) value[e] += added[e];
}

template <class T>
__device__ __forceinline__ void channels_last_moments(const WnChannelsLastParams& p) {
    WN_SHARED(SlotScratch<T>, scratch, 1);
    WN_SHARED(uint32_t, arrived, 1);
    const WnSlabGeometry& g = p.slab;
    const SlabPlace place(g, blockIdx.x);
    const SlabThread thread(g, place.strip);
    for (uint64_t sample = place.column; sample < g.slabs; sample += g.columns) {
        const Input<T> slab = input_of_slab<T>(p.x, p.residual, 0, sample, g.length);
        float added[kVector<T>];
        channel_biases<T>(p, place, thread, sample, added);
        const auto load = [&](uint64_t first, float(&value)[kVector<T>]) { load_with_bias(p, slab, first, added, value); };
        Moments slot[kVector<T>];
        slot_moments<T>(g, load, place, thread, slot);
        merge_rows<T>(scratch, thread, slot);
        write_partials<T>(g, scratch, place, thread, sample);
        __syncthreads();  // before the scratch is used again
    }
    const uint64_t parts = g.tiles * g.strips;
    if (!is_last(g.counters, place.column, static_cast<uint32_t>(parts), arrived)) return;

    const float count = static_cast<float>(g.length / g.groups);
    const GroupTeams groups(parts);
    for (uint64_t sample = place.column; sample < g.slabs; sample += g.columns) {
        const Moments* partials = global<const Moments>(g.partials) + sample * parts * g.groups;
        float* results = global<float>(p.results) + sample * g.groups * 3;
        for (uint64_t base = 0; base < g.groups; base += groups.teams) {
            const uint64_t group = base + groups.first;
            const bool present = group < g.groups;
            const Moments all =
                merged_partials(partials + (present ? group : 0), present ? parts : 0, g.groups, groups.team, groups.lane);
            if (groups.lane == 0 && present) {
                results[group * 3] = all.mean.high;
                results[group * 3 + 1] = all.mean.low;
                results[group * 3 + 2] = reciprocal_deviation(all.m2.value() / count, p.eps);
            }
        }
    }
}

// What a thread applies to one of its slots. The lower half of the mean is in the bias, where it is worth little: three
// numbers take less registers than five.
struct SlotConstants {
    float mean;
    float scale;
    float bias;
};

template <class T>
__device__ __forceinline__ void channels_last_apply(const WnChannelsLastParams& p) {
    const WnSlabGeometry& g = p.slab;
    // Backwards.
    const SlabPlace place(g, gridDim.x - 1 - blockIdx.x);
    const SlabThread thread(g, place.strip);
    if (!thread.active) return;
    const Coefficients<T> weight{p.weight, (p.flags & WN_FLAG_WEIGHT_F32) != 0};
    const Coefficients<T> bias{p.bias, (p.flags & WN_FLAG_BIAS_F32) != 0};
    const uint64_t period = static_cast<uint64_t>(g.period) * kVector<T>;
    const uint64_t offset = static_cast<uint64_t>(place.strip) * g.strip * kVector<T>;
    const uint64_t begin = place.tile * g.tile_rounds;
    const uint64_t rounds = (g.length + period - 1) / period;
    const uint64_t end = begin + g.tile_rounds < rounds ? begin + g.tile_rounds : rounds;
    for (uint64_t sample = place.column; sample < g.slabs; sample += g.columns) {
        const float* results = global<const float>(p.results) + sample * g.groups * 3;
        float added[kVector<T>];
        channel_biases<T>(p, place, thread, sample, added);
        SlotConstants slot[kVector<T>];
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) {
            const uint64_t channel = channel_of_slot<T>(g, place, thread, e);
            const float* of_group = results + divide(channel, p.group) * 3;
            const Affine of_channel{weight.at(channel, 1.0f), bias.at(channel, 0.0f)};
            const Affine affine =
                modulate<T>(of_channel, p.modulation, p.flags, sample * g.channels.divisor + channel);
            const float scale = of_group[2] * affine.weight;
            slot[e] = SlotConstants{of_group[0], scale, affine.bias - of_group[1] * scale};
        }
        for (uint64_t round = end - begin > thread.row ? begin + thread.row : end; round < end; round += thread.rows) {
            // The elements that this block has for itself: of one round its strip, or, if that is all of it, the tile. In
            // place and off an aligned address, nothing may be read beyond: another block may be writing it.
            const uint64_t start = g.strips == 1 ? begin * period : round * period + offset;
            const uint64_t room = g.strips == 1 ? (end - begin) * period : thread.width * kVector<T>;
            if (start >= g.length) break;
            const uint64_t length = g.length - start < room ? g.length - start : room;
            const uint64_t at = sample * g.length + start;
            const uint64_t first = round * period + offset + thread.position * kVector<T> - start;
            if (first >= length) break;
            const Input<T> input{stretch_of<const T>(p.x, 1, at, length), stretch_of<const T>(p.residual, 1, at, length),
                                 stretch_of<T>(p.sum, 1, at, length)};
            float value[kVector<T>];
            load_with_bias(p, input, first, added, value);
            input.write_sum(first, value);
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) {
                value[e] = (value[e] - slot[e].mean) * slot[e].scale + slot[e].bias;
            }
            activate(value, p.activation);
            store_as(p.y_type, global<T>(p.y) + at, p.y, at, length, first, value);
        }
    }
}

}  // namespace wn

using namespace wn;

WN_CHANNELS_LAST_KERNELS(WN_DEFINE)
