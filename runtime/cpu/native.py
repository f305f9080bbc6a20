"""The compiled CPU library: found, loaded by ctypes, and lent torch's own thread pool where torch is. Needs no torch itself."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

FILE = "libaquatint_cpu.so"
KERNEL_SETS = ("plain", "avx2", "avx512", "avx512-vnni", "avx512-amx")


class Spread(ctypes.Structure):
    """As in csrc/cpu/kernel_table.h."""

    _fields_ = [("values", ctypes.c_void_p), ("rows", ctypes.c_int64), ("stride", ctypes.c_int64)]


class QuantizeCall(ctypes.Structure):
    """As in csrc/cpu/kernel_table.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "smooth", "down", "down_scales")),
        *((name, Spread) for name in ("gain", "offset")),
        *((name, ctypes.c_int64) for name in ("m", "k", "rank", "group")),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("activation", "bits", "branch_bits")),
        *((name, ctypes.c_void_p) for name in ("codes", "scales", "h")),
        ("threads", ctypes.c_int64),
    ]
    held: Any = None  # what lives as long as the call


class GroupAffineCall(ctypes.Structure):
    """As in csrc/cpu/kernel_table.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "weight", "bias")),
        *((name, ctypes.c_int64) for name in ("images", "pixels", "channels", "groups")),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("gain", "offset")),
    ]


class Window(ctypes.Structure):
    """As in csrc/cpu/kernel_table.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("height", "width", "channels", "rows", "columns")),
        *((name, ctypes.c_int64 * 2) for name in ("taps", "stride", "padding", "dilation")),
        ("places", ctypes.c_void_p),
        ("squares", ctypes.c_int64),
    ]


class ProductCall(ctypes.Structure):
    """As in csrc/cpu/kernel_table.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "scales", "weight", "weight_scales", "wholes", "bias", "h", "up")),
        ("up_scales", ctypes.c_void_p),
        ("window", ctypes.POINTER(Window)),
        *((name, ctypes.c_int64) for name in ("m", "n", "k", "rank", "scale_groups", "weight_groups")),
        *((name, ctypes.c_int32) for name in ("bits", "weight_bits", "branch_bits", "activation", "paired")),
        *((name, Spread) for name in ("gate", "residual")),
        ("y", ctypes.c_void_p),
        ("next", ctypes.POINTER(QuantizeCall)),
        ("threads", ctypes.c_int64),
    ]


class Heads(ctypes.Structure):
    """As in csrc/cpu/kernel_table.h."""

    _fields_ = [("values", ctypes.c_void_p), *((name, ctypes.c_int64) for name in ("image", "head", "row"))]


class AttentionCall(ctypes.Structure):
    """As in csrc/cpu/kernel_table.h."""

    _fields_ = [
        *((name, Heads) for name in ("q", "k", "v")),
        *((name, ctypes.c_int64) for name in ("batch", "heads", "queries", "keys", "width")),
        ("scale", ctypes.c_float),
        ("bfloat16", ctypes.c_int32),
        ("y", ctypes.c_void_p),
    ]


class LinearCall(ctypes.Structure):
    """As in csrc/cpu/kernel_table.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("x", "weight", "scales", "bias")),
        ("window", ctypes.POINTER(Window)),
        *((name, ctypes.c_int64) for name in ("m", "n", "k")),
        *((name, ctypes.c_int32) for name in ("panels", "activation")),
        ("y", ctypes.c_void_p),
    ]


class MovedAffineCall(ctypes.Structure):
    """As in csrc/cpu/kernel_table.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("gain", "offset", "before", "now")),
        *((name, ctypes.c_int64) for name in ("images", "rows", "channels", "groups", "places")),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("new_gain", "new_offset")),
    ]


class RecallCall(ctypes.Structure):
    """As in csrc/cpu/kernel_table.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("codes", "scales", "index", "before")),
        *((name, ctypes.c_int64) for name in ("images", "places", "rows", "before_rows", "width", "group")),
        ("bits", ctypes.c_int32),
        ("y", ctypes.c_void_p),
    ]


