"""The CUDA kernels on this CPU, by an emulator that is stricter than a GPU; see tests/native/emulator/block.h."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from aquatint.runtime.cuda.launch import Family
from aquatint.runtime.cuda.refusals import CONV_FORMATS, GEMV_WEIGHTS
from aquatint.runtime.cuda.sm80 import SM75, SM80, SM120, W8A8
from aquatint.runtime.cuda.sm90 import SM90, TOKENS, TURNED_TOKENS
from tests.runtime import cuda_checks
from tests.runtime.emulated import BUILT, emulated, half

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(not BUILT.is_dir(), reason="`make emulated` was not run"),
]
ROOT = BUILT.parent.parent
FAMILIES = [SM75, SM80, SM90, SM120, half(SM80), half(SM90), half(SM120)]
OTHERS = st.sampled_from([SM75, SM80, half(SM80)])  # of what all families share
RANKS = st.sampled_from([0, 8, 32, 64])
ORDERS = st.integers(0, 1000)
TURING = ("-DAQ_HALF", "-DAQ_TURING")
CHECKED = "-fsanitize=alignment,bounds,shift,signed-integer-overflow", "-fno-sanitize-recover=all"


@pytest.fixture(autouse=True)
def poison() -> None:
    cuda_checks.poison(torch.device("cpu"))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@given(m=st.integers(1, 80), groups=st.integers(1, 12), rank=RANKS, order=ORDERS, data=st.data())
def test_quantize(family: Family, m: int, groups: int, rank: int, order: int, data: st.DataObject) -> None:
    number = data.draw(st.sampled_from(family.formats))
    k = 64 * groups + (data.draw(st.sampled_from([0, 16, 32, 48])) if number == "int8" else 0)
    cuda_checks.check_quantize(emulated(family, order), m, k, rank, number)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize("activation", [None, "silu", "gelu_tanh"])
def test_quantize_behind_a_norm(family: Family, activation: str | None) -> None:
    for number in family.formats:
        cuda_checks.check_norm(emulated(family), 21, 1600, activation, number)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@given(m=st.integers(1, 200), groups=st.integers(1, 7), n=st.integers(1, 24), rank=RANKS, order=ORDERS, data=st.data())
def test_product(family: Family, m: int, groups: int, n: int, rank: int, order: int, data: st.DataObject) -> None:
    formats = data.draw(st.sampled_from(family.products))
    tokens = (
        data.draw(st.sampled_from([t for t in TOKENS if t < 256 or rank <= 32])) if family.name.startswith("sm90") else None
    )
    cuda_checks.check_product(emulated(family, order, tokens=tokens), m, 64 * groups, 8 * n, formats, rank)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize(("n", "rank", "active"), [(8, 0, 0), (64, 32, 1), (72, 64, 0), (200, 8, 1)])
def test_gated_units(family: Family, n: int, rank: int, active: int) -> None:
    for formats in family.products:
        cuda_checks.check_gated(emulated(family), 70, 192, n, formats, rank, active)


@given(
    family=OTHERS,
    batch=st.integers(1, 2), size=st.tuples(st.integers(3, 9), st.integers(3, 9)), channels=st.integers(1, 9),
    n=st.integers(1, 20), rank=st.sampled_from([0, 8]), kernel=st.sampled_from([(1, 1), (3, 3), (1, 3), (2, 2)]),
    stride=st.integers(1, 2), padding=st.integers(0, 1), dilation=st.integers(1, 2), order=ORDERS, data=st.data(),
)  # fmt: skip
def test_convolution(
    family: Family, batch: int, size: tuple[int, int], channels: int, n: int, rank: int, kernel: tuple[int, int], stride: int,
    padding: int, dilation: int, order: int, data: st.DataObject,
) -> None:  # fmt: skip
    formats = data.draw(st.sampled_from([formats for formats in CONV_FORMATS if formats in family.products]))
    assume(all(length + 2 * padding > (taps - 1) * dilation for length, taps in zip(size, kernel, strict=True)))
    image = (batch, channels * (16 if formats == W8A8 else 64) if channels < 5 else 64 * (channels - 4), *size)
    cuda_checks.check_conv(emulated(family, order), image, 8 * n, formats, rank, stride, padding, dilation, kernel)


@given(family=OTHERS, m=st.integers(1, 40), k=st.integers(1, 10), n=st.integers(1, 50), order=ORDERS, data=st.data())
def test_few_rows(family: Family, m: int, k: int, n: int, order: int, data: st.DataObject) -> None:
    number = data.draw(st.sampled_from(GEMV_WEIGHTS))
    activation = data.draw(st.sampled_from([None, "silu"]))
    cuda_checks.check_gemv(emulated(family, order), m, k * (8 if number == "int8" else 64), n, number, activation)


@given(
    family=OTHERS,
    batch=st.integers(1, 2), width=st.integers(1, 12), groups=st.integers(1, 5), size=st.tuples(*[st.integers(1, 20)] * 2),
    last=st.booleans(), order=ORDERS,
)  # fmt: skip
def test_moments(family: Family, batch: int, width: int, groups: int, size: tuple[int, int], last: bool, order: int) -> None:
    cuda_checks.check_moments(emulated(family, order), (batch, width * groups, *size), groups, last)


@given(
    family=OTHERS, batch=st.integers(1, 2), tokens=st.integers(1, 9), heads=st.integers(1, 5),
    width=st.sampled_from([8, 40, 64, 72, 128, 256]), eps=st.sampled_from([None, 1e-6]),
    by_pairs=st.booleans(), inner=st.booleans(), halves=st.booleans(), order=ORDERS,
)  # fmt: skip
def test_rotary(
    family: Family, batch: int, tokens: int, heads: int, width: int, eps: float | None, by_pairs: bool, inner: bool,
    halves: bool, order: int,
) -> None:  # fmt: skip
    halves = halves and width % 16 == 0
    cuda_checks.check_rotary(emulated(family, order), batch, tokens, heads, width, eps, by_pairs, inner, halves)


@given(
    family=st.sampled_from([f for f in FAMILIES if f.turned is not None]),
    batch=st.integers(1, 2), tokens=st.integers(1, 300), groups=st.integers(1, 5), heads=st.integers(1, 5),
    width=st.sampled_from([16, 32, 64, 128]), rank=st.sampled_from([0, 8, 32, 64]), eps=st.sampled_from([None, 1e-6]),
    by_pairs=st.booleans(), halves=st.booleans(), order=ORDERS, data=st.data(),
)  # fmt: skip
def test_queries_and_keys(
    family: Family, batch: int, tokens: int, groups: int, heads: int, width: int, rank: int, eps: float | None,
    by_pairs: bool, halves: bool, order: int, data: st.DataObject,
) -> None:  # fmt: skip
    formats = data.draw(st.sampled_from(list(family.products)))
    own = data.draw(st.sampled_from(TURNED_TOKENS)) if family.name.startswith("sm90") else None
    target = emulated(family, order, tokens=own)
    cuda_checks.check_turned(target, batch, tokens, 64 * groups, heads, width, formats, rank, eps, by_pairs, halves)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
def test_fixed_vectors(family: Family) -> None:
    cuda_checks.check_fixed_vectors(emulated(family), 40, 192, 136)


def test_codes_that_are_not_in_order() -> None:
    cuda_checks.check_conv(emulated(SM80), (2, 64, 6, 5), 24, W8A8, 16)  # 144 ranks: quantized by its meaning


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)
@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "silu"])
def test_what_follows_a_product(family: Family, activation: str) -> None:
    for formats in family.products:
        cuda_checks.check_epilogue(emulated(family), 75, 192, 136, formats, activation)


@pytest.mark.parametrize(
    ("module", "file", "line", "instead"),
    [
        ("product_sm80", "product_sm80.h", "__syncthreads();  // all copies are there", "//"),
        ("product_sm80", "product_sm80.h", "copies_wait<0>();", "copies_wait<1>();"),
        ("product_sm80", "epilogue.h", "__syncwarp();\n            send(", "send("),
        ("product_sm80", "operands_sm80.h", "if (threadIdx.x >= kTile) return;", ""),
        ("product_sm80_f16", "product_sm80.h", "__syncthreads();  // nobody reads the stage", "//"),
        ("product_w8_sm90", "product_sm90.h", "barrier_wait(&barriers->empty[place.stage], place.parity ^ 1);", ""),
        ("product_w8_sm90", "product_sm90.h", "wgmma_wait<1>();", "wgmma_wait<2>();"),
        ("product_w8_sm90", "product_sm90.h", "barrier_wait(&barriers->rows_empty, parity);", ""),
        ("turned_sm80", "product_sm80.h", "__syncthreads();  // the heads'", "//"),
        ("turned_sm90", "product_sm90.h", "meet<256>();", ""),
        ("quantize_sm90", "quantize_sm90.cu", "cluster.sync();\n        if (threadIdx.x < kRows)", "if (threadIdx.x < kRows)"),
        ("quantize_sm90", "quantize_sm90.cu", "barrier_wait(&shared.arrived[room], parity);", ""),
    ],
)  # fmt: skip
def test_the_emulator_sees_what_a_gpu_may_forgive(tmp_path: Path, module: str, file: str, line: str, instead: str) -> None:
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    changed = tmp_path / "csrc" / "cuda" / file
    text = changed.read_text()
    assert line in text
    changed.write_text(text.replace(line, instead))
    family = SM90 if module.endswith("sm90") else SM75 if module.endswith("f16") else SM80
    built = build(module, tmp_path / "csrc", tmp_path, *(TURING if family is SM75 else ()))

    def attempts() -> None:
        for seed in range(5):
            target = emulated(family, seed, 2, **{module: built})
            cuda_checks.check_quantize(target, 75, 1152, 32, "int8")
            for formats in family.products:
                cuda_checks.check_product(target, 300, 1152, 136, formats, 32)
                cuda_checks.check_turned(target, 1, 200, 192, 2, 128, formats, 32, 1e-6)

    with pytest.raises(AssertionError):
        attempts()


@pytest.mark.parametrize(("family", "flags"), [(SM80, ()), (SM75, TURING)], ids=["sm80", "sm75"])
def test_addresses_and_integers_are_as_a_gpu_wants_them(tmp_path: Path, family: Family, flags: tuple[str, ...]) -> None:
    """In a process of its own, which ends at the first load that is not aligned."""
    for module in replace(family, numbers=family.numbers[:1]).modules:
        build(module, ROOT / "csrc", tmp_path, *CHECKED, *flags)
    program = [sys.executable, "-m", "tests.runtime.cuda_checks", family.name, str(tmp_path)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "checked"


def build(module: str, csrc: Path, folder: Path, *flags: str) -> Path:
    """A file's kernels for this CPU, from `csrc` into `folder`."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    emulator, built = ROOT / "tests" / "native" / "emulator", folder / f"{module}.so"
    common = f"-std=c++17 -O1 -fPIC -shared -fno-strict-aliasing -ffp-contract=off -w -I{emulator} -I{csrc}".split()
    subprocess.run([compiler, *common, *flags, emulator / f"{module.removesuffix('_f16')}.cpp", "-o", built], check=True)
    return built
