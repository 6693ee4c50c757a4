// Pointwise: one affine map a channel. BatchNorm inference in both layouts, InstanceNorm with running statistics, and
// the second half of any split plan.
//
//     y = activation((x + residual - mean[c]) * scale[c] + bias[c]),   scale = weight / sqrt(running_var + eps)
//
// The maps are made from the running statistics on the way, or read from a table that pointwise_table made once. Each byte of
// x, residual, sum and y moves once, as 16-byte words, in one launch, which begins with what an earlier one has met last: it
// may still be in L2. A thread asks for four words before it needs one. Meanwhile its block makes the maps that it will
// need, each of them once, in shared memory; the kernels differ in how a vector finds its own there.
//
//     pointwise_planes          planes of 32 elements and more: tiles of the flat tensor. A vector lies in one plane, or steps
//                               over to the next
//     pointwise_channels_last   NHWC, and smaller planes: a thread's vectors lie whole periods apart, after which the channels
//                               repeat, so that their maps stay in registers. A tile is some rounds of such periods, or, where
//                               those are long, of a part of one
#include "stages.cuh"

namespace wn {

template <class T>
__device__ __forceinline__ ChannelMap map_from_statistics(uint64_t mean, uint64_t variance, uint64_t weight, uint64_t bias,
                                                          uint32_t flags, float eps, uint64_t channel) {
    const Coefficients<T> weights{weight, (flags & WN_FLAG_WEIGHT_F32) != 0};
    const Coefficients<T> biases{bias, (flags & WN_FLAG_BIAS_F32) != 0};
    // Not clamped at zero: a negative running variance is a broken model and shall show as NaN.
    const float rstd = __frsqrt_rn(global<const float>(variance)[channel] + eps);
    return ChannelMap{global<const float>(mean)[channel], weights.at(channel, 1.0f) * rstd, biases.at(channel, 0.0f)};
}

template <class T>
__device__ __forceinline__ float4 map_of(const WnPointwiseParams& p, uint64_t channel) {
    if (p.table == 0) {
        const ChannelMap map =
            map_from_statistics<T>(p.running_mean, p.running_var, p.weight, p.bias, p.flags, p.eps, channel);
        return float4{map.mean, map.scale, map.bias, 0.0f};
    }
    const float* table = global<const float>(p.table) + channel;
    return float4{table[0], table[p.channels.divisor], table[2 * p.channels.divisor], 0.0f};
}

__device__ __forceinline__ ChannelMap map_in(const float4& word) { return ChannelMap{word.x, word.y, word.z}; }

// How a tensor is gone through. Whole: all tensors begin on 16-byte words, and end with a vector. At once: vectors that a thread
// has on their way; with a residual half of them, for those are as many words.
template <bool whole, bool may_add, uint32_t at_once>
struct Way {
    static constexpr bool kWhole = whole;
    static constexpr bool kMayAdd = may_add;
    static constexpr uint32_t kAtOnce = at_once;
};

template <class T, class Body>
__device__ __forceinline__ void choose_way(const WnPointwiseParams& p, const Body& body) {
    const uint64_t y = p.y_type == WN_ELEMENT_AS_INPUT ? p.y : 0;
    const bool is_whole = ((p.x | p.residual | p.sum | y) & 15u) == 0 && p.length % kVector<T> == 0;
    if (!is_whole) {
        body(Way<false, true, 1>());
    } else if (p.residual != 0) {
        body(Way<true, true, WN_POINTWISE_VECTORS / 2>());
    } else {
        body(Way<true, false, WN_POINTWISE_VECTORS>());
    }
}

// The elements that a block visits together. Near their ends nothing is read beyond them, so that a block never touches a word
// of which another block writes a part, in place and off an aligned address.
template <class T, class Way>
struct Tile {
    const WnPointwiseParams& p;
    uint64_t start;
    uint64_t length;

    __device__ __forceinline__ Tile(const WnPointwiseParams& p, uint64_t start, uint64_t room)
        : p(p), start(start), length(p.length - start < room ? p.length - start : room) {}

    __device__ __forceinline__ uint4 words(uint64_t tensor, uint32_t first) const {
        const T* from = global<const T>(tensor) + start;
        if (Way::kWhole) return *reinterpret_cast<const uint4*>(as_global(from + first));
        return load_words(from, length, first);
    }

    __device__ __forceinline__ void write_sum(uint32_t first, const float (&value)[kVector<T>]) const {
        if (p.sum != 0) put(global<T>(p.sum) + start, first, value);
    }

    __device__ __forceinline__ void write(uint32_t first, const float (&value)[kVector<T>]) const {
        T* const y = global<T>(p.y) + start;
        if (p.y_type == WN_ELEMENT_AS_INPUT) return put(y, first, value);
        store_as(p.y_type, y, p.y, start, length, first, value);
    }

private:
    __device__ __forceinline__ void put(T* to, uint32_t first, const float (&value)[kVector<T>]) const {
        if (Way::kWhole) {
            store_whole(to + first, value);
        } else {
            store(to, length, first, value);
        }
    }
};

// A vector on its way: as stored, until it is wanted.
template <class T, class Way>
struct InFlight {
    uint4 x;
    uint4 residual;

