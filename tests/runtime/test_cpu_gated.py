"""A gated linear unit in the product whose halves it multiplies, where processors have tiles, against the meaning."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import aquatint
from aquatint.compiler.formats import FORMATS
from aquatint.compiler.gated import gated
from aquatint.runtime import ops
from aquatint.runtime.ops import Slot
from aquatint.runtime.reference import reference
from tests.onnx.common import decibel

from .kernels import rows, target

KERNELS = "avx512-amx"


@pytest.mark.native
@pytest.mark.parametrize("stored", ["int4-g64", "int4-g64-whole", "int8"])
@settings(max_examples=20, deadline=None)
@given(
    st.integers(0, 999), st.integers(1, 150), st.integers(1, 5), st.integers(1, 4), st.sampled_from([0, 16, 40]),
    st.sampled_from(["gelu", "gelu_tanh", "silu"]), st.sampled_from([0, 1]), st.sampled_from(["int8", "int4-g64"]),
)  # fmt: skip
def test_gated_gemm(stored, seed, m, columns, groups, rank, activation, active, given) -> None:
    n, k = 64 * columns, 64 * groups
    random = torch.Generator().manual_seed(seed)
    weight = FORMATS[stored].encode(torch.randn(n, k, generator=random))
    codes = FORMATS[given].encode(rows(seed, m, k).view(1, m, k))
    h, up = (torch.randn(1, m, rank).bfloat16().float(), torch.randn(n, rank).bfloat16()) if rank else (None, None)
    bias = torch.randn(n, generator=random)
    options: dict[str, Any] = {"formats": [given, stored], "dtype": torch.float32, "activation": activation, "active": active}
    kernel = target(KERNELS).lower("aquatint::gemm", (Slot, Slot, *weight, bias, Slot if rank else None, up), options)
    assert kernel is not None
    found, expected = kernel(*codes, *([] if h is None else [h])), ops.gemm(*codes, *weight, bias, h, up, **options)
    assert found.shape == expected.shape == (1, m, n // 2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


class Unit(nn.Module):
    """Linears around a gated linear unit whose active half is the first or the second."""

    def __init__(self, active: int, activation: str = "gelu", read_twice: bool = False, width: int = 128) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 64)
        self.wide, self.back = nn.Linear(64, 2 * width), nn.Linear(width, 64)
        self.active, self.activation, self.read_twice = active, activation, read_twice

    def forward(self, x: Tensor) -> Tensor:
        wide = self.wide(self.first(x))
        halves = wide.chunk(2, dim=-1)
        y = halves[1 - self.active] * getattr(F, self.activation)(halves[self.active])
        return self.last(self.back(y)) + (wide.mean() if self.read_twice else 0.0)


TOKENS = torch.randn(2, 50, 64, generator=torch.Generator().manual_seed(0))


def compressed(model: nn.Module) -> Any:
    return aquatint.optimize(model, "svdq-w4a8-r32-whole", calibrate=lambda m: m(TOKENS))


def products(graph: Any) -> list[Any]:
    return [n for n in graph.nodes if "aquatint::gemm" in str(n.target)]


@pytest.mark.parametrize("active", [0, 1])
@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_a_unit_is_part_of_its_product(active: int, activation: str) -> None:
    small = compressed(Unit(active, activation))
    program = small.program
    changed = gated(program.graph, program.weights, lambda columns: columns == 128)
    assert [n.kwargs["active"] for n in products(changed) if n.kwargs.get("active") is not None] == [active]
    assert not any("chunk" in str(n.target) or "mul" in str(n.target) for n in changed.nodes)
    assert decibel([small(TOKENS)], [small.on(reference())(TOKENS)]) > 45
    assert "chunk" in str(program.graph), "the program stays as it is"


def test_others_are_left_alone() -> None:
    for model in (Unit(1, "relu"), Unit(1, read_twice=True)):
        program = compressed(model).program
        assert gated(program.graph, program.weights, lambda columns: True) is program.graph
    program = compressed(Unit(1)).program
    assert gated(program.graph, program.weights, lambda columns: False) is program.graph
    assert not reference().gates(128)


@pytest.mark.native
def test_where_there_is_no_such_kernel() -> None:
    assert not target("plain").gates(128)
    assert target(KERNELS).gates(128)
    assert not target(KERNELS).gates(100), "not whole panels"
