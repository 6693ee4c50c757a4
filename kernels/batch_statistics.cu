// Batch statistics in NCHW: BatchNorm's moments of each channel over samples and space, and what follows from them.
//
//     mean[c], var[c] of s = x + residual
//     running_mean = (1 - momentum) * running_mean + momentum * mean,  running_var likewise, by var * n / (n - 1)
//     y = activation((s - mean[c]) / sqrt(var[c] + eps) * weight[c] + bias[c])
//
// A channel's vectors are counted through its planes, and cut into tiles by their number alone.
//
//     batch_statistics_planes            of two launches the first: it reads x and residual once, and leaves a table for
//                                        pointwise_planes, the second. The last block of a channel merges what all have left
//     batch_statistics_planes_resident   one launch: a channel stays in the shared memory of 1..16 blocks, which find its moments
//                                        together and write it from there
//
// The mean is a pair, and the table has room for its upper half alone. The lower one goes into the bias, where it is worth
// `low * scale`: far less than the bias would have to be if all of the mean were there.
//
// In NHWC batch statistics are GroupNorm with a channel a group, over one sample: channels_last.cu. So are small planes that do
// not end with a vector, whose elements are channels of that.
#include "channel_moments.cuh"

namespace wn {

// A tile of a channel.
template <class T>
struct PlaneTile {
    const WnBatchStatisticsParams& p;
    uint64_t channel;
    uint64_t begin;  // vectors
    uint64_t end;
    bool is_whole;  // planes end with a vector

    __device__ __forceinline__ PlaneTile(const WnBatchStatisticsParams& params, uint64_t channel, uint64_t tile)
        : p(params), channel(channel), begin(tile * p.tile_vectors), is_whole(p.spatial % kVector<T> == 0) {
        end = begin + p.tile_vectors < p.vectors ? begin + p.tile_vectors : p.vectors;
    }

    // Where a vector is: of a plane, which begins there, the element.
    __device__ __forceinline__ uint64_t plane(uint64_t vector, uint64_t& first) const {
        const uint64_t sample = divide(vector, p.plane_vectors);
        first = (vector - sample * p.plane_vectors.divisor) * kVector<T>;
        return (sample * p.channels + channel) * p.spatial;
    }

    // Of those of a vector, how many elements are in the plane.
    __device__ __forceinline__ uint32_t elements(uint64_t vector) const {
        uint64_t first;
        plane(vector, first);
        const uint64_t left = p.spatial - first;
        return left < kVector<T> ? static_cast<uint32_t>(left) : kVector<T>;
    }
};

// The vectors of a tile in memory: x + residual in f32, and, where it is direct, x as it is stored.
template <class T>
struct PlanesInMemory {
    const PlaneTile<T>& tile;
    const T* x;
    const T* residual;
    bool is_direct;

    __device__ __forceinline__ explicit PlanesInMemory(const PlaneTile<T>& of)
        : tile(of), x(tensor<const T>(of.p.x)), residual(tensor<const T>(of.p.residual)),
          is_direct(of.is_whole && aligned_16(x) && residual == nullptr) {}

    __device__ __forceinline__ uint4 direct(uint64_t vector) const {
        uint64_t first;
        const uint64_t plane = tile.plane(vector, first);
        return *reinterpret_cast<const uint4*>(x + plane + first);
    }

    __device__ __forceinline__ uint4 stored(uint64_t vector) const {
        uint64_t first;
        const uint64_t plane = tile.plane(vector, first);
        return load_words(x + plane, tile.p.spatial, first);
    }

    __device__ __forceinline__ void load(uint64_t vector, float (&value)[kVector<T>]) const {
        uint64_t first;
        const uint64_t plane = tile.plane(vector, first);
        const Vector<T> sum =
            load_anywhere(x + plane, residual == nullptr ? nullptr : residual + plane, tile.p.spatial, first);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = sum.elements[e];
    }
};

// The same in shared memory, as stored or, with a residual, in f32. A thread reads only what it wrote, or had copied, itself.
template <class T>
struct PlanesInShared {
    static constexpr uint32_t kWords = kVector<T> / 4;  // of a vector in f32
    const PlaneTile<T>& tile;
    uint4* held;
    bool is_direct;  // as stored

    __device__ __forceinline__ PlanesInShared(const PlaneTile<T>& of, uint4* held)
        : tile(of), held(held), is_direct((of.p.flags & WN_FLAG_HELD_AS_STORED) != 0) {}

    __device__ __forceinline__ uint4 direct(uint64_t vector) const { return held[vector - tile.begin]; }

    // Word by word, so that those of a warp's threads lie beside each other.
    __device__ __forceinline__ uint4& word(uint64_t vector, uint32_t number) const {
        return held[number * static_cast<uint32_t>(tile.p.tile_vectors) + static_cast<uint32_t>(vector - tile.begin)];
    }