    __device__ __forceinline__ void load(const Tile<T, Way>& tile, uint32_t first) {
        x = tile.words(tile.p.x, first);
        if (Way::kMayAdd && tile.p.residual != 0) residual = tile.words(tile.p.residual, first);
    }

    __device__ __forceinline__ void arrive(const WnPointwiseParams& p, float (&value)[kVector<T>]) const {
        unpack<T>(x, value);
        if (!Way::kMayAdd || p.residual == 0) return;
        float added[kVector<T>];
        unpack<T>(residual, added);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] += added[e];
    }
};

// The planes that a tile has a part of, from `first` on, the one behind them included.
struct PlanesOfTile {
    uint64_t first;
    uint32_t phase;  // the tile's start, counted from that of its first plane; of a plane beyond 2^30, from its end minus that
    uint32_t count;

    __device__ __forceinline__ PlanesOfTile(const WnPointwiseParams& p, uint64_t start, uint32_t length) {
        first = divide(start, p.spatial);
        const uint64_t left = (first + 1) * p.spatial.divisor - start;
        phase = left < p.plane.divisor ? p.plane.divisor - static_cast<uint32_t>(left) : 0;
        count = divide(phase + length - 1, p.plane) + 2;
    }
};

template <class T>
__device__ __forceinline__ void make_maps(const WnPointwiseParams& p, const PlanesOfTile& planes, float4* maps) {
    for (uint32_t i = threadIdx.x; i < planes.count; i += blockDim.x) {
        const uint64_t plane = planes.first + i;
        maps[i] = map_of<T>(p, plane - divide(plane, p.channels) * p.channels.divisor);
    }
}

// `position` is the vector's first element, counted as the tile's phase.
template <class T>
__device__ __forceinline__ void map_planes(const WnPointwiseParams& p, const float4* maps, uint32_t position,
                                           float (&value)[kVector<T>]) {
    const uint32_t plane = divide(position, p.plane);
    const ChannelMap map = map_in(maps[plane]);
    if (p.plane.divisor % kVector<T> == 0) {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = map.of(value[e]);
        return;
    }
    // Without a branch: of the vectors of a warp some step over to the next plane.
    const ChannelMap next = map_in(maps[plane + 1]);
    const uint32_t left = (plane + 1) * p.plane.divisor - position;
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) value[e] = e < left ? map.of(value[e]) : next.of(value[e]);
}

template <class T, class Way>
__device__ __forceinline__ void map_tile(const WnPointwiseParams& p, const Tile<T, Way>& tile, float4* maps) {
    const uint32_t length = static_cast<uint32_t>(tile.length);
    const PlanesOfTile planes(p, tile.start, length);
    for (uint32_t group = 0; group < p.vectors; group += Way::kAtOnce) {
        const uint32_t begin = (group * blockDim.x + threadIdx.x) * kVector<T>;
        InFlight<T, Way> vector[Way::kAtOnce];
#pragma unroll
        for (uint32_t k = 0; k < Way::kAtOnce; k++) {
            const uint32_t first = begin + k * blockDim.x * kVector<T>;
            if (first < length) vector[k].load(tile, first);
        }
        if (group == 0) {
            make_maps<T>(p, planes, maps);
            __syncthreads();
        }
#pragma unroll
        for (uint32_t k = 0; k < Way::kAtOnce; k++) {
            const uint32_t first = begin + k * blockDim.x * kVector<T>;
            if (first >= length) continue;
            float value[kVector<T>];
            vector[k].arrive(p, value);
            tile.write_sum(first, value);
            map_planes<T>(p, maps, planes.phase + first, value);
            activate(value, p.activation);
            tile.write(first, value);
        }
    }
}

template <class T>
__device__ __forceinline__ void pointwise_planes(const WnPointwiseParams& p) {
    constexpr uint32_t kMost = WN_POINTWISE_THREADS * WN_POINTWISE_VECTORS * kVector<T>;
    WN_SHARED(float4, maps, kMost / WN_POINTWISE_PLANE + 3);
    const uint64_t room = static_cast<uint64_t>(blockDim.x) * p.vectors * kVector<T>;
    choose_way<T>(p, [&](auto way) {
        for (uint64_t done = blockIdx.x; done < p.tiles; done += gridDim.x) {
            if (done != blockIdx.x) __syncthreads();  // nobody needs the last tile's maps any more
            map_tile(p, Tile<T, decltype(way)>(p, (p.tiles - 1 - done) * room, room), maps);
        }
    });
}

// The maps of a block's channels, in shared memory, in the order in which its elements meet them. Between every eight there is
// room for one, so that lanes that read eight maps apart do not all ask the same bank.
struct MapsOfBlock {
    float4* maps;

    __device__ __forceinline__ float4& operator[](uint32_t i) const { return maps[i + i / 8]; }

