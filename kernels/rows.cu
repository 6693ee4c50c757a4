// LayerNorm and RMSNorm with what most calls have: a residual, weight and bias. Whatever else may surround a norm is in
// fused_rows.cu, for the registers that it costs.
//
//     s = x + residual                                 (f32; written out as `sum` if asked)
//     y = (s - mean(s)) / sqrt(var(s) + eps) * weight + bias
//     RMSNorm: the same with s / sqrt(mean(s^2) + eps)
//
// A row is [length] elements at x + row * x_stride; each byte of x, residual, sum and y moves once, as 16-byte words where
// rows are aligned to them. Weight and bias, [length], come from L2 after the first rows. The regimes differ in who holds a
// row:
//
//     rows_group_E   1..32 lanes of a warp, E elements a lane, in registers: rows of one chunk; shuffles only, no barrier
//     rows_block     a block, a chunk a warp, in registers; one barrier
//     rows_shared    1..16 blocks of a cluster, in shared memory; one barrier of the cluster
//
// Rows that are too long to be held are in fused_rows.cu too.
#include "rows.cuh"

namespace wn {

template <class T>
__device__ __forceinline__ Input<T> input_of(const WnRowsParams& p, uint64_t row) {
    return Input<T>{stretch_of<const T>(p.x, row, p.x_stride, p.length),
                    stretch_of<const T>(p.residual, row, p.residual_stride, p.length),
                    stretch_of<T>(p.sum, row, p.sum_stride, p.length)};
}

// How a row is finished.
template <class T>
struct PlainOutput {
    const WnRowsParams& p;
    T* sum;
    T* y;
    RowWriter writer;
    Normalization by;

    __device__ __forceinline__ PlainOutput(const WnRowsParams& params, uint64_t row, const LaneTeam& team,
                                           const Moments& moments)
        : p(params),
          sum(row_at<T>(p.sum, row, p.sum_stride)),
          y(row_at<T>(p.y, row, p.y_stride)),
          writer(team, sum, y),
          by(normalization_of(moments, params.length, params.eps)) {}

    __device__ __forceinline__ void normalize(uint64_t first, float (&value)[kVector<T>]) const {
        float w[kVector<T>], b[kVector<T>];
        load_affine<T>(p.weight, p.bias, p.flags, p.length, first, w, b);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = by.of(value[e]) * w[e] + b[e];
    }
};

template <class T, class Held>
__device__ __forceinline__ void write_held(const Held& held, const LaneTeam& team, uint64_t begin, uint32_t count,
                                           const PlainOutput<T>& output) {
#pragma unroll(Held::kUnrolled)
    for (uint32_t k = 0; k < Held::kVectors; k++) {
        const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
        const bool inside = first < count;
        float value[kVector<T>];
        held.read(k, value);
        output.writer.write(output.sum, output.p.length, begin + first, inside, value);
        if (inside) output.normalize(begin + first, value);
        output.writer.write(output.y, output.p.length, begin + first, inside, value);
    }
}

template <class T, uint32_t kElements>
__device__ __forceinline__ void rows_group(const WnRowsParams& p) {
    const LaneTeam team{p.lanes};
    const uint32_t rows_per_block = blockDim.x / p.lanes;
    const uint32_t slot = threadIdx.x / p.lanes;
    for (uint64_t base = static_cast<uint64_t>(blockIdx.x) * rows_per_block; base < p.rows;
         base += static_cast<uint64_t>(gridDim.x) * rows_per_block) {
        // Lanes that have no row take part in the shuffles and touch no memory.
        const bool present = base + slot < p.rows;
        const uint64_t row = present ? base + slot : 0;
        const uint32_t count = present ? static_cast<uint32_t>(p.length) : 0;
        const Input<T> input = input_of<T>(p, row);
        HeldInRegisters<T, kElements> held;
        held.fill(input, team, 0, count);
        const Moments moments = moments_of_held<T>(held, team, count, (p.flags & WN_FLAG_MEAN_SQUARE) != 0);
        write_held(held, team, 0, count, PlainOutput<T>(p, row, team, moments));
    }
}

template <class T>
__device__ __forceinline__ void rows_block(const WnRowsParams& p) {
    WN_SHARED(Moments, parts, 2 * WN_ROWS_BLOCK_WARPS);
    const LaneTeam team{WN_WARP};
    const Chunks chunks{p.length};
    const uint32_t warp = threadIdx.x / WN_WARP;  // and its chunk
    const uint64_t begin = chunks.begin(warp);
    const uint32_t count = chunks.elements(warp);
    uint32_t turn = 0;
    for (uint64_t row = blockIdx.x; row < p.rows; row += gridDim.x) {
        const Input<T> input = input_of<T>(p, row);
        HeldInRegisters<T, WN_CHUNK / WN_WARP> held;
        held.fill(input, team, begin, count);
        const Moments mine = moments_of_held<T>(held, team, count, (p.flags & WN_FLAG_MEAN_SQUARE) != 0);
        // By turns, as PartsOfCluster has them.
        Moments* const all = parts + turn * WN_ROWS_BLOCK_WARPS;
        turn ^= 1u;
        if (team.lane() == 0) all[warp] = mine;
        __syncthreads();
        const Moments moments = merge_few(all, blockDim.x / WN_WARP);
        write_held(held, team, begin, count, PlainOutput<T>(p, row, team, moments));
    }
}

template <class T>
__device__ __forceinline__ void rows_shared(const WnRowsParams& p) {
    WN_DYNAMIC_SHARED(uint4, room);
    const LaneTeam team{WN_WARP};
    const Chunks chunks{p.length};
    const bool mean_square = (p.flags & WN_FLAG_MEAN_SQUARE) != 0;
    PartsOfCluster parts(reinterpret_cast<Moments*>(room), leaves_of(chunks, p.leaf_shift));
    const Leaf leaf(chunks, p.leaf_shift, parts.number);
    const RoomOfWarp<T> held(p, room, 1u << p.leaf_shift);
    for (uint64_t row = blockIdx.x / parts.blocks; row < p.rows; row += gridDim.x / parts.blocks) {
        const Input<T> input = input_of<T>(p, row);
        for (uint32_t i = 0; i < leaf.count; i++) {
            held.template chunk<false>(i).fill(input, team, chunks.begin(leaf.first + i), chunks.elements(leaf.first + i));
        }
        copies_arrived();
        TreeOfWarp tree;
        for (uint32_t i = 0; i < leaf.count; i++) {
            const uint32_t count = chunks.elements(leaf.first + i);
            tree.add(moments_of_held<T>(held.template chunk<false>(i), team, count, mean_square));
        }
        const Moments moments = merge_many(parts.exchange(tree.root()), parts.leaves);
        const PlainOutput<T> output(p, row, team, moments);
        for (uint32_t i = 0; i < leaf.count; i++) {
            const uint32_t count = chunks.elements(leaf.first + i);
            write_held(held.template chunk<false>(i), team, chunks.begin(leaf.first + i), count, output);
        }
    }
    parts.end();
}

}  // namespace wn

using namespace wn;

WN_ROWS_KERNELS(WN_DEFINE)
