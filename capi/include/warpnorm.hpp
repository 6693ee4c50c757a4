// warpnorm for C++17: the C library's handles with owners, its statuses as exceptions. Header only; link libwarpnorm.
//
//     const auto device = warpnorm::Device::cuda(0);
//     const auto layer = warpnorm::layer_norm({4096}).activation(WN_ACTIVATION_SILU);
//     const auto signature = warpnorm::Signature({128, 4096}, WN_DTYPE_F16).weight(WN_DTYPE_F32);
//     const warpnorm::Call call(device, layer, signature);      // decided once, launched often
//     call.launch(warpnorm::Tensors().input(x).weight(weight).output(y), stream);
//
// Pointers are the device's (CUdeviceptr or cudaMalloc's, or plain memory with Device::cpu()) and the caller's; a launch
// allocates nothing, waits for nothing, and goes onto the stream (CUstream or cudaStream_t).
#ifndef WARPNORM_HPP
#define WARPNORM_HPP

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "warpnorm.h"

namespace warpnorm {

// A refusal: nothing was launched or written.
class Error : public std::runtime_error {
public:
    Error(wn_status status, const std::string& message)
        : std::runtime_error(std::string(wn_status_name(status)) + ": " + message), status_(status) {}

    wn_status status() const noexcept { return status_; }

private:
    wn_status status_;
};

inline void check(wn_status status) {
    if (status != WN_STATUS_OK) throw Error(status, wn_last_error());
}

// Where calls run; copies are the same device. Any thread may use it.
class Device {
public:
    static Device cpu() {
        wn_device* device = nullptr;
        check(wn_device_cpu(&device));
        return Device(device);
    }

    // The primary context of a CUDA device, which the CUDA runtime uses. Takes milliseconds: make it once.
    static Device cuda(std::int32_t ordinal = 0) {
        wn_device* device = nullptr;
        check(wn_device_cuda(ordinal, &device));
        return Device(device);
    }

    // The context that is current to this thread; one that is no primary one must live longer.
    static Device current() {
        wn_device* device = nullptr;
        check(wn_device_current(&device));
        return Device(device);
    }

    // The same device, on which calls may be launched before what is before them on the stream has finished.
    Device programmatic_launch(bool wanted = true) const {
        wn_device* device = nullptr;
        check(wn_device_programmatic_launch(get(), wanted, &device));
        return Device(device);
    }

    bool is_cuda() const {
        std::int32_t answer = 0;
        check(wn_device_is_cuda(get(), &answer));
        return answer != 0;
    }

    std::string name() const {
        char name[256];
        check(wn_device_name(get(), name, sizeof name));
        return name;
    }

    // Makes a workspace of memory of the device's, once; see Call::workspace_bytes.
    void init_workspace(void* memory, std::uint64_t bytes, void* stream = nullptr) const {
        check(wn_workspace_init(get(), memory, bytes, stream));
    }

    const wn_device* get() const noexcept { return handle_.get(); }

private:
    explicit Device(wn_device* device) : handle_(device, wn_device_destroy) {}

    std::shared_ptr<wn_device> handle_;
};

// A layer; made by the functions below.
class Layer {
public:
    explicit Layer(const wn_layer& layer) : layer_(layer) {}

