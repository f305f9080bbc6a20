"""CUDA's driver as the runtime needs it: fatbins loaded, kernels launched, matrices described to the copy engine.

Called by ctypes, in the context that torch has made, on torch's streams. A fatbin is data: no torch version is in it.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aquatint.runtime.cuda.launch import Launch

MAX_SHARED = 8  # CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
CLUSTER, OVERLAP = 4, 6  # CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, _PROGRAMMATIC_STREAM_SERIALIZATION
BYTES, SWIZZLE_128, PROMOTE_256 = 0, 3, 3  # CU_TENSOR_MAP_DATA_TYPE_UINT8, _SWIZZLE_128B, _L2_PROMOTION_L2_256B
TENSOR_MAP = 128  # bytes


class CudaError(RuntimeError):
    """A call of CUDA's driver that failed, with the driver's word for it."""


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute that holds three numbers."""

    _fields_ = [("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_uint * 16)]


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = [
        *((name, ctypes.c_uint) for name in ("grid_x", "grid_y", "grid_z", "block_x", "block_y", "block_z", "shared")),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("count", ctypes.c_uint),
    ]


@dataclass(frozen=True)
class Driver:
    """The loaded driver library."""

    library: ctypes.CDLL

    def check(self, status: int, what: str) -> None:
        """Raises CudaError unless `status` is success."""
        if status == 0:
            return
        word = ctypes.c_char_p()
        self.library.cuGetErrorString(status, ctypes.byref(word))
        raise CudaError(f"{what}: {(word.value or b'unknown error').decode()} (CUDA error {status})")

    def load(self, path: Path, shared: int) -> Module:
        """The kernels in a fatbin or cubin; a block may have so many bytes of shared memory."""
        handle, context = ctypes.c_void_p(), ctypes.c_void_p()
        self.check(self.library.cuCtxGetCurrent(ctypes.byref(context)), "asking for the context")
        self.check(self.library.cuModuleLoadData(ctypes.byref(handle), path.read_bytes()), f"loading {path}")
        return Module(self, handle, context, path, shared)

    def tensor_map(self, address: int, rows: int, columns: int, box: tuple[int, int]) -> ctypes.Array[ctypes.c_char]:
        """A matrix (rows, columns) of bytes for the copy engine, read in boxes (rows, 128) and swizzled by 128 bytes.

        What a box holds beyond the matrix is zero. The columns are a multiple of 16.
        """
        room = ctypes.create_string_buffer(TENSOR_MAP + 64)
        start = -ctypes.addressof(room) % 64  # the driver wants it there
        encoded = (ctypes.c_char * TENSOR_MAP).from_buffer(room, start)
        status = self.library.cuTensorMapEncodeTiled(
            ctypes.byref(encoded), BYTES, 2, ctypes.c_void_p(address), (ctypes.c_uint64 * 2)(columns, rows),
            (ctypes.c_uint64 * 1)(columns), (ctypes.c_uint32 * 2)(box[1], box[0]), (ctypes.c_uint32 * 2)(1, 1),
            0, SWIZZLE_128, PROMOTE_256, 0,
        )  # fmt: skip
        self.check(status, f"describing a matrix of {rows} x {columns} bytes")
        return encoded


@dataclass(frozen=True, eq=False)
class Module:
    """The kernels of one file; `found` are those that were asked for, by name."""

    driver: Driver
    handle: ctypes.c_void_p
    context: ctypes.c_void_p  # that it was loaded in; a thread may have another one, or none
    path: Path
    shared: int
    found: dict[str, ctypes.c_void_p] = field(default_factory=dict)

    def kernel(self, name: str) -> ctypes.c_void_p:
        """The kernel called `name`, allowed all the shared memory that there is."""
        if name in self.found:
            return self.found[name]
        found = ctypes.c_void_p()
        library = self.driver.library
        self.driver.check(library.cuModuleGetFunction(ctypes.byref(found), self.handle, name.encode()), f"{self.path}: {name}")
        self.driver.check(
            library.cuFuncSetAttribute(found, MAX_SHARED, self.shared), f"{name} with {self.shared} bytes of shared memory"
        )
        self.found[name] = found
        return found

    def launch(self, launch: Launch, arguments: Sequence[ctypes.Structure | ctypes.Array], stream: int) -> None:
        """Start a kernel; `arguments` are structs passed by value."""
        config = _config(launch, stream)
        pointers = (ctypes.c_void_p * len(arguments))(*map(ctypes.addressof, arguments))
        library = self.driver.library
        self.driver.check(library.cuCtxPushCurrent_v2(self.context), "entering the context")
        function = self.kernel(launch.kernel)
        status = library.cuLaunchKernelEx(ctypes.byref(config), function, pointers, None)
        library.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))
        self.driver.check(status, f"launching {launch.kernel}")


def _config(launch: Launch, stream: int) -> _Config:
    attributes, count = (_Attribute * 2)(), 0
    for wanted, kind, value in ((launch.overlaps, OVERLAP, (1,)), (launch.cluster > 1, CLUSTER, (launch.cluster, 1, 1))):
        if wanted:
            attributes[count].id, attributes[count].value[: len(value)], count = kind, value, count + 1
    return _Config(launch.grid, 1, 1, launch.block, 1, 1, launch.shared, stream, attributes, count)


@functools.cache
def driver() -> Driver:
    """The driver of this machine; OSError where there is none."""
    library = ctypes.CDLL("libcuda.so.1")
    library.cuGetErrorString.argtypes = [ctypes.c_int, ctypes.c_void_p]
    return Driver(library)