@dataclass(frozen=True)
class KernelSet:
    """The kernels of one instruction set: the library and its table.

    tiles: they multiply by AMX;  wide_sums: they sum products of bytes in 32 bits, so weights may be bytes, or become some
    alone: no library of products is beside them, so that they multiply too where it would be faster
    packed: weights laid out for them, as long as a kernel holds them: programs over one base share it
    """

    library: ctypes.CDLL
    table: int
    name: str
    columns: int
    tiles: bool
    wide_sums: bool
    alone: bool = False
    packed: WeakValueDictionary[Any, Any] = field(default_factory=WeakValueDictionary, compare=False, repr=False)

    @property
    def byte_up(self) -> bool:
        """Do they multiply the low-rank branch in bytes on the way up too? csrc/cpu/bytes.h, tile_bytes.h"""
        return self.wide_sums and not self.tiles


def library_paths() -> tuple[Path, ...]:
    """Where the library may be: inside an installed package, or in a checkout's build folder."""
    package = Path(__file__).resolve().parents[2]
    return (
        package / "lib" / FILE,
        package / "aquatint" / "lib" / FILE,
        package / "build" / "cpu" / FILE,
    )


@functools.cache
def library() -> ctypes.CDLL | None:
    """The library, or None when it was not built."""
    path = next((p for p in library_paths() if p.is_file()), None)
    if path is None:
        return None
    loaded = ctypes.CDLL(str(path))
    loaded.aq_kernels.restype = ctypes.c_void_p
    loaded.aq_name.restype = ctypes.c_char_p
    loaded.aq_packed_bytes.restype = loaded.aq_columns.restype = ctypes.c_int64
    loaded.aq_ceiling.restype = ctypes.c_double
    loaded.aq_name.argtypes = loaded.aq_columns.argtypes = loaded.aq_tiles.argtypes = loaded.aq_wide_sums.argtypes = [
        ctypes.c_void_p
    ]
    sizes = [ctypes.c_int64, ctypes.c_int64]
    loaded.aq_packed_bytes.argtypes = [ctypes.c_void_p, ctypes.c_int, *sizes]
    loaded.aq_pack_weight.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, *sizes, ctypes.c_void_p]
    loaded.aq_quantize.argtypes = [ctypes.c_void_p, ctypes.POINTER(QuantizeCall), ctypes.c_int]
    loaded.aq_group_affine.argtypes = [ctypes.c_void_p, ctypes.POINTER(GroupAffineCall), ctypes.c_int]
    loaded.aq_product.argtypes = [ctypes.c_void_p, ctypes.POINTER(ProductCall), ctypes.c_int]
    loaded.aq_attention.argtypes = [ctypes.c_void_p, ctypes.POINTER(AttentionCall), ctypes.c_int]
    loaded.aq_linear.argtypes = [ctypes.c_void_p, ctypes.POINTER(LinearCall), ctypes.c_int]
    loaded.aq_depthwise.argtypes = loaded.aq_winograd.argtypes = loaded.aq_linear.argtypes
    loaded.aq_moved_affine.argtypes = [ctypes.c_void_p, ctypes.POINTER(MovedAffineCall), ctypes.c_int]
    loaded.aq_recall.argtypes = [ctypes.c_void_p, ctypes.POINTER(RecallCall), ctypes.c_int]
    loaded.aq_ceiling.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_int64]
    return loaded


def kernel_set(name: str) -> KernelSet | None:
    """The kernels called `name`, or None when they were not built or this machine lacks the instructions."""
    loaded = library()
    process = ctypes.CDLL(None)
    if loaded and hasattr(process, "GOMP_parallel"):  # torch brings it; without it the library has threads of its own
        loaded.aq_lend_pool(process.GOMP_parallel, process.omp_get_thread_num)
    table = loaded.aq_kernels(KERNEL_SETS.index(name)) if loaded else None
    if loaded is None or table is None:
        return None
    return KernelSet(
        loaded, table, name, loaded.aq_columns(table), bool(loaded.aq_tiles(table)), bool(loaded.aq_wide_sums(table))
    )


def best_kernel_set() -> KernelSet | None:
    """The fastest kernels that run here."""
    return next((found for name in reversed(KERNEL_SETS) if (found := kernel_set(name))), None)