    Layer activation(wn_activation activation) const { return with([=](wn_layer& l) { l.activation = activation; }); }
    Layer layout(wn_layout layout) const { return with([=](wn_layer& l) { l.layout = layout; }); }
    Layer eps(double eps) const { return with([=](wn_layer& l) { l.eps = eps; }); }
    // RMSNorm, QkNorm: the stored weight is an offset from 1.
    Layer weight_plus_one() const { return flag(WN_LAYER_FLAG_WEIGHT_PLUS_ONE); }
    // All but BatchNorm and QkNorm: the stored scale of a sample is an offset from 1.
    Layer scale_plus_one() const { return flag(WN_LAYER_FLAG_SCALE_PLUS_ONE); }
    // LayerNorm, RMSNorm: the input has a norm of its own before the residual is added.
    Layer post_norm() const { return flag(WN_LAYER_FLAG_POST_NORM); }
    // LayerNorm, RMSNorm: each step before the norm is rounded to the input's type.
    Layer round_steps() const { return flag(WN_LAYER_FLAG_ROUND_STEPS); }
    // That, and the normalized value before the weight multiplies it.
    Layer round_normalized() const { return flag(WN_LAYER_FLAG_ROUND_NORMALIZED); }
    // InstanceNorm: by running statistics.
    Layer track_running_stats() const { return flag(WN_LAYER_FLAG_TRACK_RUNNING_STATS); }
    // BatchNorm: by the batch's own statistics, of which this share goes into the running ones.
    Layer batch_statistics(double momentum = 0.1) const {
        return flag(WN_LAYER_FLAG_BATCH_STATISTICS).with([=](wn_layer& l) { l.momentum = momentum; });
    }
    // The same, the running statistics being the average of all batches.
    Layer batch_statistics_averaged() const {
        return flag(WN_LAYER_FLAG_BATCH_STATISTICS).flag(WN_LAYER_FLAG_CUMULATIVE_AVERAGE);
    }

    const wn_layer* get() const noexcept { return &layer_; }

private:
    template <class Change>
    Layer with(Change change) const {
        Layer changed = *this;
        change(changed.layer_);
        return changed;
    }
    Layer flag(wn_layer_flag flag) const { return with([=](wn_layer& l) { l.flags |= flag; }); }

    wn_layer layer_;
};

using Shape = std::vector<std::int64_t>;

inline Layer layer_norm(const Shape& normalized_shape) {
    wn_layer layer;
    check(wn_layer_norm(&layer, static_cast<std::int64_t>(normalized_shape.size()), normalized_shape.data()));
    return Layer(layer);
}

inline Layer rms_norm(const Shape& normalized_shape, double eps) {
    wn_layer layer;
    check(wn_rms_norm(&layer, static_cast<std::int64_t>(normalized_shape.size()), normalized_shape.data(), eps));
    return Layer(layer);
}

inline Layer group_norm(std::int64_t num_groups, std::int64_t num_channels) {
    wn_layer layer;
    check(wn_group_norm(&layer, num_groups, num_channels));
    return Layer(layer);
}

inline Layer instance_norm(std::int64_t num_channels) {
    wn_layer layer;
    check(wn_instance_norm(&layer, num_channels));
    return Layer(layer);
}

inline Layer batch_norm(std::int64_t num_channels) {
    wn_layer layer;
    check(wn_batch_norm(&layer, num_channels));
    return Layer(layer);
}

// The heads of attention, queries and keys in one launch.
inline Layer qk_rms_norm(std::int64_t q_heads, std::int64_t k_heads, std::int64_t head_dim, double eps) {
    wn_layer layer;
    check(wn_qk_rms_norm(&layer, q_heads, k_heads, head_dim, eps));
    return Layer(layer);
}

inline Layer qk_layer_norm(std::int64_t q_heads, std::int64_t k_heads, std::int64_t head_dim) {
    wn_layer layer;
    check(wn_qk_layer_norm(&layer, q_heads, k_heads, head_dim));
    return Layer(layer);
}

// What a call looks like before there are buffers.
class Signature {
public:
    Signature(const Shape& shape, wn_dtype dtype) {
        check(wn_signature_init(&signature_, static_cast<std::int64_t>(shape.size()), shape.data(), dtype));
    }

