// x' = prologue(x) * smooth in 8 bits with a scale for each row, and h = x' down^T. x is read once.
//
// A cluster of blocks takes 32 rows at a time, each block a share of the columns, which stay in shared memory until the rows'
// largest magnitudes are known. Warps share the columns and the two halves of the rows; sums are added in one order, so that
// every run gives the same bits. With two rooms the next rows are on their way meanwhile.
#include <cooperative_groups.h>

#include "common/codec.h"
#include "cuda/epilogue.h"
#include "cuda/hopper.h"
#include "cuda/quantize_call.h"

namespace aquatint {

namespace cg = cooperative_groups;

constexpr int kRows = 32, kWarps = 8, kThreads = 32 * kWarps;
constexpr int kParts = kWarps / 2;  // of a block's columns: a warp takes sixteen rows of one
constexpr int kMostBlocks = 8;      // of a cluster

// A number within -127..127, rounded half to even, in the lowest byte: behind 1.5 * 2^23 a float has no fraction.
__device__ inline uint32_t code(float x, float by) { return __float_as_uint(fmaf(x, by, 12582912.0f)); }

__device__ inline uint32_t four_codes(float2 a, float2 b, float by) {
    return __byte_perm(__byte_perm(code(a.x, by), code(a.y, by), 0x0040), __byte_perm(code(b.x, by), code(b.y, by), 0x0040),
                       0x5410);
}

__device__ inline float2 times(float2 a, float2 b) { return {a.x * b.x, a.y * b.y}; }

template <int Slices>
struct Quantize {
    static constexpr int kTiles = Slices ? 2 * Slices : 1;   // of eight ranks
    static constexpr int kAhead = Slices > 2 ? 2 : 4;        // products whose operands are read at once
    static constexpr int kSums = 2 * 32 * 4 * kTiles;        // of h, in the order of the registers
    using Sums = float[kTiles][4];

    // What a block found in its columns, for the others of the cluster to read.
    struct Found {
        float largest[kRows], sums[kSums];
    };

    // Shared memory, but for x. Found lies there twice: while the others read one, the next rows go into the other.
    struct Shared {
        Found found[2];
        float largest[kParts][kRows], inverse[kRows];
        float2 moments[kRows];
        uint64_t arrived[2];
    };

    const QuantizeCall& call;
    Shared& shared;
    float* partial;  // sums of h: of half of the parts at a time
    uint8_t* rooms;  // for x: rows of this block's columns, 16 bytes longer so that columns lie in different banks
    int first_column, columns, pitch, abreast;
    uint8_t* x;
    Found* found;
    int first_row;

    __device__ Quantize(const QuantizeCall& call, uint8_t* memory) : call(call), shared(*reinterpret_cast<Shared*>(memory)) {
        first_column = blockIdx.x % call.blocks * call.share;
        columns = min(call.share, call.k - first_column);
        pitch = call.share * 2 + 16;
        abreast = max(1, kThreads / (columns / 8));
        partial = reinterpret_cast<float*>(memory + (sizeof(Shared) + 15) / 16 * 16);
        rooms = reinterpret_cast<uint8_t*>(partial + (Slices ? kParts / 2 * kSums : 0));
    }

    __device__ void run() {
        if (threadIdx.x < 2) barrier_init(&shared.arrived[threadIdx.x], 1);
        barrier_init_fence();
        __syncthreads();
        int block = blockIdx.x / call.blocks, clusters = gridDim.x / call.blocks, last = (call.m + kRows - 1) / kRows;
        fetch(block, 0);
        for (int turn = 0; block < last; block += clusters, ++turn) {
            int room = turn % call.rooms;
            if (call.rooms > 1 && block + clusters < last) fetch(block + clusters, (turn + 1) % 2);
            x = rooms + room * kRows * pitch;
            found = &shared.found[turn % 2];
            first_row = block * kRows;
            measure(turn / call.rooms % 2, room);
            finish();
            __syncthreads();  // nobody reads x any more
            if (call.rooms == 1 && block + clusters < last) fetch(block + clusters, 0);
        }
        cluster_meet();  // none leaves while another reads what it found
    }

