// Pointwise: one affine map a channel. BatchNorm inference in both layouts, InstanceNorm with running statistics, and
// the second half of any split plan.
//
//     y = activation((x + residual - mean[c]) * scale[c] + bias[c]),   scale = weight / sqrt(running_var + eps)
//
// The mean is subtracted first: a * x + b with b = bias - mean * a would cancel, and lose as many digits as the mean
// has above the deviation. The constants are made from the running statistics on the way, or read from a table that
// pointwise_table made once. Each byte of x, residual, sum and y moves once, as 16-byte words, in one launch.
//
//     pointwise_planes          NCHW: a flat walk; a vector lies in one plane, or steps over to the next
//     pointwise_channels_last   NHWC: a thread's vectors lie whole pixels apart, so its channels, and their constants
//                               in registers, stay the same
#include "moments.cuh"
#include "stages.cuh"

namespace wn {

struct ChannelConstants {
    float mean;
    float scale;
    float bias;
};

template <class T>
__device__ __forceinline__ ChannelConstants constants_from_statistics(uint64_t mean, uint64_t variance, uint64_t weight,
                                                                      uint64_t bias, uint32_t flags, float eps,
                                                                      uint64_t channel) {
    const Coefficients<T> weights{weight, (flags & WN_FLAG_WEIGHT_F32) != 0};
    const Coefficients<T> biases{bias, (flags & WN_FLAG_BIAS_F32) != 0};
    // Not clamped at zero: a negative running variance is a broken model and shall show as NaN.
    const float rstd = __frsqrt_rn(global<const float>(variance)[channel] + eps);
    return ChannelConstants{global<const float>(mean)[channel], weights.at(channel, 1.0f) * rstd,
                            biases.at(channel, 0.0f)};
}

// Out of line: unrolled into the loop over vectors, its branches took the compiler minutes.
template <class T>
__device__ __noinline__ ChannelConstants constants_of(const WnPointwiseParams& p, uint64_t channel) {
    if (p.table == 0) {
        return constants_from_statistics<T>(p.running_mean, p.running_var, p.weight, p.bias, p.flags, p.eps, channel);
    }
    const float* table = global<const float>(p.table) + channel;
    return ChannelConstants{table[0], table[p.channels.divisor], table[2 * p.channels.divisor]};
}

// The elements that a block visits together, as a stretch of their own: near its ends nothing is read beyond them, so
// that a block never touches a word of which another block writes a part, in place and off an aligned address.
template <class T>
struct Tile {
    uint64_t start;
    uint64_t length;

    __device__ __forceinline__ Tile(const WnPointwiseParams& p, uint64_t start, uint64_t room)
        : start(start), length(p.length - start < room ? p.length - start : room) {}

    __device__ __forceinline__ Input<T> input(const WnPointwiseParams& p) const {
        return Input<T>{stretch_of<const T>(p.x, 1, start, length), stretch_of<const T>(p.residual, 1, start, length),
                        stretch_of<T>(p.sum, 1, start, length)};
    }

    __device__ __forceinline__ Stretch<T> output(const WnPointwiseParams& p) const {
        return stretch_of<T>(p.y, 1, start, length);
    }
};

__device__ __forceinline__ float apply(float value, const ChannelConstants& constants) {
    return fused(value - constants.mean, constants.scale, constants.bias);
}

template <class T>
__device__ __forceinline__ ChannelConstants constants_of_plane(const WnPointwiseParams& p, uint64_t plane) {
    return constants_of<T>(p, plane - divide(plane, p.channels) * p.channels.divisor);
}

// One element on its own, for the vectors that reach over the end of a plane.
template <class T>
__device__ __forceinline__ float apply_at(const WnPointwiseParams& p, float value, uint64_t index) {
    return apply(value, constants_of_plane<T>(p, divide(index, p.spatial)));
}

template <class T>
__device__ __forceinline__ void pointwise_planes(const WnPointwiseParams& p) {
    constexpr uint32_t kInFlight = WN_POINTWISE_VECTORS;
    const uint64_t room = static_cast<uint64_t>(blockDim.x) * kInFlight * kVector<T>;
    for (uint64_t start = blockIdx.x * room; start < p.length; start += gridDim.x * room) {
        const Tile<T> tile(p, start, room);
        const Input<T> input = tile.input(p);
        const Stretch<T> y = tile.output(p);
        float value[kInFlight][kVector<T>];
#pragma unroll
        for (uint32_t k = 0; k < kInFlight; k++) {
            const uint64_t first = (k * blockDim.x + threadIdx.x) * kVector<T>;
            if (first < tile.length) input.load(first, value[k]);
        }
#pragma unroll
        for (uint32_t k = 0; k < kInFlight; k++) {
            const uint64_t first = (k * blockDim.x + threadIdx.x) * kVector<T>;
            if (first >= tile.length) continue;
            input.write_sum(first, value[k]);
            const uint64_t index = start + first;
            const uint64_t plane = divide(index, p.spatial);
            const ChannelConstants constants = constants_of_plane<T>(p, plane);
            if (index + kVector<T> <= (plane + 1) * p.spatial.divisor) {
#pragma unroll
                for (uint32_t e = 0; e < kVector<T>; e++) value[k][e] = apply(value[k][e], constants);
            } else {
#pragma unroll
                for (uint32_t e = 0; e < kVector<T>; e++) value[k][e] = apply_at<T>(p, value[k][e], index + e);
            }
            activate(value[k], p.activation);
            store_as(p.y_type, y.start, p.y, start, tile.length, first, value[k]);
        }
    }
}

template <class T>
__device__ __forceinline__ void pointwise_channels_last(const WnPointwiseParams& p) {
    const uint64_t block = static_cast<uint64_t>(blockIdx.x) * blockDim.x;
    const uint64_t thread = block + threadIdx.x;
    if (thread >= p.stride || thread * kVector<T> >= p.length) return;
    const uint64_t position = thread * kVector<T>;
    uint64_t channel = position - divide(position, p.channels) * p.channels.divisor;
    ChannelConstants constants[kVector<T>];
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) {
        constants[e] = constants_of<T>(p, channel);
        channel = channel + 1 == p.channels.divisor ? 0 : channel + 1;
    }
    // The last block of a stride may be cut short by the next round's first.
    const uint64_t threads = p.stride - block < blockDim.x ? p.stride - block : blockDim.x;
    const uint64_t first = threadIdx.x * kVector<T>;
    for (uint64_t start = block * kVector<T>; start + first < p.length; start += p.stride * kVector<T>) {
        const Tile<T> tile(p, start, threads * kVector<T>);
        const Input<T> input = tile.input(p);
        float value[kVector<T>];
        input.load(first, value);
        input.write_sum(first, value);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = apply(value[e], constants[e]);
        activate(value, p.activation);
        store_as(p.y_type, global<T>(p.y) + start, p.y, start, tile.length, first, value);
    }
}

template <class T>
__device__ __forceinline__ void pointwise_table(const WnChannelTableParams& p) {
    float* table = global<float>(p.table);
    for (uint64_t channel = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; channel < p.channels;
         channel += static_cast<uint64_t>(gridDim.x) * blockDim.x) {
        const ChannelConstants constants = constants_from_statistics<T>(p.running_mean, p.running_var, p.weight, p.bias,
                                                                        p.flags, p.eps, channel);
        table[channel] = constants.mean;
        table[p.channels + channel] = constants.scale;
        table[2 * p.channels + channel] = constants.bias;
    }
}

}  // namespace wn

using namespace wn;

WN_POINTWISE_KERNELS(WN_DEFINE)