    Signature& weight(wn_dtype dtype) { return signature_.weight = dtype, *this; }
    Signature& bias(wn_dtype dtype) { return signature_.bias = dtype, *this; }
    Signature& scale(wn_dtype dtype) { return signature_.scale = dtype, *this; }
    Signature& shift(wn_dtype dtype) { return signature_.shift = dtype, *this; }
    Signature& channel_bias(wn_dtype dtype) { return signature_.channel_bias = dtype, *this; }
    Signature& gate(wn_dtype dtype) { return signature_.gate = dtype, *this; }
    Signature& input_bias(wn_dtype dtype) { return signature_.input_bias = dtype, *this; }
    Signature& post_norm_weight(wn_dtype dtype) { return signature_.post_norm_weight = dtype, *this; }
    Signature& post_norm_bias(wn_dtype dtype) { return signature_.post_norm_bias = dtype, *this; }
    Signature& output(wn_dtype dtype) { return signature_.output = dtype, *this; }
    // Of WN_DTYPE_I8 or WN_DTYPE_F8E4M3.
    Signature& quantized_output(wn_dtype dtype, wn_scaling scaling) {
        return signature_.output = dtype, signature_.scaling = scaling, *this;
    }
    Signature& residual() { return flag(WN_SIGNATURE_FLAG_RESIDUAL); }
    Signature& second_residual() { return flag(WN_SIGNATURE_FLAG_SECOND_RESIDUAL); }
    Signature& sum() { return flag(WN_SIGNATURE_FLAG_SUM); }
    Signature& sum_in_residual() { return residual().flag(WN_SIGNATURE_FLAG_SUM_IN_RESIDUAL); }
    Signature& in_place() { return flag(WN_SIGNATURE_FLAG_IN_PLACE); }
    Signature& channel_table() { return flag(WN_SIGNATURE_FLAG_CHANNEL_TABLE); }
    Signature& update_running_statistics() { return flag(WN_SIGNATURE_FLAG_UPDATE_RUNNING_STATISTICS); }
    Signature& num_batches_tracked() { return flag(WN_SIGNATURE_FLAG_NUM_BATCHES_TRACKED); }
    // QkNorm: queries and keys are tensors of their own.
    Signature& key_output() { return flag(WN_SIGNATURE_FLAG_KEY_OUTPUT); }
    Signature& key_in_place() { return flag(WN_SIGNATURE_FLAG_KEY_IN_PLACE); }
    Signature& key_weight(wn_dtype dtype) { return signature_.key_weight = dtype, *this; }
    Signature& key_bias(wn_dtype dtype) { return signature_.key_bias = dtype, *this; }
    // Elements between the starts of rows.
    Signature& input_row_stride(std::int64_t stride) { return signature_.input_row_stride = stride, *this; }
    Signature& residual_row_stride(std::int64_t stride) { return signature_.residual_row_stride = stride, *this; }
    Signature& second_residual_row_stride(std::int64_t stride) {
        return signature_.second_residual_row_stride = stride, *this;
    }
    Signature& sum_row_stride(std::int64_t stride) { return signature_.sum_row_stride = stride, *this; }
    Signature& output_row_stride(std::int64_t stride) { return signature_.output_row_stride = stride, *this; }
    Signature& key_input_row_stride(std::int64_t stride) { return signature_.key_input_row_stride = stride, *this; }
    Signature& key_output_row_stride(std::int64_t stride) { return signature_.key_output_row_stride = stride, *this; }

    const wn_signature* get() const noexcept { return &signature_; }

private:
    Signature& flag(wn_signature_flag flag) { return signature_.flags |= flag, *this; }

