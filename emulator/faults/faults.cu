// Planted bugs: kernels that the tests launch to see them reported. A comment `planted: NAME` marks the line that a
// report must name; tests look it up by that name.
#include "host_cuda.h"

struct FaultParams {
    uint64_t input, output;
    uint32_t count;  // elements of each
    uint32_t unused;
};

namespace {

const float* input_of(const FaultParams& p) { return reinterpret_cast<const float*>(p.input); }
float* output_of(const FaultParams& p) { return reinterpret_cast<float*>(p.output); }

float warp_sum(float value) {
    for (int lane_mask = 16; lane_mask; lane_mask >>= 1) value += __shfl_xor_sync(~0u, value, lane_mask);
    return value;
}

}  // namespace

// The rows of the output lie one element too close together: the last of each is also the first of the next.
WN_KERNEL(fault_wrong_index, 256, const __grid_constant__ FaultParams p) {
    const float value = input_of(p)[blockIdx.x * blockDim.x + threadIdx.x];
    output_of(p)[blockIdx.x * (blockDim.x - 1) + threadIdx.x] = value;  // planted: wrong-index
}

// Two sums through one buffer: a warp may write its second part before another has read the first ones.
WN_KERNEL(fault_missing_barrier, 256, const __grid_constant__ FaultParams p) {
    WN_DYNAMIC_SHARED(float, parts);
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float x = input_of(p)[threadIdx.x];
    float total = 0.0f;
    for (int pass = 0; pass < 2; pass++) {
        const float sum = warp_sum(pass == 0 ? x : x * x);
        if (lane == 0) {
            parts[warp] = sum;  // planted: missing-barrier
        }
        __syncthreads();
        for (unsigned i = 0; i < blockDim.x / 32; i++) {
            total += parts[i];  // planted: missing-barrier-other
        }
    }
    output_of(p)[threadIdx.x] = total;
}

// The same, where only the last warp reads: right in every order but one in which another warp runs far ahead.
WN_KERNEL(fault_rare_missing_barrier, 256, const __grid_constant__ FaultParams p) {
    WN_DYNAMIC_SHARED(float, parts);
    const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const float x = input_of(p)[threadIdx.x];
    float total = 0.0f;
    for (int pass = 0; pass < 2; pass++) {
        const float sum = warp_sum(pass == 0 ? x : x * x);
        if (lane == 0) {
            parts[warp] = sum;  // planted: rare-missing-barrier
        }
        __syncthreads();
        if (warp == 7) {
            for (unsigned i = 0; i < blockDim.x / 32; i++) total += parts[i];
            total = warp_sum(total) / 32;
        }
    }
    output_of(p)[threadIdx.x] = total;
}

WN_KERNEL(fault_divergent_barrier, 256, const __grid_constant__ FaultParams p) {
    if (threadIdx.x < 128) {
        __syncthreads();  // planted: divergent-barrier
    } else {
        __syncthreads();  // planted: divergent-barrier-other
    }
    output_of(p)[threadIdx.x] = 1.0f;
}

WN_KERNEL(fault_early_return, 256, const __grid_constant__ FaultParams p) {
    if (threadIdx.x >= 224) return;
    __syncthreads();  // planted: early-return
    output_of(p)[threadIdx.x] = 1.0f;
}

WN_KERNEL(fault_unwritten_shared, 256, const __grid_constant__ FaultParams p) {
    WN_SHARED(float, parts, 256);
    if (threadIdx.x < 32) parts[threadIdx.x] = input_of(p)[threadIdx.x];
    __syncthreads();
    output_of(p)[threadIdx.x] = parts[threadIdx.x % 40];  // planted: unwritten-shared
}

WN_KERNEL(fault_misaligned_vector, 256, const __grid_constant__ FaultParams p) {
    const float* const from = input_of(p) + 1;
    const float4 vector = *reinterpret_cast<const float4*>(from);  // planted: misaligned-vector
    output_of(p)[threadIdx.x] = vector.x + vector.w;
}

WN_KERNEL(fault_two_blocks, 256, const __grid_constant__ FaultParams p) {
    output_of(p)[threadIdx.x] = static_cast<float>(blockIdx.x);  // planted: two-blocks
}

WN_KERNEL(fault_global_end, 256, const __grid_constant__ FaultParams p) {
    for (unsigned i = threadIdx.x; i < p.count; i += blockDim.x) {
        output_of(p)[i] = input_of(p)[i + 1];  // planted: global-end
    }
}

WN_KERNEL(fault_global_write, 256, const __grid_constant__ FaultParams p) {
    for (unsigned i = threadIdx.x; i <= p.count; i += blockDim.x) {
        output_of(p)[i] = 1.0f;  // planted: global-write
    }
}

WN_KERNEL(fault_far_away, 256, const __grid_constant__ FaultParams p) {
    output_of(p)[threadIdx.x + (1u << 28)] = 1.0f;  // planted: far-away
}

