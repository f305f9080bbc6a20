// What convolutions are called with. The struct is mirrored in runtime/cuda/calls.py.
#pragma once

#include "cuda/product_call.h"

namespace aquatint {

struct ConvCall : ProductCall {
    const float* tap_scales;  // of the weight, (taps, N), N as many as whole tiles have
    int channels, depths;     // bytes of a pixel; tiles along K that they are
    int height, width, out_height, out_width, kernel_height, kernel_width;
    int stride[2], padding[2], dilation[2];

    // Of a pixel of the output: the image that it is in, as its first pixel's number, and where its first tap looks.
    struct Place {
        int image, y, x;
    };

    __device__ Place place(int pixel) const {
        if (pixel >= m) return {0, -(1 << 24), 0};  // sees nothing
        int row = pixel / out_width, x = pixel - row * out_width, image = row / out_height, y = row - image * out_height;
        return {image * height * width, y * stride[0] - padding[0], x * stride[1] - padding[1]};
    }

    // The pixel that a tap sees from there, or -1.
    __device__ int seen(const Place& place, int tap) const {
        int down = tap / kernel_width, y = place.y + down * dilation[0];
        int x = place.x + (tap - down * kernel_width) * dilation[1];
        return y < 0 || y >= height || x < 0 || x >= width ? -1 : place.image + y * width + x;
    }
};

}  // namespace aquatint