    wn_signature signature_;
};

// The buffers of a call.
class Tensors {
public:
    Tensors& input(const void* x) { return tensors_.input = x, *this; }
    Tensors& output(void* y) { return tensors_.output = y, *this; }
    // Not written, unless the sum goes into it.
    Tensors& residual(const void* residual) { return tensors_.residual = const_cast<void*>(residual), *this; }
    Tensors& second_residual(const void* residual) { return tensors_.second_residual = residual, *this; }
    Tensors& sum(void* sum) { return tensors_.sum = sum, *this; }
    Tensors& weight(const void* weight) { return tensors_.weight = weight, *this; }
    Tensors& bias(const void* bias) { return tensors_.bias = bias, *this; }
    Tensors& scale(const void* scale) { return tensors_.scale = scale, *this; }
    Tensors& shift(const void* shift) { return tensors_.shift = shift, *this; }
    Tensors& channel_bias(const void* bias) { return tensors_.channel_bias = bias, *this; }
    Tensors& gate(const void* gate) { return tensors_.gate = gate, *this; }
    Tensors& input_bias(const void* bias) { return tensors_.input_bias = bias, *this; }
    Tensors& post_norm_weight(const void* weight) { return tensors_.post_norm_weight = weight, *this; }
    Tensors& post_norm_bias(const void* bias) { return tensors_.post_norm_bias = bias, *this; }
    // Written, unless the scaling is the static one.
    Tensors& scales(float* scales) { return tensors_.scales = scales, *this; }
    Tensors& static_scale(const float* scale) { return scales(const_cast<float*>(scale)); }
    // Not written, unless the signature says that they are moved.
    Tensors& running_statistics(const float* mean, const float* var) {
        tensors_.running_mean = const_cast<float*>(mean);
        tensors_.running_var = const_cast<float*>(var);
        return *this;
    }
    Tensors& num_batches_tracked(std::int64_t* count) { return tensors_.num_batches_tracked = count, *this; }
    Tensors& channel_table(const float* table) { return tensors_.channel_table = table, *this; }
    Tensors& key_input(const void* keys) { return tensors_.key_input = keys, *this; }
    Tensors& key_output(void* keys) { return tensors_.key_output = keys, *this; }
    Tensors& key_weight(const void* weight) { return tensors_.key_weight = weight, *this; }
    Tensors& key_bias(const void* bias) { return tensors_.key_bias = bias, *this; }
    Tensors& workspace(void* memory, std::uint64_t bytes) {
        return tensors_.workspace = memory, tensors_.workspace_bytes = bytes, *this;
    }

    const wn_tensors* get() const noexcept { return &tensors_; }

private:
    wn_tensors tensors_ = {};
};

// A call of which everything but the buffers is decided. Any thread may launch it, and several at once.
class Call {
public:
    Call(const Device& device, const Layer& layer, const Signature& signature) {
        wn_call* call = nullptr;
        check(wn_prepare(device.get(), layer.get(), signature.get(), &call));
        handle_.reset(call);
    }

    // Makes a BatchNorm's channel table, [3, C] in f32, the call's output. WN_DTYPE_NONE for what there is not.
    static Call channel_table(const Device& device, const Layer& layer, wn_dtype weight, wn_dtype bias) {
        wn_call* call = nullptr;
        check(wn_prepare_channel_table(device.get(), layer.get(), weight, bias, &call));
        return Call(call);
    }

    // Of the workspace that a launch needs; 0 if it needs none, as on the CPU.
    std::uint64_t workspace_bytes() const {
        std::uint64_t bytes = 0;
        check(wn_call_workspace_bytes(handle_.get(), &bytes));
        return bytes;
    }

    void launch(const Tensors& tensors, void* stream = nullptr) const {
        check(wn_launch(handle_.get(), tensors.get(), stream));
    }

private:
    explicit Call(wn_call* call) : handle_(call) {}

