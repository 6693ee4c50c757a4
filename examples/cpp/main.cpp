// Normalizes and folds by the C library: `norms cpu` or `norms cuda`. Each result is checked against a loop in double.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <warpnorm.hpp>

#include "device_memory.hpp"

namespace {

std::vector<float> noise(std::size_t count, unsigned seed) {
    std::mt19937 bits(seed);
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(bits() % 20001) / 5000.0F - 2.0F;
    return values;
}

std::uint16_t to_bf16(float value) {
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    return static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

float from_bf16(std::uint16_t half) {
    const std::uint32_t bits = static_cast<std::uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof bits);
    return value;
}

// What is off, as a share of what the library allows itself: half a unit in the last place of the type, and 2^-21 of the
// terms that met.
class Worst {
public:
    Worst(const char* name, int digits) : name_(name), digits_(digits) {}

    void add(double found, double expected, double terms) {
        const double half_unit = expected == 0 ? 0 : std::ldexp(1.0, std::ilogb(expected) - digits_);
        const double share = std::abs(found - expected) / (half_unit + std::ldexp(terms, -21));
        worst_ = share <= worst_ ? worst_ : share;  // NaN stays
    }

    bool print() const {
        std::printf("  %-58s %5.2f of the bound\n", name_, worst_);
        return worst_ <= 1.0;
    }

private:
    const char* name_;
    int digits_;
    double worst_ = 0;
};

struct Moments {
    double mean, rstd;
};

template <class At>
Moments moments(std::size_t count, double eps, At at) {
    double mean = 0, var = 0;
    for (std::size_t i = 0; i < count; i++) mean += at(i) / static_cast<double>(count);
    for (std::size_t i = 0; i < count; i++) var += (at(i) - mean) * (at(i) - mean) / static_cast<double>(count);
    return {mean, 1 / std::sqrt(var + eps)};
}

// The residual stream of a transformer: h += x, y = LayerNorm(h), in f32.
bool residual_and_layer_norm(const warpnorm::Device& device, const Driver* driver) {
    constexpr std::size_t rows = 16, length = 768;
    const auto x = noise(rows * length, 1), residual = noise(rows * length, 2), weight = noise(length, 3),
               bias = noise(length, 4);
    Memory<float> in(driver, x), hidden(driver, residual), w(driver, weight), b(driver, bias),
        out(driver, std::vector<float>(rows * length));

    auto signature = warpnorm::Signature({rows, length}, WN_DTYPE_F32);
    signature.weight(WN_DTYPE_F32).bias(WN_DTYPE_F32).sum_in_residual();
    const warpnorm::Call call(device, warpnorm::layer_norm({length}), signature);
    call.launch(warpnorm::Tensors().input(in.data()).residual(hidden.data()).weight(w.data()).bias(b.data()).output(out.data()));

    Worst worst("h += x, LayerNorm(h) over 768 columns, f32", 24);
    const auto& sums = hidden.read();
    const auto& y = out.read();
    for (std::size_t row = 0; row < rows; row++) {
        const auto sum = [&](std::size_t i) { return static_cast<double>(x[row * length + i] + residual[row * length + i]); };
        const auto [mean, rstd] = moments(length, 1e-5F, sum);
        for (std::size_t i = 0; i < length; i++) {
            const double xhat = (sum(i) - mean) * rstd;
            worst.add(y[row * length + i], xhat * weight[i] + bias[i],
                      std::abs(weight[i]) * (std::abs(xhat) + 1) + std::abs(bias[i]));
            if (sums[row * length + i] != static_cast<float>(sum(i))) return false;
        }
    }
    return worst.print();
}

// In bf16 with a weight in f32.
bool rms_norm(const warpnorm::Device& device, const Driver* driver) {
    constexpr std::size_t rows = 8, length = 2048;
    std::vector<std::uint16_t> x;
    for (const float value : noise(rows * length, 5)) x.push_back(to_bf16(value));
    const auto weight = noise(length, 6);
    Memory<std::uint16_t> in(driver, x), out(driver, std::vector<std::uint16_t>(rows * length));
    Memory<float> w(driver, weight);

    auto signature = warpnorm::Signature({rows, length}, WN_DTYPE_BF16);
    signature.weight(WN_DTYPE_F32);
    const warpnorm::Call call(device, warpnorm::rms_norm({length}, 1e-6), signature);
    call.launch(warpnorm::Tensors().input(in.data()).weight(w.data()).output(out.data()));

    Worst worst("RMSNorm over 2048 columns, bf16 with an f32 weight", 8);
    const auto& y = out.read();
    for (std::size_t row = 0; row < rows; row++) {
        double squares = 0;
        for (std::size_t i = 0; i < length; i++) squares += std::pow(from_bf16(x[row * length + i]), 2) / length;
        for (std::size_t i = 0; i < length; i++) {
            const double xhat = from_bf16(x[row * length + i]) / std::sqrt(squares + 1e-6F);
            worst.add(from_bf16(y[row * length + i]), xhat * weight[i], std::abs(weight[i]) * (std::abs(xhat) + 1));
        }
    }
    return worst.print();
}

// h += RMSNorm(x), and RMSNorm(h) as int8, each row with a scale that is made of it.
bool post_norm_quantized(const warpnorm::Device& device, const Driver* driver) {
    constexpr std::size_t rows = 8, length = 1024;
    const auto x = noise(rows * length, 15), residual = noise(rows * length, 16);
    Memory<float> in(driver, x), hidden(driver, residual), scales(driver, std::vector<float>(rows));
    Memory<std::int8_t> out(driver, std::vector<std::int8_t>(rows * length));

    auto signature = warpnorm::Signature({rows, length}, WN_DTYPE_F32);
    signature.sum_in_residual().quantized_output(WN_DTYPE_I8, WN_SCALING_ROWS);
    const warpnorm::Call call(device, warpnorm::rms_norm({length}, 1e-6).post_norm(), signature);
    call.launch(warpnorm::Tensors().input(in.data()).residual(hidden.data()).output(out.data()).scales(scales.data()));

    // Of half a step of the scale, and 2^-20 of each number, which has been through two norms.
    double worst = 0;
    const auto rms = [&](auto at) {
        double squares = 0;
        for (std::size_t i = 0; i < length; i++) squares += at(i) * at(i) / length;
        return std::sqrt(squares + 1e-6F);
    };
    const auto& q = out.read();
    const auto& of_rows = scales.read();
    for (std::size_t row = 0; row < rows; row++) {
        const auto given = [&](std::size_t i) { return static_cast<double>(x[row * length + i]); };
        const double of_input = rms(given);
        const auto sum = [&](std::size_t i) { return given(i) / of_input + residual[row * length + i]; };
        const double of_sum = rms(sum);
        double largest = 0;
        for (std::size_t i = 0; i < length; i++) {
            const double y = sum(i) / of_sum, off = std::abs(q[row * length + i] * static_cast<double>(of_rows[row]) - y);
            worst = std::fmax(worst, off / (of_rows[row] / 2.0 + std::ldexp(std::abs(y) + 1, -20)));
            largest = std::fmax(largest, std::abs(y));
        }
        if (std::abs(of_rows[row] - largest / 127) > std::ldexp(largest, -20) / 127) return false;
    }
    std::printf("  %-58s %5.2f of the bound\n", "h += RMSNorm(x), RMSNorm(h) over 1024 columns, as int8", worst);
    return worst > 0 && worst <= 1.0;
}

// In NHWC, in place, with SiLU; with a workspace, if the call asks for one.
bool group_norm(const warpnorm::Device& device, const Driver* driver) {
    constexpr std::size_t samples = 2, spatial = 64, channels = 32, groups = 8;
    const auto x = noise(samples * spatial * channels, 7);
    Memory<float> image(driver, x);

    const auto layer = warpnorm::group_norm(groups, channels).layout(WN_LAYOUT_NHWC).activation(WN_ACTIVATION_SILU);
    auto signature = warpnorm::Signature({samples, 8, 8, channels}, WN_DTYPE_F32);
    const warpnorm::Call call(device, layer, signature.in_place());
    const auto bytes = call.workspace_bytes();
    Memory<std::uint64_t> workspace(driver, std::vector<std::uint64_t>(bytes / 8 + 1));
    device.init_workspace(workspace.data(), bytes);
    call.launch(warpnorm::Tensors().output(image.data()).workspace(workspace.data(), bytes));

    Worst worst("SiLU(GroupNorm) of 2x8x8x32 in 8 groups, NHWC, in place", 24);
    const auto& y = image.read();
    for (std::size_t sample = 0; sample < samples; sample++)
        for (std::size_t group = 0; group < groups; group++) {
            constexpr std::size_t per_group = channels / groups;
            const auto index = [&](std::size_t i) {
                return (sample * spatial + i / per_group) * channels + group * per_group + i % per_group;
            };
            const auto [mean, rstd] =
                moments(spatial * per_group, 1e-5F, [&](std::size_t i) { return static_cast<double>(x[index(i)]); });
            for (std::size_t i = 0; i < spatial * per_group; i++) {
                const double xhat = (x[index(i)] - mean) * rstd, silu = xhat / (1 + std::exp(-xhat));
                worst.add(y[index(i)], silu, 1.1 * (std::abs(xhat) + 1));
            }
        }
    return worst.print();
}

// A 3x3 convolution at one place.
double convolve(const std::vector<float>& weight, const std::vector<float>& x, std::size_t inputs, std::size_t size,
                std::size_t output, std::size_t row, std::size_t column) {
    double sum = 0;
    for (std::size_t input = 0; input < inputs; input++)
        for (std::size_t tap = 0; tap < 9; tap++)
            sum += static_cast<double>(weight[(output * inputs + input) * 9 + tap]) *
                   x[(input * size + row + tap / 3) * size + column + tap % 3];
    return sum;
}

// Conv -> BatchNorm as one Conv.
bool fold() {
    constexpr std::size_t inputs = 8, outputs = 16, size = 12;
    const auto x = noise(inputs * size * size, 8), weight = noise(outputs * inputs * 9, 9), bias = noise(outputs, 10);
    const auto mean = noise(outputs, 11), gamma = noise(outputs, 12), beta = noise(outputs, 13);
    auto var = noise(outputs, 14);
    for (float& value : var) value = value * value + 0.5F;
    constexpr double eps = 1e-3;

    using warpnorm::array;
    const auto batch_norm = warpnorm::folding_batch_norm(array(mean), array(var), eps, array(gamma), array(beta));
    const auto folded = warpnorm::fold_conv(array(weight), {outputs, inputs, 3, 3}, 1, array(bias), batch_norm);

    double worst = 0, largest = 0;
    for (std::size_t o = 0; o < outputs; o++)
        for (std::size_t row = 0; row + 2 < size; row++)
            for (std::size_t column = 0; column + 2 < size; column++) {
                const double plain = convolve(weight, x, inputs, size, o, row, column) + bias[o];
                const double expected = (plain - mean[o]) / std::sqrt(var[o] + eps) * gamma[o] + beta[o];
                const double found = convolve(folded.weight, x, inputs, size, o, row, column) + folded.bias[o];
                worst = std::fmax(worst, std::abs(found - expected));
                largest = std::fmax(largest, std::abs(expected));
            }
    // 73 roundings to f32, each of half a unit of a term that is not larger than the largest.
    const double bound = 73 * std::ldexp(largest, -24);
    std::printf("  %-58s off by %.1e of %.0f\n", "Conv 8->16, 3x3, and its BatchNorm folded into it", worst, largest);
    std::printf("  %-58s %.2f, %llu warnings\n", "    largest factor of a channel", folded.report.max_abs_scale,
                static_cast<unsigned long long>(folded.report.warnings));
    return worst > 0 && worst <= bound;
}

// A block of RepVGG, a 3x3 and a 1x1 convolution and the input, each with a BatchNorm behind it, as one Conv.
bool merge() {
    constexpr std::size_t channels = 8, size = 12;
    const auto x = noise(channels * size * size, 15), weight = noise(channels * channels * 9, 16);
    const auto pointwise = noise(channels * channels, 17), mean = noise(channels, 18), gamma = noise(channels, 19);
    auto var = noise(channels, 20);
    for (float& value : var) value = value * value + 0.5F;
    constexpr double eps = 1e-5;

    using warpnorm::array;
    const auto batch_norm = warpnorm::folding_batch_norm(array(mean), array(var), eps, array(gamma));
    const auto merged = warpnorm::fold_branches({
        warpnorm::branch_conv(array(weight), {channels, channels, 3, 3}, 1, {}, {1, 1}, &batch_norm),
        warpnorm::branch_conv(array(pointwise), {channels, channels, 1, 1}, 1, {}, {0, 0}, &batch_norm),
        warpnorm::branch_identity(&batch_norm),
    });

    double worst = 0, largest = 0;
    for (std::size_t o = 0; o < channels; o++)
        for (std::size_t row = 0; row + 2 < size; row++)
            for (std::size_t column = 0; column + 2 < size; column++) {
                const auto middle = [&](std::size_t c) { return x[(c * size + row + 1) * size + column + 1]; };
                double sum = convolve(weight, x, channels, size, o, row, column) + middle(o);
                for (std::size_t c = 0; c < channels; c++)
                    sum += static_cast<double>(pointwise[o * channels + c]) * middle(c);
                const double expected = (sum - 3.0 * mean[o]) / std::sqrt(var[o] + eps) * gamma[o];
                const double found = convolve(merged.weight, x, channels, size, o, row, column) + merged.bias[o];
                worst = std::fmax(worst, std::abs(found - expected));
                largest = std::fmax(largest, std::abs(expected));
            }
    // As above.
    std::printf("  %-58s off by %.1e of %.0f\n", "RepVGG block of 8 channels as one Conv, 3x3", worst, largest);
    return worst > 0 && worst <= 73 * std::ldexp(largest, -24);
}

// What is wrong is said.
bool refusal(const warpnorm::Device& device) {
    try {
        warpnorm::Call(device, warpnorm::layer_norm({768}), warpnorm::Signature({16, 512}, WN_DTYPE_F32));
    } catch (const warpnorm::Error& error) {
        std::printf("  refused: %s\n", error.what());
        return error.status() == WN_STATUS_SHAPE;
    }
    return false;
}

}  // namespace

int main(int count, char** arguments) try {
    const std::string place = count == 2 ? arguments[1] : "";
    if (place != "cpu" && place != "cuda") {
        std::fprintf(stderr, "usage: norms cpu|cuda\n");
        return 2;
    }
    const std::optional<Driver> driver = place == "cuda" ? std::optional<Driver>(std::in_place) : std::nullopt;
    const Driver* const memory = driver ? &*driver : nullptr;
    // One stream has all calls: each may be launched while the one before it runs, and waits for it by itself.
    const auto device = driver ? warpnorm::Device::cuda(0).programmatic_launch() : warpnorm::Device::cpu();
    std::printf("warpnorm %s on %s\n", wn_version(), device.name().c_str());
    bool good = residual_and_layer_norm(device, memory);
    good = rms_norm(device, memory) && good;
    good = post_norm_quantized(device, memory) && good;
    good = group_norm(device, memory) && good;
    good = fold() && good;
    good = merge() && good;
    good = refusal(device) && good;
    if (!good) std::fprintf(stderr, "something is off\n");
    return good ? 0 : 1;
} catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
}