    __device__ __forceinline__ void load(uint64_t vector, float (&value)[kVector<T>]) const {
        if (is_direct) return unpack<T>(direct(vector), value);
#pragma unroll
        for (uint32_t w = 0; w < kWords; w++) unpack<float>(word(vector, w), value + w * 4);
    }

    // What is copied is here behind copies_arrived().
    __device__ __forceinline__ void fill(const PlanesInMemory<T>& source) const {
        uint64_t vector = tile.begin + threadIdx.x;
        if (is_direct && source.is_direct) {
            for (; vector < tile.end; vector += blockDim.x) {
                uint64_t first;
                const uint64_t plane = tile.plane(vector, first);
                copy_async(held + (vector - tile.begin), reinterpret_cast<const uint4*>(source.x + plane + first));
            }
        }
#pragma unroll 1
        for (; vector < tile.end; vector += blockDim.x) {
            if (is_direct) {
                held[vector - tile.begin] = source.stored(vector);
                continue;
            }
            float value[kVector<T>];
            source.load(vector, value);
#pragma unroll
            for (uint32_t w = 0; w < kWords; w++) word(vector, w) = pack<float>(value + w * 4);
        }
    }
};

// The first `count` elements of a vector, as sums of differences from a pivot.
template <class T>
__device__ __forceinline__ float differences(const float (&value)[kVector<T>], uint32_t count, float pivot, float& squares) {
    float difference[kVector<T>];
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) difference[e] = e < count ? value[e] - pivot : 0.0f;
    squares += tree_sum_of_squares(difference);
    return tree_sum(difference);
}

// What a thread sums of a tile, 64 vectors at a time: in batches and then, what is less than one, by vectors. The pivot is the
// mean of the first batch, or vector.
template <class T, class Source>
__device__ __forceinline__ Part part_of_thread(const Source& source, const PlaneTile<T>& tile) {
    constexpr uint32_t kBatch = 8;
    constexpr uint32_t kMost = 64;
    Part all = no_part();
    uint64_t vector = tile.begin + threadIdx.x;
    while (vector < tile.end) {
        float pivot = 0.0f, sum = 0.0f, squares = 0.0f, unused = 0.0f;
        uint32_t count = 0;
        while (count < kMost * kVector<T> && tile.is_whole && vector + (kBatch - 1) * blockDim.x < tile.end) {
            float value[kBatch][kVector<T>];
            if (source.is_direct) {
                uint4 words[kBatch];
#pragma unroll
                for (uint32_t k = 0; k < kBatch; k++) words[k] = source.direct(vector + k * blockDim.x);
#pragma unroll
                for (uint32_t k = 0; k < kBatch; k++) unpack<T>(words[k], value[k]);
            } else {
#pragma unroll
                for (uint32_t k = 0; k < kBatch; k++) source.load(vector + k * blockDim.x, value[k]);
            }
            float of_batch = 0.0f, squares_of_batch = 0.0f;
            if (count == 0) {
#pragma unroll
                for (uint32_t k = 0; k < kBatch; k++) of_batch += differences<T>(value[k], kVector<T>, value[0][0], unused);
                pivot = fused(of_batch, 1.0f / (kBatch * kVector<T>), value[0][0]);
                of_batch = 0.0f;
            }
#pragma unroll
            for (uint32_t k = 0; k < kBatch; k++) of_batch += differences<T>(value[k], kVector<T>, pivot, squares_of_batch);
            sum += of_batch;
            squares += squares_of_batch;
            count += kBatch * kVector<T>;
            vector += kBatch * blockDim.x;
        }
#pragma unroll 1
        for (; count < kMost * kVector<T> && vector < tile.end; vector += blockDim.x) {
            float value[kVector<T>];
            source.load(vector, value);
            const uint32_t elements = tile.elements(vector);
            if (count == 0) {
                pivot = fused(differences<T>(value, elements, value[0], unused), 1.0f / kVector<T>, value[0]);
            }
            sum += differences<T>(value, elements, pivot, squares);
            count += elements;
        }
        const float n = static_cast<float>(count);
        all = together(all, part_of(n, 1.0f / n, pivot, sum, squares));
    }
    return all;
}

// All threads of a block; each gets the result.
__device__ __forceinline__ Part part_of_block(const Part& mine, Part* warps) {
    const LaneTeam warp{WN_WARP};
    const Part of_warp = combined(warp, [&](const auto& see) { see(mine); });
    if (threadIdx.x % WN_WARP == 0) warps[threadIdx.x / WN_WARP] = of_warp;
    __syncthreads();
    const uint32_t lane = threadIdx.x % WN_WARP;
    const Part all = combined(warp, [&](const auto& see) {
        if (lane < blockDim.x / WN_WARP) see(warps[lane]);
    });
    __syncthreads();  // before they are used again
    return all;
}

