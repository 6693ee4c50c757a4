// Correct kernels of every shape that the emulator must run: the tests' proof that it does, without a false report.
#include "host_cuda.h"

namespace {

float block_sum(float value, float* scratch) {
    for (int lane_mask = 16; lane_mask; lane_mask >>= 1) value += __shfl_xor_sync(~0u, value, lane_mask);
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) scratch[warp] = value;
    __syncthreads();
    if (warp == 0) {
        float total = lane < blockDim.x / 32 ? scratch[lane] : 0.0f;
        for (int lane_mask = 16; lane_mask; lane_mask >>= 1) total += __shfl_xor_sync(~0u, total, lane_mask);
        if (lane == 0) scratch[32] = total;
    }
    __syncthreads();
    const float total = scratch[32];
    __syncthreads();
    return total;
}

}  // namespace

struct RowsParams {
    uint64_t input, output;
    uint32_t columns;
    float eps;
};

// LayerNorm without weights, a block a row.
WN_KERNEL(smoke_layer_norm, 256, const __grid_constant__ RowsParams p) {
    WN_DYNAMIC_SHARED(float, scratch);
    const float* const x = reinterpret_cast<const float*>(p.input) + size_t{blockIdx.x} * p.columns;
    float* const y = reinterpret_cast<float*>(p.output) + size_t{blockIdx.x} * p.columns;
    float sum = 0.0f;
    for (unsigned i = threadIdx.x; i < p.columns; i += blockDim.x) sum += x[i];
    const float mean = block_sum(sum, scratch) / static_cast<float>(p.columns);
    float squares = 0.0f;
    for (unsigned i = threadIdx.x; i < p.columns; i += blockDim.x) squares += (x[i] - mean) * (x[i] - mean);
    const float rstd = __frsqrt_rn(block_sum(squares, scratch) / static_cast<float>(p.columns) + p.eps);
    for (unsigned i = threadIdx.x; i < p.columns; i += blockDim.x) y[i] = (x[i] - mean) * rstd;
}

// The same over a row that a cluster shares: partial sums travel through distributed shared memory.
WN_KERNEL(smoke_cluster_layer_norm, 256, const __grid_constant__ RowsParams p) {
    WN_DYNAMIC_SHARED(float, scratch);
    WN_SHARED(float, parts, 2);
    const unsigned rank = wn::cluster::rank(), size = wn::cluster::size();
    const unsigned row = blockIdx.x / size;
    const float* const x = reinterpret_cast<const float*>(p.input) + size_t{row} * p.columns;
    float* const y = reinterpret_cast<float*>(p.output) + size_t{row} * p.columns;
    const auto cluster_sum = [&](float value, unsigned slot) {
        value = block_sum(value, scratch);
        if (threadIdx.x == 0) parts[slot] = value;
        wn::cluster::arrive();
        wn::cluster::wait();
        float total = 0.0f;
        for (unsigned i = 0; i < size; i++) total += wn::cluster::load(parts + slot, i);
        return total;
    };
    const unsigned first = rank * blockDim.x + threadIdx.x, step = size * blockDim.x;
    float sum = 0.0f;
    for (unsigned i = first; i < p.columns; i += step) sum += x[i];
    const float mean = cluster_sum(sum, 0) / static_cast<float>(p.columns);
    float squares = 0.0f;
    for (unsigned i = first; i < p.columns; i += step) squares += (x[i] - mean) * (x[i] - mean);
    const float rstd = __frsqrt_rn(cluster_sum(squares, 1) / static_cast<float>(p.columns) + p.eps);
    // Nobody may leave while a neighbour still reads its part.
    wn::cluster::arrive();
    for (unsigned i = first; i < p.columns; i += step) y[i] = (x[i] - mean) * rstd;
    wn::cluster::wait();
}

// A sum over the whole grid by whichever block finishes last: the pattern that needs a fence and a counter, no spin.
// `output` holds a partial sum per block, then the total, then the counter.
WN_KERNEL(smoke_last_block_sum, 256, const __grid_constant__ RowsParams p) {
    WN_DYNAMIC_SHARED(float, scratch);
    WN_SHARED(unsigned, ticket, 1);
    const float* const x = reinterpret_cast<const float*>(p.input) + size_t{blockIdx.x} * p.columns;
    float* const parts = reinterpret_cast<float*>(p.output);
    unsigned* const counter = reinterpret_cast<unsigned*>(parts + gridDim.x + 1);
    float sum = 0.0f;
    for (unsigned i = threadIdx.x; i < p.columns; i += blockDim.x) sum += x[i];
    sum = block_sum(sum, scratch);
    if (threadIdx.x == 0) {
        parts[blockIdx.x] = sum;
        __threadfence();
        ticket[0] = atomicInc(counter, gridDim.x - 1);
    }
    __syncthreads();
    if (ticket[0] != gridDim.x - 1) return;
    float total = 0.0f;
    for (unsigned i = threadIdx.x; i < gridDim.x; i += blockDim.x) total += parts[i];
    total = block_sum(total, scratch);
    if (threadIdx.x == 0) parts[gridDim.x] = total;
}

