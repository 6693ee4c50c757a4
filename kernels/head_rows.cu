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
//     head_rows_group_16   1..32 lanes, 16 elements a lane, in registers: up to 512 elements, which nearly all heads have, in whole
//                          vectors of tensors that begin on 16-byte words
//     head_rows_any        the same lanes, in shared memory: heads of up to 1,024 elements, at any address
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

    // The same of whole vectors.
    __device__ __forceinline__ void normalize_whole(uint32_t first, float (&value)[kVector<T>], const Normalization& by) const {
        float w[kVector<T>], b[kVector<T>];
        load_coefficients(heads.weight, WN_FLAG_WEIGHT_F32, first, 1.0f, w);
        load_coefficients(heads.bias, WN_FLAG_BIAS_F32, first, 0.0f, b);
        if (p.flags & WN_FLAG_WEIGHT_PLUS_ONE) {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) w[e] += 1.0f;
        }
        if (p.flags & WN_FLAG_MEAN_SQUARE) {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) value[e] = fused(product(value[e], by.rstd), w[e], b[e]);
        } else {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) value[e] = fused(by.of(value[e]), w[e], b[e]);
        }
    }

private:
    __device__ __forceinline__ void load_coefficients(uint64_t address, uint32_t is_f32, uint32_t first, float absent,
                                                      float (&out)[kVector<T>]) const {
        if (address == 0) {
#pragma unroll
            for (uint32_t e = 0; e < kVector<T>; e++) out[e] = absent;
        } else if ((heads.flags & is_f32) != 0) {
            load_whole(global<const float>(address) + first, out);
        } else {
            load_whole(global<const T>(address) + first, out);
        }
    }
};

// Calls for every row that a team of lanes has, with how many elements there are of it. Lanes that have no row take part in the
// shuffles and touch no memory.
template <class T, class Each>
__device__ __forceinline__ void each_head(const WnHeadRowsParams& p, const LaneTeam& team, Each each) {
    const uint32_t rows_per_block = team.teams(blockDim.x);
    const uint32_t slot = team.number();
    for (uint64_t base = static_cast<uint64_t>(blockIdx.x) * rows_per_block; base < p.rows;
         base += static_cast<uint64_t>(gridDim.x) * rows_per_block) {
        const bool present = base + slot < p.rows;
        each(HeadRow<T>::of(p, present ? base + slot : 0), present ? p.length : 0);
    }
}

template <class T>
__device__ __forceinline__ void head_rows_group_16(const WnHeadRowsParams& p) {
    const LaneTeam team{p.lanes};
    const bool mean_square = (p.flags & WN_FLAG_MEAN_SQUARE) != 0;
    each_head<T>(p, team, [&](const HeadRow<T>& row, uint32_t count) {
        using Held = HeldInRegisters<T, 16>;
        uint4 words[Held::kVectors];
#pragma unroll
        for (uint32_t k = 0; k < Held::kVectors; k++) {
            const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
            words[k] = uint4{0, 0, 0, 0};
            if (first < count) words[k] = load_at_once(row.x.start + first);
        }
        Held held;
#pragma unroll
        for (uint32_t k = 0; k < Held::kVectors; k++) unpack<T>(words[k], held.value[k]);
        const Moments moments = moments_of_held<T, true>(held, team, count, p.inverse_length, mean_square);
        const Normalization by = normalization_of(moments, p.inverse_length, p.eps);
#pragma unroll
        for (uint32_t k = 0; k < Held::kVectors; k++) {
            const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
            if (first >= count) continue;
            row.normalize_whole(first, held.value[k], by);
            store_whole(row.y.start + first, held.value[k]);
        }
    });
}

template <class T>
__device__ __forceinline__ void head_rows_any(const WnHeadRowsParams& p) {
    using Held = HeldByTeam<T, WN_CHUNK / WN_WARP>;
    WN_SHARED(uint4, room, Held::kRoom);
    const Held held = Held::in(room);
    const LaneTeam team{p.lanes};
    const bool mean_square = (p.flags & WN_FLAG_MEAN_SQUARE) != 0;
    each_head<T>(p, team, [&](const HeadRow<T>& row, uint32_t count) {
#pragma unroll 1
        for (uint32_t k = 0; k < Held::kVectors; k++) {
            const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
            float value[kVector<T>] = {};
            if (first < count) row.load(first, value);
            held.write(k, value);
        }
        const Moments moments = moments_of_held<T, false>(held, team, count, p.inverse_length, mean_square);
        const Normalization by = normalization_of(moments, p.inverse_length, p.eps);
        const RowWriter writer(team, row.y.start, nullptr);
#pragma unroll 1
        for (uint32_t k = 0; k < Held::kVectors; k++) {
            const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
            float value[kVector<T>];
            held.read(k, value);
            if (first < count) row.normalize(first, value, by);
            writer.write(row.y.start, row.y.length, first, first < count, value);
        }
    });
}

}  // namespace wn

using namespace wn;

WN_HEAD_ROWS_KERNELS(WN_DEFINE)