template <class T>
__device__ __forceinline__ Affine affine_of(const WnBatchStatisticsParams& p, uint64_t channel) {
    const Coefficients<T> weight{p.weight, (p.flags & WN_FLAG_WEIGHT_F32) != 0};
    const Coefficients<T> bias{p.bias, (p.flags & WN_FLAG_BIAS_F32) != 0};
    return Affine{weight.at(channel, 1.0f), bias.at(channel, 0.0f)};
}

template <class T>
__device__ __forceinline__ void batch_statistics_planes(const WnBatchStatisticsParams& p) {
    WN_SHARED(Part, warps, WN_SLAB_THREADS / WN_WARP);
    WN_SHARED(uint32_t, arrived, 1);
    const uint64_t number = blockIdx.x % p.tiles;
    const uint64_t column = blockIdx.x / p.tiles;
    Part* const parts = global<Part>(p.partials);
    for (uint64_t channel = column; channel < p.channels; channel += p.columns) {
        const PlaneTile<T> tile(p, channel, number);
        const Part all = part_of_block(part_of_thread(PlanesInMemory<T>(tile), tile), warps);
        if (threadIdx.x == 0) parts[channel * p.tiles + number] = all;
    }
    if (!is_last(p.counters, column, static_cast<uint32_t>(p.tiles), arrived)) return;

    const float share = share_of_batch(p.running, p.flags);
    const Teams teams(lanes_for(p.tiles));
    const uint64_t count = (p.channels - column + p.columns - 1) / p.columns;
    for (uint64_t base = 0; base < count; base += teams.count) {
        const bool present = base + teams.first < count;
        const uint64_t channel = column + (present ? base + teams.first : 0) * p.columns;
        const Part all = combined_tiles(teams, parts + channel * p.tiles, p.tiles, 1);
        if (teams.lane != 0 || !present) continue;
        const ChannelMap map = normalization_of(all, p.eps).with(affine_of<T>(p, channel));
        float* const table = global<float>(p.table) + channel;
        table[0] = map.mean;
        table[p.channels] = map.scale;
        table[2 * p.channels] = map.bias;
        move_running(p.running, channel, all, share);
    }
    count_batch(p.running, p.flags, p.counters, column, p.columns, arrived);
}

template <class T>
__device__ __forceinline__ void write_planes(const PlanesInShared<T>& held, const PlaneTile<T>& tile,
                                             const ChannelMap& map) {
    const WnBatchStatisticsParams& p = tile.p;
    T* const y = tensor<T>(p.y);
    T* const sum = tensor<T>(p.sum);
    const bool is_direct = tile.is_whole && sum == nullptr && aligned_16(y) && p.y_type == WN_ELEMENT_AS_INPUT;
#pragma unroll 2
    for (uint64_t vector = tile.begin + threadIdx.x; vector < tile.end; vector += blockDim.x) {
        uint64_t first;
        const uint64_t plane = tile.plane(vector, first);
        float value[kVector<T>];
        held.load(vector, value);
        if (sum != nullptr) store(sum + plane, p.spatial, first, value);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = map.of(value[e]);
        activate(value, p.activation);
        if (is_direct) {
            store_whole(y + plane + first, value);
        } else {
            store_as(p.y_type, y + plane, p.y, plane, p.spatial, first, value);
        }
    }
}

template <class T>
__device__ __forceinline__ void batch_statistics_planes_resident(const WnBatchStatisticsParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    static_assert(WN_PLANES_WORDS == 2 + WN_SLAB_THREADS / WN_WARP, "the words before those that are held");
    uint32_t* const arrived = reinterpret_cast<uint32_t*>(room);
    Part* const part = reinterpret_cast<Part*>(room + 1);  // of the block
    Part* const warps = part + 1;
    uint4* const words = room + WN_PLANES_WORDS;
    const uint64_t number = blockIdx.x % p.tiles;
    const uint64_t column = blockIdx.x / p.tiles;
    const uint64_t columns = gridDim.x / p.tiles;
    const float share = share_of_batch(p.running, p.flags);
    const Teams teams(lanes_for(p.tiles));
    for (uint64_t channel = column; channel < p.channels; channel += columns) {
        const PlaneTile<T> tile(p, channel, number);
        const PlanesInShared<T> held(tile, words);
        held.fill(PlanesInMemory<T>(tile));
        const Affine affine = affine_of<T>(p, channel);
        copies_arrived();
        Part all = part_of_block(part_of_thread(held, tile), warps);
        if (p.tiles > 1) {
            if (threadIdx.x == 0) part[0] = all;
            cluster::arrive();
            cluster::wait();
            all = combined_blocks(teams, part, p.tiles);
            // That this block has read what the others have.
            cluster::arrive();
        }
        write_planes(held, tile, normalization_of(all, p.eps).with(affine));
        if (number == 0 && threadIdx.x == 0) move_running(p.running, channel, all, share);
        if (p.tiles > 1) cluster::wait();
    }
    if (number == 0) count_batch(p.running, p.flags, p.counters, column, columns, arrived);
}

}  // namespace wn

using namespace wn;

WN_BATCH_STATISTICS_KERNELS(WN_DEFINE)