// Every block adds up what all blocks have written, after a barrier of the whole (cooperative) grid.
// `output` holds a value per block, a sum per block, and the counter.
WN_KERNEL(smoke_grid_barrier, 256, const __grid_constant__ RowsParams p) {
    float* const values = reinterpret_cast<float*>(p.output);
    unsigned* const counter = reinterpret_cast<unsigned*>(values + 2 * gridDim.x);
    if (threadIdx.x == 0) {
        values[blockIdx.x] = static_cast<float>(blockIdx.x + 1);
        __threadfence();
        atomicAdd(counter, 1u);
        while (*const_cast<volatile unsigned*>(counter) < gridDim.x) wn_spin_yield();
        // Without it the loads below might be older than what the loop saw.
        __threadfence();
    }
    __syncthreads();
    float sum = 0.0f;
    for (unsigned i = 0; i < gridDim.x; i++) sum += values[i];
    if (threadIdx.x == 0) values[gridDim.x + blockIdx.x] = sum;
}

// Every exchange between lanes; the output is 256 results of each kind.
WN_KERNEL(smoke_exchanges, 256, const __grid_constant__ RowsParams p) {
    unsigned* const y = reinterpret_cast<unsigned*>(p.output) + threadIdx.x;
    const unsigned lane = threadIdx.x % 32;
    const uint64_t wide = uint64_t{lane} << 32 | 7;
    y[0 * 256] = __shfl_sync(~0u, lane, 5);
    y[1 * 256] = __shfl_up_sync(~0u, lane, 3);
    y[2 * 256] = __shfl_down_sync(~0u, lane, 3);
    y[3 * 256] = __shfl_xor_sync(~0u, lane, 9);
    y[4 * 256] = __shfl_down_sync(~0u, lane, 3, 8);
    y[5 * 256] = __ballot_sync(~0u, lane % 3 == 0);
    y[6 * 256] = __any_sync(~0u, lane == 31) * 2 + __all_sync(~0u, lane != 31);
    y[7 * 256] = static_cast<unsigned>(__shfl_xor_sync(~0u, wide, 1) >> 32);
    // A struct in one exchange, three times: a lane must not find its neighbour's next value.
    struct Wide {
        unsigned first, second, third;
    } value{lane, 2 * lane, 3 * lane};
    for (int mask = 1; mask < 8; mask *= 2) value = __shfl_xor_sync(~0u, value, mask);
    y[9 * 256] = value.first + value.second + value.third;
    // Half a warp may exchange by itself.
    if (lane < 16) y[8 * 256] = __shfl_xor_sync(0xffffu, lane, 15);
    __syncwarp();
}

// Conversions: `input` holds f16 then bf16 bits, `output` receives them as float and back.
WN_KERNEL(smoke_conversions, 256, const __grid_constant__ RowsParams p) {
    const uint16_t* const x = reinterpret_cast<const uint16_t*>(p.input);
    uint32_t* const y = reinterpret_cast<uint32_t*>(p.output);
    for (unsigned i = blockIdx.x * blockDim.x + threadIdx.x; i < p.columns; i += gridDim.x * blockDim.x) {
        const float half = wn::to_float(wn::f16{x[i]}), brain = wn::to_float(wn::bf16{x[i]});
        y[i] = uint32_t{wn::to_f16(half).bits} << 16 | wn::to_bf16(brain).bits;
    }
}

// A counter in shared memory that atomics alone write.
WN_KERNEL(smoke_shared_counter, 256, const __grid_constant__ RowsParams p) {
    WN_SHARED(unsigned, counter, 1);
    if (threadIdx.x == 0) atomicExch(counter, 5u);
    __syncthreads();
    atomicAdd(counter, 2u);
    __syncthreads();
    reinterpret_cast<unsigned*>(p.output)[threadIdx.x] = counter[0];
}

// Several parameters, of which one is a pointer, and atomics on each element.
WN_KERNEL(smoke_atomics, 256, float* sums, unsigned count, unsigned long long* total) {
    atomicAdd(sums + threadIdx.x % count, static_cast<float>(threadIdx.x));
    atomicAdd(total, 1ull);
}