    // The first warp: a row a lane. Rows behind the last are left as they are, and what becomes of them is not written.
    __device__ void fetch(int block, int room) const {
        int rows = min(kRows, call.m - block * kRows), lane = threadIdx.x;
        if (lane >= 32) return;
        if (lane == 0) barrier_expect(&shared.arrived[room], rows * columns * 2);
        __syncwarp();
        if (lane < rows)
            bulk_copy(rooms + (room * kRows + lane) * pitch, call.x + int64_t(block * kRows + lane) * call.k + first_column,
                      columns * 2, &shared.arrived[room]);
    }

    // Each row's largest magnitude, and this block's part of h.
    __device__ void measure(uint32_t parity, int room) const {
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = warp / 2, half = warp % 2;
        int width = (call.share / kParts + 15) / 16 * 16, begin = min(part * width, columns), end = min(begin + width, columns);
        Operands operands[kAhead];
        if (begin < end) read(operands, begin, end, lane);  // before x is there
        barrier_wait(&shared.arrived[room], parity);
        if (!call.plain()) prologue();
        Sums h = {};
        float most[2] = {};
        for (int from = begin; from < end; from += 16 * kAhead) {
            if (from > begin) read(operands, from, end, lane);
#pragma unroll
            for (int i = 0; i < kAhead; ++i)
                if (from + 16 * i < end) slice(h, most, operands[i], half, from + 16 * i, lane);
        }
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            most[i] = fmaxf(most[i], __shfl_xor_sync(~0u, most[i], 1));
            most[i] = fmaxf(most[i], __shfl_xor_sync(~0u, most[i], 2));
            if (lane % 4 == 0) shared.largest[part][half * 16 + i * 8 + lane / 4] = most[i];
        }
        add(h, part, half, lane);
        if (threadIdx.x < kRows) {
            float all = 0;
            for (int i = 0; i < kParts; ++i) all = fmaxf(all, shared.largest[i][threadIdx.x]);
            found->largest[threadIdx.x] = all;
        }
    }

    // What sixteen columns are multiplied by.
    struct Operands {
        float2 near, far;
        uint4 down[Slices + 1];  // one more, so that none is a list too
    };

