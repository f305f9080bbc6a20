"""Every architecture of the zoo goes through `optimize`, into an artifact and back, with equal outputs."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

import aquatint
from aquatint.compiler.errors import InputError
from aquatint.runtime import target_named

from .programs import with_exact_branch
from .zoo import ZOO, build, tensors_of


@pytest.mark.parametrize("name", ZOO)
def test_through_optimize_and_back(name: str, tmp_path: Path) -> None:
    model, (args, kwargs) = build(name)
    small = aquatint.optimize(model, "svdq-w4a8-r32", calibrate=lambda m: m(*args, **kwargs))
    with torch.no_grad():
        original = model(*args, **kwargs)
    result = small(*args, **kwargs)
    assert type(result) is type(original)
    assert any(row["treatment"] for row in small.report["sites"])
    for call in range(3):  # the third is a replay
        assert all(map(torch.equal, tensors_of(small(*args, **kwargs)), tensors_of(result))), call
    small.save(tmp_path / "a.aq")
    reference = tensors_of(small.on(target_named("reference"))(*args, **kwargs))
    back = tensors_of(aquatint.load(tmp_path / "a.aq", target="reference")(*args, **kwargs))
    native = tensors_of(aquatint.load(tmp_path / "a.aq", target="cpu")(*args, **kwargs))
    for again, cpu, expected, exact in zip(back, native, reference, tensors_of(original), strict=True):
        assert torch.equal(again, expected)
        assert (cpu - expected).norm() < 0.03 * expected.norm()  # where the branch reads codes, one that turns counts twice
        assert (expected - exact).norm() < 0.25 * exact.norm()
    plain = with_exact_branch(small)
    meaning = tensors_of(plain.on(target_named("reference"))(*args, **kwargs))
    for cpu, expected in zip(tensors_of(plain(*args, **kwargs)), meaning, strict=True):
        assert (cpu - expected).norm() < 0.02 * expected.norm()  # the last digit of a sum can turn a rounding


def test_other_sizes_than_captured() -> None:
    model, _ = build("unet2d")
    x, times = torch.randn(2, 3, 16, 16), torch.tensor([5, 9])
    small = aquatint.optimize(model, "w8a16", calibrate=lambda m: m(x, times))
    with torch.no_grad():
        for shape in ((1, 3, 16, 16), (3, 3, 32, 24)):
            y = torch.randn(shape)
            exact = model(y, 4).sample
            assert (small(y, 4).sample - exact).norm() < 0.05 * exact.norm()


def test_positions_of_other_sizes() -> None:
    """PixArt has a table of positions for the size in its configuration, and makes others anew."""
    model, (args, kwargs) = build("pixart")
    images = [torch.randn(2, 4, *size) for size in ((16, 16), (24, 16), (32, 8))]
    table, made = (
        aquatint.optimize(model, "w8a16", calibrate=lambda m, x=x: m(x, *args[1:], **kwargs)) for x in images[:2]
    )  # fmt: skip
    for x in images:
        with torch.no_grad():
            exact = model(x, *args[1:], **kwargs).sample
        assert (made(x, *args[1:], **kwargs).sample - exact).norm() < 0.05 * exact.norm()
    with pytest.raises(InputError, match=r"captured with hidden_states \[2, 4, 16, 16\]. If the model takes these sizes"):
        table(images[1], *args[1:], **kwargs)


def test_plain_tuple_and_tensor_times() -> None:
    model, (args, _) = build("dit")
    small = aquatint.optimize(model, "w8a16", calibrate=lambda m: m(*args))
    x, times, labels = args
    (plain,) = small(x, times, labels, return_dict=False)
    assert torch.equal(plain, small(hidden_states=x, timestep=times, class_labels=labels).sample)
    assert small.config.num_layers == 2
    assert small.dtype == torch.float32
    assert torch.equal(copy.deepcopy(small)(x, times, labels).sample, plain)
