from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import aquatint
from aquatint.compiler.decompose import low_rank
from aquatint.compiler.formats import FORMATS
from aquatint.compiler.gptq import gptq
from aquatint.compiler.powers import Scaled
from aquatint.compiler.program import narrowest
from aquatint.compiler.weights import Derived, Weights


def test_a_derived_weight_is_computed_when_read_and_not_kept() -> None:
    base, factor = torch.randn(4, 6), torch.rand(6)
    up, down = torch.randn(4, 2), torch.randn(2, 6)
    weights = Weights({"w": Derived(base, factor, up, down)})
    torch.testing.assert_close(weights["w"], base * factor - up @ down)
    assert weights["w"] is not weights["w"]
    assert weights.derived("w").base is base
    copied = Weights(weights)
    del copied["w"]
    assert "w" in weights


@settings(max_examples=20, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(1, 12), st.integers(0, 99), st.booleans())
def test_subspace_iteration_finds_the_leading_part(n: int, k: int, rank: int, seed: int, with_gram: bool) -> None:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, k, generator=random) * torch.logspace(1, -1, k)
    found = low_rank(weight, rank, gram=weight.T @ weight if with_gram else None, steps=4)
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    best = (weight - ((u[:, :rank] * s[:rank]) @ v[:rank]).float()).norm()
    assert (weight - found.up @ found.down).norm() <= 1.01 * best + 1e-4


def test_gptq_with_uncorrelated_inputs_is_rounding() -> None:
    weight = torch.randn(8, 1, 64, generator=torch.Generator().manual_seed(0))
    number = FORMATS["int4-g64"]
    assert torch.equal(gptq(weight, torch.eye(64), number).codes, number.encode(weight).codes)


def test_gptq_refuses_a_gram_of_nan() -> None:
    with pytest.raises(ArithmeticError, match="NaN in the inputs"):
        gptq(torch.randn(8, 1, 64), torch.full((64, 64), torch.nan), FORMATS["int4-g64"])


def test_a_loaded_model_takes_no_second_copy_of_its_file(tmp_path: Path) -> None:
    model = torch.nn.Sequential(*(torch.nn.Linear(256, 256) for _ in range(4)))
    x = torch.randn(2, 20, 256)
    small = aquatint.optimize(model, "svdq-w4a8-r32", calibrate=lambda m: m(x))
    small.save(tmp_path / "a.aq")
    loaded = aquatint.load(tmp_path / "a.aq")
    file = loaded.program.weights.file
    assert file is not None, "the weights look into the file"
    assert _resident(file.address) <= 64, "kilobytes: what no kernel laid out"
    assert torch.equal(loaded(x), small(x))
    up = loaded.program.weights.stored("1.up")
    assert isinstance(up, Scaled)
    assert up.read().dtype == torch.float32
    other = aquatint.load(tmp_path / "a.aq").program.weights.file
    assert other is not None
    assert other.address != file.address, "each load has a map of its own"
    file.release()
    assert torch.equal(loaded.program.weights["1.codes"], small.program.weights["1.codes"]), "and is read again"


def _resident(address: int) -> int:
    """Kilobytes in memory of the map that begins there."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.startswith(f"{address:08x}-"):
            return next(int(row.split()[1]) for row in lines if row.startswith("Rss:"))
    return 0


def test_storage_is_narrow_only_where_nothing_is_lost() -> None:
    exact = torch.randn(100).half().float()
    assert narrowest(exact).dtype == torch.float16
    assert narrowest(torch.randn(100)).dtype == torch.float32
    assert narrowest(torch.tensor([3e38]).bfloat16().float()).dtype == torch.bfloat16
