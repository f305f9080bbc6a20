// A group norm (arXiv 1803.08494) as a gain and an offset of each channel: each group's moments in parts, then all together.
//
// A block reads its pixels twice, the second time from a cache: squares are taken about the mean. Sums are added in one order,
// so that every run gives the same bits.
#include "cuda/warp.h"
#include "cuda/moments_call.h"

namespace aquatint {

constexpr int kThreads = 256;

// Of all threads, in every thread.
__device__ inline float total(float value, float* between) {
    for (int step = 16; step; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    __syncthreads();  // what was between before has been read
    if (threadIdx.x % 32 == 0) between[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < kThreads / 32; ++i) sum += between[i];
    return sum;
}

// Calls `each` with every number of the block's.
template <class Each>
__device__ inline void walk(const MomentsCall& call, const Number* x, int pixels, const Each& each) {
    int width = call.channels / call.groups;
    if (call.abreast) {
        int channel = threadIdx.x % call.abreast;
        for (int pixel = threadIdx.x / call.abreast; channel < width && pixel < pixels; pixel += kThreads / call.abreast)
            each(wide(x[int64_t(pixel) * call.pixel_stride + channel]));
        return;
    }
    for (int channel = 0; channel < width; ++channel)
        for (int pixel = threadIdx.x; pixel < pixels; pixel += kThreads)
            each(wide(x[int64_t(channel) * call.channel_stride + int64_t(pixel) * call.pixel_stride]));
}

__device__ inline void moments(const MomentsCall& call) {
    auto* between = reinterpret_cast<float*>(dynamic_shared());
    int split = blockIdx.x % call.splits, whole = blockIdx.x / call.splits, width = call.channels / call.groups;
    int sample = whole / call.groups, group = whole % call.groups, first = split * call.share;
    int pixels = min(call.share, call.pixels - first);
    const Number* x = call.x + int64_t(sample) * call.channels * call.pixels +
                             int64_t(group) * width * call.channel_stride + int64_t(first) * call.pixel_stride;
    float sum = 0, square = 0;
    walk(call, x, pixels, [&](float v) { sum += v; });
    float mean = total(sum, between) / (float(pixels) * width);
    walk(call, x, pixels, [&](float v) { square += (v - mean) * (v - mean); });
    square = total(square, between);
    if (threadIdx.x == 0) call.parts[blockIdx.x] = {mean, square};
}

// A thread a channel: its group's parts (Chan's formula).
__device__ inline void affine(const MomentsCall& call) {
    int place = blockIdx.x * kThreads + threadIdx.x, width = call.channels / call.groups;
    if (place >= call.samples * call.channels) return;
    int channel = place % call.channels, group = place / call.channels * call.groups + channel / width;
    float mean = 0, square = 0, count = 0;
    for (int i = 0; i < call.splits; ++i) {
        float2 part = call.parts[group * call.splits + i];
        float own = float(min(call.share, call.pixels - i * call.share)) * width, step = part.x - mean, both = count + own;
        square += part.y + step * step * count * own / both;
        mean += step * own / both;
        count = both;
    }
    float gain = rsqrtf(square / count + call.eps) * (call.weight ? call.weight[channel] : 1.0f);
    call.gain[place] = gain;
    call.offset[place] = (call.bias ? call.bias[channel] : 0.0f) - mean * gain;
}

}  // namespace aquatint

extern "C" __global__ void __launch_bounds__(256) moments(const __grid_constant__ aquatint::MomentsCall call) {
    aquatint::moments(call);
}

extern "C" __global__ void __launch_bounds__(256) affine(const __grid_constant__ aquatint::MomentsCall call) {
    aquatint::affine(call);
}
