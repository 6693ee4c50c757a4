// Batch statistics: BatchNorm's moments of each channel over samples and space, in both layouts, and what follows from them.
//
//     mean[c], var[c] of s = x + residual
//     running_mean = (1 - momentum) * running_mean + momentum * mean,  running_var likewise, by var * n / (n - 1)
//     table[c] = mean, scale = weight / sqrt(var + eps), bias: what the pointwise kernels apply
//
// The mean is a pair, and the table has room for its upper half alone. The lower one goes into the bias, where it is worth
// `low * scale`: far less than the bias would have to be if all of the mean were there.
//
// One launch, which reads each byte of x and residual once; the pointwise kernels are the second. A channel is split over as
// many blocks as its size asks for. The last of them to finish merges what all have left in the workspace.
//
//     batch_statistics_planes          NCHW: a channel's vectors are counted through its planes
//     batch_statistics_channels_last   NHWC: as GroupNorm with a channel a group, over one slab of all samples
#include "channel_moments.cuh"

namespace wn {

// The share of this batch in the running statistics.
__device__ __forceinline__ float share_of_batch(const WnBatchStatisticsParams& p) {
    if ((p.flags & WN_FLAG_CUMULATIVE) == 0) return p.momentum;
    return 1.0f / static_cast<float>(global<const int64_t>(p.num_batches_tracked)[0] + 1);
}

template <class T>
__device__ __forceinline__ void finish_channel(const WnBatchStatisticsParams& p, uint64_t channel, const Moments& all,
                                               float share) {
    const float count = static_cast<float>(p.values);
    const float squares = all.m2.value();
    const uint64_t channels = p.slab.channels.divisor;
    const Coefficients<T> weight{p.weight, (p.flags & WN_FLAG_WEIGHT_F32) != 0};
    const Coefficients<T> bias{p.bias, (p.flags & WN_FLAG_BIAS_F32) != 0};
    const float scale = weight.at(channel, 1.0f) * reciprocal_deviation(squares / count, p.eps);
    float* table = global<float>(p.table) + channel;
    table[0] = all.mean.high;
    table[channels] = scale;
    table[2 * channels] = bias.at(channel, 0.0f) - all.mean.low * scale;
    if (p.running_mean == 0) return;
    float* mean = global<float>(p.running_mean) + channel;
    float* variance = global<float>(p.running_var) + channel;
    const float unbiased = (squares < 0.0f ? 0.0f : squares) / static_cast<float>(p.values - 1);
    *mean = (1.0f - share) * *mean + share * (all.mean.high + all.mean.low);
    *variance = (1.0f - share) * *variance + share * unbiased;
}

// After every block has read the number of batches.
__device__ __forceinline__ void count_batch(const WnBatchStatisticsParams& p) {
    if (threadIdx.x == 0 && p.num_batches_tracked != 0) global<int64_t>(p.num_batches_tracked)[0] += 1;
}

template <class T>
__device__ __forceinline__ void batch_statistics_channels_last(const WnBatchStatisticsParams& p) {
    WN_SHARED(SlotScratch<T>, scratch, 1);
    WN_SHARED(uint32_t, arrived, 1);
    const WnSlabGeometry& g = p.slab;
    const SlabPlace place(g, blockIdx.x);
    const SlabThread thread(g, place.strip);
    const Input<T> slab{stretch_of<const T>(p.x, 0, 0, g.length), stretch_of<const T>(p.residual, 0, 0, g.length),
                        stretch_of<T>(0, 0, 0, 0)};
    Moments slot[kVector<T>];
    const auto load = [&](uint64_t first, float(&value)[kVector<T>]) { slab.load(first, value); };
    slot_moments<T>(g, load, place, thread, slot);
    merge_rows<T>(scratch, thread, slot);
    write_partials<T>(g, scratch, place, thread, 0);
    const uint64_t parts = g.tiles * g.strips;
    if (!is_last(g.counters, 0, static_cast<uint32_t>(parts), arrived)) return;

    const float share = share_of_batch(p);
    const GroupTeams groups(parts);
    for (uint64_t base = 0; base < g.groups; base += groups.teams) {
        const uint64_t channel = base + groups.first;
        const bool present = channel < g.groups;
        const Moments* partials = global<const Moments>(g.partials) + (present ? channel : 0);
        const Moments all = merged_partials(partials, present ? parts : 0, g.groups, groups.team, groups.lane);
        if (groups.lane == 0 && present) finish_channel<T>(p, channel, all, share);
    }
    __syncthreads();
    count_batch(p);
}

template <class T>
__device__ __forceinline__ void batch_statistics_planes(const WnBatchStatisticsParams& p) {
    WN_SHARED(BlockScratch, scratch, 1);
    WN_SHARED(uint32_t, arrived, 1);
    BlockTeam team{scratch, 0};
    const WnSlabGeometry& g = p.slab;
    const uint64_t channels = g.channels.divisor;
    const uint64_t split = blockIdx.x % g.tiles;
    const uint64_t column = blockIdx.x / g.tiles;
    const uint64_t vectors = p.samples * p.plane_vectors.divisor;
    const uint64_t end = (split + 1) * g.tile_rounds < vectors ? (split + 1) * g.tile_rounds : vectors;
    Moments* partials = global<Moments>(g.partials);
    for (uint64_t channel = column; channel < channels; channel += g.columns) {
        Moments mine = no_moments();
        for (uint64_t vector = split * g.tile_rounds + threadIdx.x; vector < end; vector += blockDim.x) {
            const uint64_t sample = divide(vector, p.plane_vectors);
            const uint64_t first = (vector - sample * p.plane_vectors.divisor) * kVector<T>;
            const uint64_t plane = sample * channels + channel;
            const Input<T> input{stretch_of<const T>(p.x, plane, g.length, g.length),
                                 stretch_of<const T>(p.residual, plane, g.length, g.length), stretch_of<T>(0, 0, 0, 0)};
            float value[kVector<T>];
            input.load(first, value);
            const uint64_t left = g.length - first;
            mine = merge(mine, moments_of(value, left < kVector<T> ? static_cast<uint32_t>(left) : kVector<T>));
        }
        const Moments all = team.merge_all(mine);
        if (threadIdx.x == 0) partials[channel * g.tiles + split] = all;
    }
    if (!is_last(g.counters, column, static_cast<uint32_t>(g.tiles), arrived)) return;

    const float share = share_of_batch(p);
    const GroupTeams groups(g.tiles);
    const uint64_t count = (channels - column + g.columns - 1) / g.columns;
    for (uint64_t base = 0; base < count; base += groups.teams) {
        const uint64_t index = base + groups.first;
        const bool present = index < count;
        const uint64_t channel = column + (present ? index : 0) * g.columns;
        const Moments all =
            merged_partials(partials + channel * g.tiles, present ? g.tiles : 0, 1, groups.team, groups.lane);
        if (groups.lane == 0 && present) finish_channel<T>(p, channel, all, share);
    }
    // Its last counter is for the columns: whoever comes last knows that all have read the number of batches.
    if (is_last(g.counters, WN_COUNTERS - 1, static_cast<uint32_t>(g.columns), arrived)) count_batch(p);
}

}  // namespace wn

using namespace wn;

WN_BATCH_STATISTICS_KERNELS(WN_DEFINE)
