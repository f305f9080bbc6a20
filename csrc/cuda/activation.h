// Activations, as one curve.
#pragma once

namespace aquatint {

enum Activation { kNone, kGelu, kGeluTanh, kSilu };  // in the order of runtime/cuda/calls.py

// x sigmoid(x (a + b x^2 + c x^4)): SiLU and the tanh form of GELU exactly, GELU to 3e-5. One curve keeps the code small, and
// with it in the instruction cache; x^2 stops where the sigmoid has long been 0 or 1.
struct Curve {
    float a, b, c;

    __device__ Curve(int activation) {
        a = activation == kSilu ? 1.0f : activation == kGeluTanh ? 1.5957691f : 1.59501838f;
        b = activation == kSilu ? 0.0f : activation == kGeluTanh ? 0.07135481f : 0.07400988f;
        c = activation == kGelu ? -7.0293768e-4f : 0.0f;
    }

    __device__ float operator()(float x) const {
        float square = fminf(x * x, 64.0f);
        return __fdividef(x, 1.0f + __expf(-x * fmaf(fmaf(c, square, b), square, a)));
    }
};

}  // namespace aquatint
