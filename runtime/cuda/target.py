"""The CUDA target: tensor cores for 4- and 8-bit weights with their low-rank branch, the rest by its meaning on the GPU.

The kernels are fatbins: data that no torch version is in, loaded by CUDA's driver and launched on torch's stream.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from aquatint.runtime.cuda.conv import ConvKernel
from aquatint.runtime.cuda.driver import CudaError, driver
from aquatint.runtime.cuda.engine import Engine
from aquatint.runtime.cuda.gemv import GemvKernel
from aquatint.runtime.cuda.launch import Family
from aquatint.runtime.cuda.linear import PAIRED, GemmKernel, QuantizeKernel
from aquatint.runtime.cuda.moments import GroupAffineKernel
from aquatint.runtime.cuda.refusals import (
    angles_refusal,
    conv_refusal,
    gemv_refusal,
    moments_refusal,
    product_refusal,
    quantize_refusal,
    rotary_refusal,
    turned_refusal,
)  # fmt: skip
from aquatint.runtime.cuda.rotary import RotaryKernel
from aquatint.runtime.cuda.sm80 import SM75, SM80, SM120
from aquatint.runtime.cuda.sm90 import SM90
from aquatint.runtime.cuda.turned import WIDTHS, AnglesKernel, GemmRotaryKernel

# By compute capability: the kernels for it, and how many bytes of shared memory a block may have.
FAMILIES = {
    (7, 5): (SM75, 65536),
    (8, 0): (SM80, 166912),
    (8, 6): (SM80, 101376),
    (8, 9): (SM80, 101376),
    (9, 0): (SM90, 232448),
    (12, 0): (SM120, 101376),
    (12, 1): (SM120, 101376),
}


@dataclass(frozen=True)
class Kernel:
    """One compiled kernel: the operator that it serves, why it can't serve a call (or None), and how it is made."""

    operator: str
    refusal: Callable[..., str | None]  # called with the family first
    make: Callable[..., Callable[..., Any]]


@dataclass(frozen=True)
class Cuda:
    """engine: the kernels for this device; None runs every operator's meaning on it."""

    engine: Engine | None
    device: torch.device
    name: str = "cuda"
    rotates: bool = True

    def lower(self, operator: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.engine is None:
            return None
        found = next(
            (k for k in KERNELS if k.operator == operator and k.refusal(self.engine.family, *args, **kwargs) is None), None
        )
        return found.make(self.engine, *args, **kwargs) if found else None

    def gates(self, columns: int) -> bool:
        return self.engine is not None and columns % PAIRED == 0

    def joins(self, columns: int, format: str) -> bool:
        return False

    def turns(self, width: int, formats: tuple[str, str]) -> bool:
        family = self.engine.family if self.engine else None
        return family is not None and family.turned is not None and width in WIDTHS and formats in family.products


def cuda() -> Cuda:
    """The target on the current device; warns where it has no kernels. ValueError where there is no device."""
    if not torch.cuda.is_available():
        raise ValueError("the target cuda needs an NVIDIA GPU and a torch that sees it; targets without one: cpu, reference")
    device = torch.device("cuda", torch.cuda.current_device())
    try:
        return Cuda(engine(device), device)
    except (CudaError, OSError) as error:
        warnings.warn(f"no CUDA kernels: {error}; running by the operators' meaning", stacklevel=3)
        return Cuda(None, device)


def engine(device: torch.device, family: Family | None = None) -> Engine:
    """The kernels of a device, or of an older family that runs there too. OSError or CudaError saying what is missing."""
    capability = torch.cuda.get_device_capability(device)
    if capability not in FAMILIES:
        known = ", ".join(f"sm_{major}{minor}" for major, minor in FAMILIES)
        raise OSError(f"{torch.cuda.get_device_name(device)} is sm_{capability[0]}{capability[1]}, and they are for {known}")
    if family is SM75 and capability != (7, 5):
        raise OSError("the kernels for sm_75 are launched with as much shared memory as they need there alone")
    torch.zeros(1, device=device)  # makes the context that the driver works in
    loaded, (newest, shared) = driver(), FAMILIES[capability]
    family = family or newest
    modules = {name: loaded.load(file(name), shared) for name in family.modules}
    multiprocessors = torch.cuda.get_device_properties(device).multi_processor_count
    return Engine(
        family, device, multiprocessors, modules, loaded.tensor_map, lambda: torch.cuda.current_stream(device).cuda_stream
    )


def folders() -> tuple[Path, Path]:
    """Where fatbins may be: beside an installed package, or built in a checkout."""
    here = Path(__file__).resolve().parent
    return here.parents[1] / "lib" / "cuda", here.parents[1] / "build" / "cuda"


def file(name: str) -> Path:
    """The fatbin called `name`; OSError naming the places that were looked at."""
    places = [folder / f"{name}.fatbin" for folder in folders()]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise OSError(f"they are not at {' or '.join(map(str, places))}: `make cuda` builds them")
    return found


KERNELS = (
    Kernel("aquatint::quantize", quantize_refusal, QuantizeKernel),
    Kernel("aquatint::gemm", product_refusal, GemmKernel),
    Kernel("aquatint::gemm", gemv_refusal, GemvKernel),
    Kernel("aquatint::conv2d", conv_refusal, ConvKernel),
    Kernel("aquatint::rotary", rotary_refusal, RotaryKernel),
    Kernel("aquatint::angles", angles_refusal, AnglesKernel),
    Kernel("aquatint::gemm_rotary", turned_refusal, GemmRotaryKernel),
    Kernel("aquatint::group_affine", moments_refusal, GroupAffineKernel),
)
