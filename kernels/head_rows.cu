// Head rows: the query and key heads of attention, each a row with its own moments, in one launch.
//
//     y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias        RMSNorm: x / sqrt(mean(x^2) + eps) * weight + bias
//
// A token has query heads one behind the other, and key heads likewise; where its queries begin is a stride from the last
// token's, and where its keys begin another. So q and k may be two tensors, or parts of the tensor [tokens, q + k + v, length]
// that one GEMM writes; what is not theirs is not touched. Queries and keys have a weight and a bias [length] each. A row is
// at most a chunk and read and written once; lanes of a warp hold it as in rows_group of rows.cuh, and its bits are the same. A
// warp may have queries and keys at once: they differ in addresses alone. Where a row begins on 16 bytes, all is moved by words
// of as many.
//
//     head_rows_group_8    1..32 lanes, 8 elements a lane: up to 256 elements, which nearly all heads have
//     head_rows_group_32   a warp, 32 elements a lane: up to 1,024. There is none for 512 in between, of which few heads are:
//                          it would have fewer registers, and be another 100 KB of the image
#include "rows.cuh"

namespace wn {

// What a row is finished with. Weight and bias as pointers: of an integer that is handed to a function, nvcc forgets that it
// is an address in global memory.
struct HeadAffine {
    const void* weight;
    const void* bias;
    uint32_t length;
    uint32_t flags;
    float high;
    float low;
    float rstd;
};

// One vector of a row.
template <class T>
__device__ __forceinline__ void write_head(T* y, const HeadAffine& by, uint32_t first, Vector<T>& vector) {
    float w[kVector<T>], b[kVector<T>];
    const uint64_t weight = reinterpret_cast<uint64_t>(as_global(by.weight));
    const uint64_t bias = reinterpret_cast<uint64_t>(as_global(by.bias));
    Coefficients<T>{weight, (by.flags & WN_FLAG_WEIGHT_F32) != 0}.load(by.length, first, 1.0f, w);
    Coefficients<T>{bias, (by.flags & WN_FLAG_BIAS_F32) != 0}.load(by.length, first, 0.0f, b);
    if (by.flags & WN_FLAG_WEIGHT_PLUS_ONE) {
#pragma unroll
        for (uint32_t e = 0; e < kVector<T>; e++) w[e] += 1.0f;
    }
#pragma unroll
    for (uint32_t e = 0; e < kVector<T>; e++) {
        vector.elements[e] = ((vector.elements[e] - by.high) - by.low) * by.rstd * w[e] + b[e];
    }
    store(as_global(y), by.length, first, vector.elements);
}

// The same, for lanes with many vectors. Out of line and by value: inlined, it would stand once for each of them, and be most
// of the code.
template <class T>
__device__ __noinline__ void write_head_out_of_line(T* y, HeadAffine by, uint32_t first, Vector<T> vector) {
    write_head(y, by, first, vector);
}

// One head of one token.
template <class T>
struct HeadRow {
    const WnHeadRowsParams& p;
    const WnHeads& heads;
    const T* x;
    T* y;

    __device__ __forceinline__ HeadRow(const WnHeadRowsParams& p, uint64_t token, uint64_t head, const WnHeads& heads)
        : p(p),
          heads(heads),
          x(global<const T>(heads.x) + token * heads.x_stride + head * p.length),
          y(global<T>(heads.y) + token * heads.y_stride + head * p.length) {}

    static __device__ __forceinline__ HeadRow of(const WnHeadRowsParams& p, uint64_t row) {
        const uint64_t token = divide(row, p.heads);
        const uint64_t head = row - token * p.heads.divisor;
        const bool is_query = head < p.query.count;
        return HeadRow(p, token, is_query ? head : head - p.query.count, is_query ? p.query : p.key);
    }

    __device__ __forceinline__ void load(uint64_t first, float (&value)[kVector<T>]) const {
        wn::load(x, p.length, first, value);
    }

    __device__ __forceinline__ HeadAffine affine(const Moments& moments) const {
        const float rstd = reciprocal_deviation(moments.m2.value() / static_cast<float>(p.length), p.eps);
        const uint32_t flags = heads.flags | p.flags;
        return HeadAffine{reinterpret_cast<const void*>(heads.weight), reinterpret_cast<const void*>(heads.bias), p.length, flags, moments.mean.high, moments.mean.low, rstd};
    }
};

template <class T, uint32_t kElements>
__device__ __forceinline__ void head_rows_group(const WnHeadRowsParams& p) {
    const LaneTeam team{p.lanes};
    const uint32_t rows_per_block = blockDim.x / p.lanes;
    const uint32_t slot = threadIdx.x / p.lanes;
    for (uint64_t base = static_cast<uint64_t>(blockIdx.x) * rows_per_block; base < p.rows;
         base += static_cast<uint64_t>(gridDim.x) * rows_per_block) {
        // Lanes that have no row take part in the shuffles and touch no memory.
        const bool present = base + slot < p.rows;
        const HeadRow<T> row = HeadRow<T>::of(p, present ? base + slot : 0);
        const uint32_t count = present ? p.length : 0;
        HeldInRegisters<T, kElements> held;
        held.fill(row, team, 0, count);
        const Moments moments = moments_of_held<T>(held, team, count, (p.flags & WN_FLAG_MEAN_SQUARE) != 0);
        const HeadAffine affine = row.affine(moments);
#pragma unroll
        for (uint32_t k = 0; k < held.kVectors; k++) {
            const uint32_t first = (k * team.lanes + team.lane()) * kVector<T>;
            Vector<T> vector;
            held.read(k, vector.elements);
            if (first >= count) continue;
            if constexpr (kElements == 8) {
                write_head(row.y, affine, first, vector);
            } else {
                write_head_out_of_line(row.y, affine, first, vector);
            }
        }
    }
}

}  // namespace wn

using namespace wn;

WN_HEAD_ROWS_KERNELS(WN_DEFINE)