    // Of `elements` from `position` on. Returns where the position lies in its plane.
    template <class T>
    __device__ __forceinline__ uint32_t make(const WnPointwiseParams& p, uint64_t position, uint32_t elements) const {
        const uint64_t channels = p.channels.divisor;
        const uint64_t plane = divide(position, p.spatial);
        const uint64_t channel = plane - divide(plane, p.channels) * channels;
        const uint64_t phase = position - plane * p.spatial.divisor;
        const uint64_t planes = divide(phase + elements - 1, p.spatial) + 1;
        for (uint32_t i = threadIdx.x; i < (planes < channels ? planes : channels); i += blockDim.x) {
            const uint64_t next = channel + i;
            (*this)[i] = map_of<T>(p, next < channels ? next : next - channels);
        }
        return static_cast<uint32_t>(phase);
    }

    // Of a vector's elements; `position` is that of the first, counted from where the block's first plane begins.
    template <uint32_t kCount>
    __device__ __forceinline__ void take(const WnPointwiseParams& p, uint32_t position, ChannelMap (&map)[kCount]) const {
        const uint32_t spatial = static_cast<uint32_t>(p.spatial.divisor);
        const uint64_t plane = divide(uint64_t{position}, p.spatial);
        uint32_t left = static_cast<uint32_t>(plane + 1) * spatial - position;
        uint32_t i = static_cast<uint32_t>(plane - divide(plane, p.channels) * p.channels.divisor);
#pragma unroll
        for (uint32_t e = 0; e < kCount; e++) {
            map[e] = map_in((*this)[i]);
            if (--left > 0) continue;
            left = spatial;
            i = i + 1 == p.channels.divisor ? 0 : i + 1;
        }
    }
};

// A thread's vectors of a tile, a round apart, the last one first.
template <class T, class Way>
__device__ __forceinline__ void map_rounds(const WnPointwiseParams& p, uint64_t tile, const MapsOfBlock& maps) {
    const uint64_t group = divide(tile, p.parts);
    const uint64_t block = (tile - group * p.parts.divisor) * blockDim.x;
    // A round's last part may be cut short by the next round's first.
    const uint32_t threads = p.stride - block < blockDim.x ? static_cast<uint32_t>(p.stride - block) : blockDim.x;
    const uint32_t room = threads * kVector<T>;
    const uint32_t first = threadIdx.x * kVector<T>;
    const uint64_t step = p.stride * kVector<T>;
    // Whole vectors need no tile around them.
    const uint32_t inside = Way::kWhole ? 0 : first;
    const uint64_t first_round = group * p.vectors;
    const uint64_t left = p.rounds - first_round;
    const uint32_t most = left < p.vectors ? static_cast<uint32_t>(left) : p.vectors;
    uint64_t start = block * kVector<T> + (first_round + most - 1) * step + (first - inside);
    uint32_t rounds = threadIdx.x < threads ? most : 0;
    if (rounds != 0 && start + inside >= p.length) {
        start -= step;
        rounds--;
    }

    InFlight<T, Way> vector[Way::kAtOnce];
    const auto load = [&] {
        uint64_t from = start;
#pragma unroll
        for (uint32_t k = 0; k < Way::kAtOnce; k++, from -= step) {
            if (k < rounds) vector[k].load(Tile<T, Way>(p, from, room), inside);
        }
    };
    load();
    const uint32_t phase = maps.make<T>(p, block * kVector<T>, room);
    __syncthreads();
    if (rounds == 0) return;
    ChannelMap map[kVector<T>];
    maps.take(p, phase + first, map);
    for (;; load()) {
#pragma unroll
        for (uint32_t k = 0; k < Way::kAtOnce; k++, start -= step) {
            if (k >= rounds) return;
            const Tile<T, Way> tile(p, start, room);
            float value[kVector<T>];
            vector[k].arrive(p, value);
            tile.write_sum(inside, value);
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) value[e] = map[e].of(value[e]);
            activate(value, p.activation);
            tile.write(inside, value);
        }
        if (rounds <= Way::kAtOnce) return;
        rounds -= Way::kAtOnce;
    }
}

template <class T>
__device__ __forceinline__ void pointwise_channels_last(const WnPointwiseParams& p) {
    WN_DYNAMIC_SHARED(float4, maps);
    choose_way<T>(p, [&](auto way) {
        for (uint64_t done = blockIdx.x; done < p.tiles; done += gridDim.x) {
            if (done != blockIdx.x) __syncthreads();  // nobody needs the last tile's maps any more
            map_rounds<T, decltype(way)>(p, p.tiles - 1 - done, MapsOfBlock{maps});
        }
    });
}

template <class T>
__device__ __forceinline__ void pointwise_table(const WnChannelTableParams& p) {
    float* table = global<float>(p.table);
    for (uint64_t channel = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; channel < p.channels;
         channel += static_cast<uint64_t>(gridDim.x) * blockDim.x) {
        const ChannelMap map = map_from_statistics<T>(p.running_mean, p.running_var, p.weight, p.bias, p.flags, p.eps, channel);
        table[channel] = map.mean;
        table[p.channels + channel] = map.scale;
        table[2 * p.channels + channel] = map.bias;
    }
}

}  // namespace wn

using namespace wn;

WN_POINTWISE_KERNELS(WN_DEFINE)
