// A direct 2-D convolution in f32 with bias, residual and activation in its epilogue. It exists so that the example's
// network, unfused and folded, runs on the device without another library; it reuses nothing and is not fast.
//
//     y[n, o, h, w] = activation(sum over i, r, s of x[n, g(o) + i, h * stride + r - padding, w * stride + s - padding]
//                                * weight[o, i, r, s] + bias[o] + residual[n, o, h, w])
//
// A thread makes one element of y.
#include "stages.cuh"

namespace wn {

__device__ __forceinline__ void convolution_direct(const WnConvolutionParams& p) {
    const float* x = global<const float>(p.x);
    const float* weight = global<const float>(p.weight);
    const uint32_t channels_per_group = p.in_channels / p.groups;
    const uint32_t outputs_per_group = p.out_channels / p.groups;
    for (uint64_t index = static_cast<uint64_t>(blockIdx.x) * blockDim.x + threadIdx.x; index < p.length;
         index += static_cast<uint64_t>(gridDim.x) * blockDim.x) {
        const uint32_t column = static_cast<uint32_t>(index % p.out_width);
        const uint32_t row = static_cast<uint32_t>(index / p.out_width % p.out_height);
        const uint64_t plane = index / p.out_width / p.out_height;
        const uint32_t output = static_cast<uint32_t>(plane % p.out_channels);
        const uint64_t image = plane / p.out_channels;
        const uint64_t first_channel = image * p.in_channels + output / outputs_per_group * channels_per_group;
        float total = p.bias == 0 ? 0.0f : global<const float>(p.bias)[output];
        for (uint32_t channel = 0; channel < channels_per_group; channel++) {
            const float* source = x + (first_channel + channel) * p.in_height * p.in_width;
            const float* kernel = weight + (static_cast<uint64_t>(output) * channels_per_group + channel) *
                                               p.kernel_height * p.kernel_width;
            for (uint32_t r = 0; r < p.kernel_height; r++) {
                // Unsigned: a row above the image is a huge number and fails the same comparison as one below it.
                const uint32_t h = row * p.stride + r - p.padding;
                if (h >= p.in_height) continue;
                for (uint32_t s = 0; s < p.kernel_width; s++) {
                    const uint32_t w = column * p.stride + s - p.padding;
                    if (w >= p.in_width) continue;
                    const float value = source[static_cast<uint64_t>(h) * p.in_width + w];
                    total = fmaf(value, kernel[r * p.kernel_width + s], total);
                }
            }
        }
        if (p.residual != 0) total += global<const float>(p.residual)[index];
        float value[1] = {total};
        activate(value, p.activation);
        global<float>(p.y)[index] = value[0];
    }
}

}  // namespace wn

using namespace wn;

WN_CONVOLUTION_KERNELS(WN_DEFINE)