    struct Destroy {
        void operator()(wn_call* call) const { wn_call_destroy(call); }
    };
    std::unique_ptr<wn_call, Destroy> handle_;
};

// Of float and double; f16 and bf16 have no type in C++17: name theirs.
inline wn_dtype dtype_of(const float*) { return WN_DTYPE_F32; }
inline wn_dtype dtype_of(const double*) { return WN_DTYPE_F64; }

template <class T>
wn_array array(const std::vector<T>& values) {
    return {values.data(), static_cast<std::int64_t>(values.size()), dtype_of(values.data()), 0};
}

inline wn_array array(const std::vector<std::uint16_t>& values, wn_dtype dtype) {
    return {values.data(), static_cast<std::int64_t>(values.size()), dtype, 0};
}

// A BatchNorm in inference, for folding; the arrays must live as long as it is used.
inline wn_affine folding_batch_norm(wn_array mean, wn_array var, double eps, wn_array weight = {}, wn_array bias = {}) {
    return {WN_AFFINE_KIND_BATCH_NORM, 0, mean, var, weight, bias, eps};
}

// A layer's new weight and bias.
struct Folded {
    std::vector<float> weight;
    std::vector<float> bias;
    wn_fold_report report;
};

// A convolution (weight [O, I/groups, k...]) that absorbs the BatchNorm behind it, in f64, rounded to f32 once.
inline Folded fold_conv(wn_array weight, const Shape& shape, std::int64_t groups, wn_array bias,
                        const wn_affine& batch_norm) {
    wn_linear linear = {WN_LINEAR_KIND_CONV, WN_PADDING_NONE, groups, weight, static_cast<std::int64_t>(shape.size()), {}, bias};
    if (shape.empty() || shape.size() > 8) throw Error(WN_STATUS_RANK, "a weight of no axes, or of more than 8");
    for (std::size_t axis = 0; axis < shape.size(); axis++) linear.weight_shape[axis] = shape[axis];
    Folded folded{std::vector<float>(static_cast<std::size_t>(weight.len)),
                  std::vector<float>(static_cast<std::size_t>(shape[0])), {}};
    check(wn_fold(&linear, nullptr, 0, &batch_norm, 1, WN_DTYPE_F32, folded.weight.data(), weight.len,
                  folded.bias.data(), shape[0], &folded.report));
    return folded;
}

// A branch that is a convolution (weight [O, I/groups, k...]) with strides and dilations of 1, padded alike on both
// sides, and the BatchNorm behind it, which may be null and must live as long as the branch is used.
inline wn_branch branch_conv(wn_array weight, const Shape& shape, std::int64_t groups, wn_array bias, const Shape& pads,
                             const wn_affine* batch_norm) {
    if (shape.size() < 3 || shape.size() > 5) throw Error(WN_STATUS_FOLD_WEIGHT_RANK, "a weight has 3 to 5 axes");
    if (pads.size() + 2 != shape.size()) throw Error(WN_STATUS_FOLD_LENGTH_MISMATCH, "not a pad for each axis");
    wn_branch branch = {};
    branch.kind = WN_BRANCH_KIND_CONV;
    branch.linear.kind = WN_LINEAR_KIND_CONV;
    branch.linear.groups = groups;
    branch.linear.weight = weight;
    branch.linear.weight_rank = static_cast<std::int64_t>(shape.size());
    for (std::size_t axis = 0; axis < shape.size(); axis++) branch.linear.weight_shape[axis] = shape[axis];
    branch.linear.bias = bias;
    for (std::size_t axis = 0; axis < pads.size(); axis++) {
        branch.strides[axis] = branch.dilations[axis] = 1;
        branch.pads_begin[axis] = branch.pads_end[axis] = pads[axis];
    }
    branch.after = batch_norm;
    branch.after_count = batch_norm ? 1 : 0;
    return branch;
}

// A branch that is the input itself, and the BatchNorm behind it, likewise.
inline wn_branch branch_identity(const wn_affine* batch_norm) {
    wn_branch branch = {};
    branch.kind = WN_BRANCH_KIND_IDENTITY;
    branch.after = batch_norm;
    branch.after_count = batch_norm ? 1 : 0;
    return branch;
}

// Branches whose outputs are added, as one convolution: with the kernel, strides, dilations and pads of the branch that
// has the most taps. In f64, rounded to f32 once.
inline Folded fold_branches(const std::vector<wn_branch>& branches) {
    std::int64_t weights = 0, outputs = 0;
    for (const wn_branch& branch : branches)
        if (branch.linear.weight.len > weights) {
            weights = branch.linear.weight.len;
            outputs = branch.linear.weight_shape[0];
        }
    Folded folded{std::vector<float>(static_cast<std::size_t>(weights)),
                  std::vector<float>(static_cast<std::size_t>(outputs)), {}};
    check(wn_fold_branches(branches.data(), branches.size(), WN_DTYPE_F32, folded.weight.data(), weights,
                           folded.bias.data(), outputs, nullptr, &folded.report));
    return folded;
}

}  // namespace warpnorm

#endif