WN_KERNEL(fault_shared_end, 256, const __grid_constant__ FaultParams p) {
    WN_SHARED(float, first, 256);
    WN_SHARED(float, second, 256);
    first[threadIdx.x] = second[threadIdx.x] = input_of(p)[threadIdx.x];
    __syncthreads();
    output_of(p)[threadIdx.x] = second[threadIdx.x] + first[threadIdx.x + 1];  // planted: shared-end
}

WN_KERNEL(fault_host_pointer, 256, const __grid_constant__ FaultParams p) {
    output_of(p)[threadIdx.x] = input_of(p)[threadIdx.x];  // planted: host-pointer
}

WN_KERNEL(fault_endless_loop, 256, const __grid_constant__ FaultParams p) {
    unsigned state = threadIdx.x + 1;
    // clang-format off
  while (threadIdx.x == 33 && state != 0) state = state << 1 | state >> 31;  // planted: endless-loop
    // clang-format on
    output_of(p)[threadIdx.x] = static_cast<float>(state);
}

WN_KERNEL(fault_endless_wait, 256, const __grid_constant__ FaultParams p) {
    unsigned* const flag = reinterpret_cast<unsigned*>(p.output);
    while (atomicAdd(flag, 0u) != 12345) wn_spin_yield();  // planted: endless-wait
}

WN_KERNEL(fault_lane_returned, 256, const __grid_constant__ FaultParams p) {
    if (threadIdx.x >= 40) return;
    float value = input_of(p)[threadIdx.x];
    value += __shfl_xor_sync(~0u, value, 1);  // planted: lane-returned
    output_of(p)[threadIdx.x] = value;
}

WN_KERNEL(fault_lane_not_in_mask, 256, const __grid_constant__ FaultParams p) {
    float value = input_of(p)[threadIdx.x];
    value += __shfl_xor_sync(0x0000ffffu, value, 1);  // planted: lane-not-in-mask
    output_of(p)[threadIdx.x] = value;
}

WN_KERNEL(fault_different_shuffles, 256, const __grid_constant__ FaultParams p) {
    float value = input_of(p)[threadIdx.x];
    if (threadIdx.x % 2 == 0) {
        value += __shfl_xor_sync(~0u, value, 1);  // planted: different-shuffles
    } else {
        value += __shfl_xor_sync(~0u, value, 1);  // planted: different-shuffles-other
    }
    output_of(p)[threadIdx.x] = value;
}

// A neighbour's shared memory, read before anything says that it was written.
WN_KERNEL(fault_cluster_barrier, 256, const __grid_constant__ FaultParams p) {
    WN_SHARED(float, part, 1);
    if (threadIdx.x == 0) part[0] = input_of(p)[blockIdx.x];
    __syncthreads();
    const float other = wn::cluster::load(part, wn::cluster::rank() ^ 1);  // planted: cluster-barrier
    wn::cluster::arrive();
    wn::cluster::wait();
    output_of(p)[blockIdx.x * blockDim.x + threadIdx.x] = other;
}

// The last barrier is missing: a block may leave while its neighbour still reads from it.
WN_KERNEL(fault_cluster_exit, 256, const __grid_constant__ FaultParams p) {
    WN_SHARED(float, part, 1);
    if (threadIdx.x == 0) part[0] = input_of(p)[blockIdx.x];
    wn::cluster::arrive();
    wn::cluster::wait();
    const unsigned rank = wn::cluster::rank();
    if (rank == 1) {
        for (int i = 0; i < 100; i++) __syncwarp();
        output_of(p)[threadIdx.x] = wn::cluster::load(part, 0);  // planted: cluster-exit
    }
}

WN_KERNEL(fault_division, 256, const __grid_constant__ FaultParams p) {
    const int divisor = static_cast<int>(p.unused);
    output_of(p)[threadIdx.x] = static_cast<float>(static_cast<int>(threadIdx.x) / divisor);  // planted: division
}

// Meant to be launched before the kernel before it has finished, whose results it takes for granted.
WN_KERNEL(fault_early_read, 256, const __grid_constant__ FaultParams p) {
    const float value = input_of(p)[threadIdx.x];  // planted: early-read
    wn::pdl_wait();
    output_of(p)[threadIdx.x] = value;
}

// The same with an atomic.
WN_KERNEL(fault_early_atomic, 256, const __grid_constant__ FaultParams p) {
    atomicAdd(reinterpret_cast<unsigned*>(p.output), 1u);  // planted: early-atomic
    wn::pdl_wait();
}

// A block waits by one thread, which leaves the others' view of memory as it was.
WN_KERNEL(fault_one_waits, 256, const __grid_constant__ FaultParams p) {
    if (threadIdx.x == 0) wn::pdl_wait();
    __syncthreads();
    output_of(p)[threadIdx.x] = 1.0f;  // planted: one-waits
}

// Half of the threads have nothing to do, and return without having waited: the kernel behind them may take that for the end
// of all that was before.
WN_KERNEL(fault_no_wait, 256, const __grid_constant__ FaultParams p) {
    if (threadIdx.x >= 128) return;
    wn::pdl_wait();
    output_of(p)[threadIdx.x] = 1.0f;
}