    __device__ void read(Operands (&operands)[kAhead], int from, int end, int lane) const {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
            int column = first_column + min(from + 16 * i, end - 16);
            operands[i].near = smooth_of(column + lane % 4 * 2);
            operands[i].far = smooth_of(column + 8 + lane % 4 * 2);
#pragma unroll
            for (int j = 0; j < Slices; ++j) operands[i].down[j] = call.down[(int64_t(column / 16) * Slices + j) * 32 + lane];
        }
    }

    __device__ void slice(Sums& h, float (&most)[2], const Operands& by, int half, int column, int lane) const {
        uint4 a = load_matrices(x + (half * 16 + lane % 16) * pitch + column * 2 + lane / 16 * 16);
        most[0] = fmaxf(most[0], fmaxf(magnitude(a.x, by.near), magnitude(a.z, by.far)));
        most[1] = fmaxf(most[1], fmaxf(magnitude(a.y, by.near), magnitude(a.w, by.far)));
#pragma unroll
        for (int i = 0; i < Slices; ++i) {
            product(h[2 * i], a, by.down[i].x, by.down[i].y);
            product(h[2 * i + 1], a, by.down[i].z, by.down[i].w);
        }
    }

    __device__ float2 smooth_of(int column) const {
        return call.smooth ? *reinterpret_cast<const float2*>(call.smooth + column) : float2{1.0f, 1.0f};
    }

    __device__ static float magnitude(uint32_t halves, float2 smooth) {
        float2 v = two_floats(halves);
        return fmaxf(fabsf(v.x * smooth.x), fabsf(v.y * smooth.y));
    }

    // Half of the parts to the other half, and so on: always in the same order. All threads meet at the end.
    __device__ void add(Sums& h, int part, int half, int lane) const {
        for (int left = kParts / 2; Slices && left; left /= 2) {
            float* between = partial + (part % left * 2 + half) * (kSums / 2) + lane;
            if (part >= left && part < 2 * left) {
#pragma unroll
                for (int i = 0; i < kTiles * 4; ++i) between[i * 32] = h[i / 4][i % 4];
            }
            __syncthreads();
            if (part < left) {
#pragma unroll
                for (int i = 0; i < kTiles * 4; ++i) h[i / 4][i % 4] += between[i * 32];
            }
            __syncthreads();
        }
        if (Slices && part == 0) {
#pragma unroll
            for (int i = 0; i < kTiles * 4; ++i) found->sums[half * (kSums / 2) + i * 32 + lane] = h[i / 4][i % 4];
        }
        __syncthreads();
    }

    // x becomes activation(norm(x) * gain + offset), in place: a warp takes whole rows.
    __device__ void prologue() const {
        Curve curve(call.activation);
        auto cluster = cg::this_cluster();
        int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
        for (int row = warp; call.eps >= 0 && row < kRows; row += kWarps) {
            float sum = 0;
            for (int i = lane; i < columns / 2; i += 32) {
                float2 v = two_floats(halves_at(row, i));
                sum += v.x + v.y;
            }
            float mean = total(sum) / columns, square = 0;
            for (int i = lane; i < columns / 2; i += 32) {
                float2 v = two_floats(halves_at(row, i));
                square += (v.x - mean) * (v.x - mean) + (v.y - mean) * (v.y - mean);
            }
            square = total(square);
            if (lane == 0) shared.moments[row] = {mean, square};
        }
        if (call.eps >= 0) cluster.sync();
        for (int row = warp; row < kRows; row += kWarps) {
            float2 norm = normal(row);
            int whole = min(first_row + row, call.m - 1);
            for (int i = lane; i < columns / 2; i += 32) {
                float2 v = two_floats(halves_at(row, i));
                v = {v.x * norm.x + norm.y, v.y * norm.x + norm.y};
                if (call.gain.values) v = times(v, vector(call.gain, whole, i));
                if (call.offset.values) {
                    float2 offset = vector(call.offset, whole, i);
                    v = {v.x + offset.x, v.y + offset.y};
                }
                if (call.activation != kNone) v = {curve(v.x), curve(v.y)};
                halves_at(row, i) = two_numbers(v.x, v.y);
            }
        }
        async_fence();  // the copy engine writes here next
        __syncthreads();
    }

    __device__ float2 vector(const Spread& spread, int row, int pair) const {
        int column = first_column + 2 * pair;
        if (spread.floats) return *reinterpret_cast<const float2*>(spread.of<float>(row) + column);
        return two_floats(*reinterpret_cast<const uint32_t*>(spread.of(row) + column));
    }

    __device__ uint32_t& halves_at(int row, int pair) const { return reinterpret_cast<uint32_t*>(x + row * pitch)[pair]; }

    __device__ static float total(float value) {
        for (int step = 16; step; step /= 2) value += __shfl_xor_sync(~0u, value, step);
        return value;
    }

    // A layer norm of the whole row as a factor and a summand, of all blocks' moments (Chan's formula).
    __device__ float2 normal(int row) const {
        if (call.eps < 0) return {1.0f, 0.0f};
        auto cluster = cg::this_cluster();
        float mean = 0, square = 0, count = 0;
        for (int block = 0; block < call.blocks; ++block) {
            float2 part = *cluster.map_shared_rank(shared.moments + row, block);
            float own = min(call.share, call.k - block * call.share), step = part.x - mean, both = count + own;
            square += part.y + step * step * count * own / both;
            mean += step * own / both;
            count = both;
        }
        float inverse = rsqrtf(square / call.k + call.eps);
        return {inverse, -mean * inverse};
    }

    // What all blocks of the cluster found, then codes.
    __device__ void finish() const {
        auto cluster = cg::this_cluster();
        cluster.sync();
        if (threadIdx.x < kRows) {
            float parts[kMostBlocks], most = 0;
            collect(parts, cluster, found->largest + threadIdx.x);
            for (float part : parts) most = fmaxf(most, part);
            float scale = group_scale(most, 127.0f);
            shared.inverse[threadIdx.x] = 1.0f / scale;
            int row = first_row + threadIdx.x;
            if (first_column == 0 && row < call.m) static_cast<float*>(call.scales)[row] = scale;
        }
        __syncthreads();
        if constexpr (Slices > 0) project(cluster);
        encode();
    }

    // The number of each block at this place, zero for those that are not there.
    __device__ void collect(float (&parts)[kMostBlocks], const cg::cluster_group& cluster, float* own) const {
#pragma unroll
        for (int block = 0; block < kMostBlocks; ++block)
            parts[block] = block < call.blocks ? *cluster.map_shared_rank(own, block) : 0.0f;
    }

    // Each block adds up a share of h.
    __device__ void project(const cg::cluster_group& cluster) const {
        int own = blockIdx.x % call.blocks;
        for (int i = own * kThreads + threadIdx.x; i < kSums; i += kThreads * call.blocks) {
            float parts[kMostBlocks], sum = 0;
            collect(parts, cluster, found->sums + i);
            for (float part : parts) sum += part;
            int lane = i % 32, place = i / 32, row = place / (kTiles * 4) * 16 + place % 4 / 2 * 8 + lane / 4;
            int rank = place / 4 % kTiles * 8 + lane % 4 * 2 + place % 2;
            if (first_row + row < call.m && rank < call.rank) call.h[int64_t(first_row + row) * call.rank + rank] = sum;
        }
    }

    // A thread takes eight columns of every `abreast`-th row.
    __device__ void encode() const {
        int chunks = columns / 8, rows = min(kRows, call.m - first_row);
        for (int i = threadIdx.x; i < chunks * abreast; i += kThreads) {
            int first = abreast > 1 ? i / chunks : 0, column = (i - first * chunks) * 8;
            float2 smooth[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) smooth[j] = smooth_of(first_column + column + 2 * j);
            const uint8_t* from = x + first * pitch + column * 2;
            int8_t* to = call.codes + int64_t(first_row + first) * call.k + first_column + column;
#pragma unroll 4
            for (int row = first; row < rows; row += abreast, from += abreast * pitch, to += int64_t(abreast) * call.k)
                *reinterpret_cast<uint2*>(to) = eight_codes(*reinterpret_cast<const uint4*>(from), smooth, shared.inverse[row]);
        }
    }

    __device__ static uint2 eight_codes(const uint4& halves, const float2 (&smooth)[4], float by) {
        float2 a = times(two_floats(halves.x), smooth[0]), b = times(two_floats(halves.y), smooth[1]);
        float2 c = times(two_floats(halves.z), smooth[2]), d = times(two_floats(halves.w), smooth[3]);
        return {four_codes(a, b, by), four_codes(c, d, by)};
    }
};

template <int Slices>
__device__ inline void quantize(const QuantizeCall& call) {
    await_kernel_before();
    start_kernel_behind();
    Quantize<Slices> quantize(call, dynamic_shared());
    quantize.run();
}

}  // namespace aquatint

#define AQ_QUANTIZE(slices)                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 2)                                                                     \
        quantize_s##slices(const __grid_constant__ aquatint::QuantizeCall call) {                                            \
        aquatint::quantize<slices>(call);                                                                                    \
    }

AQ_QUANTIZE(0)
AQ_QUANTIZE(2)
AQ_QUANTIZE(4)
