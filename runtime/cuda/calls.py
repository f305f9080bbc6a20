"""What the CUDA kernels are called with: the structs of csrc/cuda/*_call.h."""

from __future__ import annotations

import ctypes
from typing import Any

ACTIVATIONS = (None, "gelu", "gelu_tanh", "silu")  # in the order of csrc/cuda/activation.h


class Spread(ctypes.Structure):
    """As in csrc/cuda/product_call.h."""

    _fields_ = [("values", ctypes.c_void_p), ("inverse", ctypes.c_uint), ("stride", ctypes.c_int), ("floats", ctypes.c_int)]


class ProductCall(ctypes.Structure):
    """As in csrc/cuda/product_call.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("codes", "weight", "x_scales", "w_scales", "bias", "h", "up")),
        *((name, Spread) for name in ("gate", "residual")),
        ("y", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("m", "n", "k", "rank", "activation", "m_tiles", "n_tiles", "k_tiles", "paired")),
    ]


class TurnedCall(ProductCall):
    """As in csrc/cuda/turned_call.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("angles", "norm")),
        *((name, ctypes.c_int) for name in ("tokens", "width", "halves")),
        ("eps", ctypes.c_float),
    ]


class ConvCall(ProductCall):
    """As in csrc/cuda/conv_call.h."""

    _fields_ = [
        ("tap_scales", ctypes.c_void_p),
        *((name, ctypes.c_int) for name in ("channels", "depths", "height", "width", "out_height", "out_width")),
        *((name, ctypes.c_int) for name in ("kernel_height", "kernel_width")),
        *((name, ctypes.c_int * 2) for name in ("stride", "padding", "dilation")),
    ]


class QuantizeCall(ctypes.Structure):
    """As in csrc/cuda/quantize_call.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "smooth", "down")),
        *((name, Spread) for name in ("gain", "offset")),
        *((name, ctypes.c_void_p) for name in ("codes", "scales", "h")),
        *((name, ctypes.c_int) for name in ("m", "k", "rank", "activation", "blocks", "share", "rooms")),
        ("eps", ctypes.c_float),
    ]


class GemvCall(ctypes.Structure):
    """As in csrc/cuda/gemv_call.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "weight", "groups", "rows", "bias", "y")),
        *((name, ctypes.c_int) for name in ("m", "n", "k", "activation")),
    ]


class MomentsCall(ctypes.Structure):
    """As in csrc/cuda/moments_call.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias", "parts", "gain", "offset")),
        *((name, ctypes.c_int) for name in ("samples", "channels", "groups", "pixels", "splits", "share", "abreast")),
        *((name, ctypes.c_int) for name in ("channel_stride", "pixel_stride")),
        ("eps", ctypes.c_float),
    ]


class RotaryCall(ctypes.Structure):
    """As in csrc/cuda/rotary_call.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "cos", "sin", "weight", "y")),
        *((name, ctypes.c_int) for name in ("rows", "tokens", "heads", "width", "group", "by_pairs", "by_halves")),
        ("eps", ctypes.c_float),
    ]


def at_struct(value: Any) -> ctypes.Structure:
    """One number or address as an argument of its own."""
    whole = isinstance(value, int)
    kind = ctypes.c_int if whole else ctypes.c_void_p
    single = type("Single", (ctypes.Structure,), {"_fields_": [("value", kind)]})
    return single(value if whole else value.data_ptr())
