"""A plate holds weights as kernels read them: whoever changes that changes the plate's version, and tests/golden with it.

python -m tests.runtime.test_plate_layout    # writes it anew, on a machine that has all kernels
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch

from aquatint.runtime.cpu import native
from aquatint.runtime.cpu.aten import DepthwiseWeight, FloatWeight
from aquatint.runtime.cpu.kernels import ACTIVATIONS
from aquatint.runtime.cpu.native import KERNEL_SETS, KernelSet, kernel_set
from aquatint.runtime.cpu.pack import packed_down, packed_up, packed_weight
from aquatint.runtime.layout import in_turns
from aquatint.runtime.plate import file

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "plate_layouts.json"


def layout(kernels: KernelSet) -> str:
    """Of weights, their scales and their branches, the fields of every call, and the order of activations."""
    random = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 256, (96, 64), dtype=torch.uint8, generator=random)
    scales, branch = torch.rand(96, 2, generator=random), torch.randn(32, 128, generator=random) / 100
    wholes = torch.randint(1, 8, (96, 4), dtype=torch.uint8, generator=random)
    exact = (branch * 1000).round().clamp(-127, 127) / 1024  # bytes times a power of two
    turns = in_turns(96, 16, 0)
    weights = [
        packed_weight(kernels, codes, scales, "int4-g64", by_floats=False),
        packed_weight(kernels, codes, scales, "int4-g64", by_floats=True),
        packed_weight(kernels, codes, wholes, "int4-g64-whole", by_floats=False, order=turns),
        packed_weight(kernels, codes.view(torch.int8), scales[:, :1], "int8", by_floats=False),
    ]
    branches = [packed_down(kernels, branch, None), packed_down(kernels, exact, "int8")]
    branches += [packed_up(kernels, rows.T.contiguous()) for rows in (branch, exact)]
    depthwise = DepthwiseWeight(kernels, branch.view(-1, 1, 4, 8), None).weight
    floats = FloatWeight(kernels, branch, None, rowwise=True)._panels
    tensors = [t for w in weights for t in (w.panels, w.scales, w.wholes)] + [t for b in branches for t in (b.panels, b.scales)]
    digest = hashlib.sha256(repr(ACTIVATIONS).encode())
    for tensor in (*tensors, depthwise, floats):
        digest.update(b"" if tensor is None else tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    calls = [kind for kind in vars(native).values() if isinstance(kind, type) and hasattr(kind, "_fields_")]
    for kind in sorted(calls, key=lambda kind: kind.__name__):
        fields = [(field, getattr(inner, "__name__", "")) for field, inner, *_ in kind._fields_]
        digest.update(repr((kind.__name__, fields)).encode())
    return digest.hexdigest()[:16]


@pytest.mark.native
@pytest.mark.parametrize("name", KERNEL_SETS)
def test_a_layout_that_changes_has_another_version(name: str) -> None:
    kernels = kernel_set(name)
    if kernels is None:
        pytest.skip(f"this machine has no {name}")
    golden = json.loads(GOLDEN.read_text())
    assert golden["version"] == file.VERSION
    assert golden[name] == layout(kernels)


if __name__ == "__main__":
    found = {name: layout(kernels) for name in KERNEL_SETS if (kernels := kernel_set(name))}
    GOLDEN.write_text(json.dumps({"version": file.VERSION, **found}, indent=1) + "\n")
