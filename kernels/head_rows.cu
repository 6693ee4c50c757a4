// Head rows: the query and key heads of attention, each a row with its own moments, in one launch.
//
//     y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias        RMSNorm: x / sqrt(mean(x^2) + eps) * weight + bias
//
// A token has query heads one behind the other, and key heads likewise; where its queries begin is a stride from the last
// token's, and where its keys begin another. So q and k may be two tensors, or parts of the tensor [tokens, q + k + v, length]
// that one GEMM writes; what is not theirs is not touched. Queries and keys have a weight and a bias [length] each. A row is
// at most a chunk and read and written once; lanes of a warp hold it as in rows.cu, and its bits are the same. A warp may have
// queries and keys at once: they differ in addresses alone.
//
//     head_rows_group_16   1..32 lanes, 16 elements a lane: up to 512 elements, which nearly all heads have
//     head_rows_group_32   a warp, 32 elements a lane: up to 1,024
#include "rows.cuh"

namespace wn {

// One head of one token.
template <class T>
struct HeadRow {
    const WnHeadRowsParams& p;
    const WnHeads& heads;
    Stretch<const T> x;
    Stretch<T> y;

    __device__ __forceinline__ HeadRow(const WnHeadRowsParams& p, uint64_t token, uint64_t head, const WnHeads& heads)
        : p(p),
          heads(heads),
          x{global<const T>(heads.x) + token * heads.x_stride + head * p.length, p.length},
          y{global<T>(heads.y) + token * heads.y_stride + head * p.length, p.length} {}

    static __device__ __forceinline__ HeadRow of(const WnHeadRowsParams& p, uint64_t row) {
        const uint64_t token = divide(row, p.heads);
        const uint64_t head = row - token * p.heads.divisor;
        const bool is_query = head < p.query.count;
        return HeadRow(p, token, is_query ? head : head - p.query.count, is_query ? p.query : p.key);
    }

    __device__ __forceinline__ void load(uint64_t first, float (&value)[kVector<T>]) const {
        wn::load(x.start, x.length, first, value);
    }

    __device__ __forceinline__ void normalize(uint64_t first, float (&value)[kVector<T>], const Normalization& by) const {
        float w[kVector<T>], b[kVector<T>];
        load_affine<T>(heads.weight, heads.bias, heads.flags | p.flags, p.length, first, w, b);
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) value[e] = fused(by.of(value[e]), w[e], b[e]);
    }
};

template <class T, uint32_t kElements>
__device__ __forceinline__ void head_rows_group(const WnHeadRowsParams& p) {
    const LaneTeam team{p.lanes};
    const uint32_t rows_per_block = team.teams(blockDim.x);
    const uint32_t slot = team.number();
    const bool mean_square = (p.flags & WN_FLAG_MEAN_SQUARE) != 0;
    for (uint64_t base = static_cast<uint64_t>(blockIdx.x) * rows_per_block; base < p.rows;
         base += static_cast<uint64_t>(gridDim.x) * rows_per_block) {
        // Lanes that have no row take part in the shuffles and touch no memory.
        const bool present = base + slot < p.rows;
        const HeadRow<T> row = HeadRow<T>::of(p, present ? base + slot : 0);
        const uint32_t count = present ? p.length : 0;
        HeldInRegisters<T, kElements> held;
        fill<T, false>(held, team, 0, count, row);
        const Moments moments = moments_of_held<T, false>(held, team, count, p.inverse_length, mean_square);
        const Normalization by = normalization_of(moments, p.inverse_length, p.eps);
        const RowWriter writer(team, row.y.start, nullptr);
#pragma unroll
        for (uint32_t k = 0; k < held.kVectors; k++) {
            const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
            if (first < count) row.normalize(first, held.value[k], by);
            writer.write(row.y.start, row.y.length, first, first < count, held.value[k]);
        }
    }
}

}  // namespace wn

using namespace wn;

WN_HEAD_ROWS_KERNELS(WN_DEFINE)
