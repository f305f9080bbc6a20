"""The CUDA kernels on a GPU: those of its own family, and those of the older one that run there too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aquatint.runtime.cuda.launch import Family
from aquatint.runtime.cuda.refusals import CONV_FORMATS, GEMV_WEIGHTS
from aquatint.runtime.cuda.sm80 import SM80, W8A8
from aquatint.runtime.cuda.target import Cuda, engine
from tests.runtime import cuda_checks

pytestmark = pytest.mark.gpu
SHAPES = [
    (512, 256, 512),
    (1000, 1152, 640),
    (257, 2240, 1000),
    (4608, 3072, 768),
    (77, 64, 8),
    (1, 12288, 256),
    (333, 1600, 136),
]
ROWS = [(512, 256, 32), (1000, 1152, 32), (33, 2240, 16), (77, 64, 0), (5, 12288, 64), (64, 15360, 32)]


@pytest.fixture(scope="module", params=[(None, 0), (SM80, 0), (None, -1)], ids=["own", "sm80", "own_f16"])
def target(request: pytest.FixtureRequest) -> Cuda:
    """The GPU's own kernels, those of an older family that run there too, and its own for models in float16."""
    older, numbers = request.param
    device = torch.device("cuda", torch.cuda.current_device())
    found = engine(device, older)
    return Cuda(replace(found, family=replace(found.family, numbers=(found.family.numbers[numbers],))), device)


@pytest.fixture(autouse=True)
def poison(target: Cuda) -> None:
    cuda_checks.poison(target.device)


def family(target: Cuda) -> Family:
    assert target.engine is not None
    return target.engine.family


@pytest.mark.parametrize(("m", "k", "rank"), ROWS)
def test_quantize(target: Cuda, m: int, k: int, rank: int) -> None:
    for number in family(target).formats:
        cuda_checks.check_quantize(target, m, k, rank, number)


@pytest.mark.parametrize("activation", [None, "silu", "gelu_tanh"])
def test_quantize_behind_a_norm(target: Cuda, activation: str | None) -> None:
    for number in family(target).formats:
        cuda_checks.check_norm(target, 300, 2304, activation, number)


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
@pytest.mark.parametrize("rank", [0, 32, 64])
def test_product(target: Cuda, m: int, k: int, n: int, rank: int) -> None:
    for formats in family(target).products:
        cuda_checks.check_product(target, m, k, n, formats, rank)


@pytest.mark.parametrize(("n", "rank", "active"), [(8, 0, 0), (64, 32, 1), (5120, 32, 1), (200, 8, 0)])
def test_gated_units(target: Cuda, n: int, rank: int, active: int) -> None:
    for formats in family(target).products:
        cuda_checks.check_gated(target, 1000, 640, n, formats, rank, active)


@pytest.mark.parametrize("image", [(2, 320, 64, 64), (1, 640, 32, 32), (3, 64, 7, 9)])
@pytest.mark.parametrize("rank", [0, 8])
def test_convolution(target: Cuda, image: tuple[int, int, int, int], rank: int) -> None:
    for formats in (f for f in CONV_FORMATS if f in family(target).products):
        cuda_checks.check_conv(target, image, 328, formats, rank)
        cuda_checks.check_conv(target, image, 8, formats, rank, stride=2)


@pytest.mark.parametrize(("m", "k", "n"), [(1, 3072, 18432), (2, 1152, 6912), (5, 256, 40), (19, 2240, 8)])
@pytest.mark.parametrize("number", GEMV_WEIGHTS)
def test_few_rows(target: Cuda, m: int, k: int, n: int, number: str) -> None:
    cuda_checks.check_gemv(target, m, k, n, number, "silu")


@pytest.mark.parametrize("last", [True, False])
def test_moments(target: Cuda, last: bool) -> None:
    cuda_checks.check_moments(target, (2, 320, 64, 64), 32, last)
    cuda_checks.check_moments(target, (1, 1280, 9, 7), 32, last)


@pytest.mark.parametrize("width", [64, 72, 128])
@pytest.mark.parametrize("eps", [None, 1e-6])
def test_rotary(target: Cuda, width: int, eps: float | None) -> None:
    cuda_checks.check_rotary(target, 2, 1000, 24, width, eps)
    cuda_checks.check_rotary(target, 2, 1000, 24, width, eps, by_pairs=True, inner=True)
    if width % 16 == 0:
        cuda_checks.check_rotary(target, 2, 1000, 24, width, eps, inner=True, halves=True)


@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("rank", [0, 32, 64])
def test_queries_and_keys(target: Cuda, width: int, rank: int) -> None:
    if target.engine is None or target.engine.family.turned is None:
        pytest.skip("no kernels turn what they multiply here")
    for formats in target.engine.family.products:
        cuda_checks.check_turned(target, 2, 1000, 1024, 6, width, formats, rank, 1e-6)
        cuda_checks.check_turned(target, 2, 1000, 1024, 6, width, formats, rank, None, by_pairs=True, halves=True)


def test_fixed_vectors(target: Cuda) -> None:
    cuda_checks.check_fixed_vectors(target, 40, 192, 136)


def test_codes_that_are_not_in_order(target: Cuda) -> None:
    cuda_checks.check_conv(target, (2, 64, 6, 5), 24, W8A8, 16)  # 144 ranks: quantized by its meaning


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
def test_what_follows_a_product(target: Cuda, activation: str) -> None:
    for formats in family(target).products:
        cuda_checks.check_epilogue(target, 500, 512, 384, formats, activation)
