// What a group norm's statistics are called with. The struct is mirrored in runtime/cuda/calls.py.
#pragma once

#include <cstdint>

#include "cuda/number.h"

namespace aquatint {

struct MomentsCall {
    const Number* x;  // (samples, channels, pixels), in an order that the strides tell
    const float *weight, *bias;  // (channels,); null: none
    float2* parts;               // mean and sum of squares about it, of each sample, group and split
    float *gain, *offset;        // (samples, channels)
    int samples, channels, groups, pixels;
    int splits, share;  // of the pixels; how many are one's
    int abreast;        // threads side by side along a group's channels, a power of two, where they are neighbours; else 0
    int channel_stride, pixel_stride;
    float eps;
};

}  // namespace aquatint
