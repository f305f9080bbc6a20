from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aquatint.compiler.formats import E2M1_VALUES, FORMATS, NumberFormat, format_named, pack_nibbles, unpack_nibbles


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """(rows, 128) over many magnitudes, with some groups all zero."""
    random = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    values = torch.randn(draw(st.integers(1, 5)), 128, generator=random)
    values *= torch.logspace(draw(st.integers(-12, 0)), draw(st.integers(0, 8)), 128)
    if draw(st.booleans()):
        values[:, :64] = 0
    return values


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=30, deadline=None)
@given(values=tensors())
def test_what_comes_back(name: str, values: torch.Tensor) -> None:
    number = FORMATS[name]
    encoded = number.encode(values)
    decoded = number.decode(*encoded)
    assert decoded.shape == values.shape
    assert decoded.isfinite().all()
    assert torch.equal(number.decode(*number.encode_with(decoded, encoded.scales)), decoded), "codes are fixed points"
    groups = values.unflatten(-1, (-1, number.group or 128))
    error = (decoded - values).abs().unflatten(-1, (-1, number.group or 128))
    # nvfp4: 1/3 between 4 and 6, and a scale with 3 bits; whole scales: 1.49 is 1, and the largest code ends there
    steps = {"int4-g64": 1 / 7, "int4-g64-whole": 0.7, "int8": 1 / 127, "fp8-e4m3": 1 / 8, "nvfp4": 0.375}
    step, smallest = steps[name], {"nvfp4": 2**-11, "int4-g64-whole": 1 / 16 / 7}.get(name, 0.0)
    row_floor = values.abs().amax(-1).view(-1, 1, 1) * smallest  # scales for groups end somewhere
    assert (error <= groups.abs().amax(-1, keepdim=True) * step * 0.51 + row_floor + 1e-29).all()


@pytest.mark.parametrize("name", FORMATS)
def test_batch_does_not_matter(name: str) -> None:
    values = torch.randn(6, 128, generator=torch.Generator().manual_seed(0))
    whole = FORMATS[name].encode(values)
    for i in range(6):
        one = FORMATS[name].encode(values[i : i + 1])
        assert torch.equal(one.codes.view(torch.uint8), whole.codes[i : i + 1].view(torch.uint8))


def test_int4_by_hand() -> None:
    values = torch.zeros(1, 64)
    values[0, :4] = torch.tensor([7.0, -7.0, 2.5, 3.5])
    encoded = format_named("int4-g64").encode(values)
    assert encoded.scales.dtype == torch.bfloat16
    assert encoded.scales.tolist() == [[1.0]]
    assert encoded.codes[0, :2].tolist() == [0x97, 0x42]  # 7, -7, then 2.5 and 3.5 to the even 2 and 4


def test_e2m1_rounds_to_even() -> None:
    middles = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0])
    nearest = format_named("nvfp4").nearest(torch.cat([middles, -middles]))
    assert nearest.abs().tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 4.0, 4.0] * 2
    assert format_named("nvfp4").nearest(torch.tensor(E2M1_VALUES)).tolist() == list(E2M1_VALUES)


@given(st.lists(st.integers(-8, 7), min_size=2, max_size=40).filter(lambda v: len(v) % 2 == 0))
def test_nibbles(values: list[int]) -> None:
    codes = torch.tensor(values, dtype=torch.int8)
    assert unpack_nibbles(pack_nibbles(codes)).tolist() == [v & 15 for v in values]


def test_refusal_names_the_numbers() -> None:
    assert format_named("int4-g64").refusal(72) == "K=72 is not a multiple of 64, the group of int4-g64"
    with pytest.raises(ValueError, match="K=72"):
        format_named("int4-g64").encode(torch.zeros(2, 72))
    with pytest.raises(ValueError, match="known: int4-g64"):
        format_named("int3")


@pytest.mark.parametrize(
    "row",
    [
        {"bits": 4, "kind": "int", "maximum": 8, "group": 64, "scale": "float32"},
        {"bits": 4, "kind": "float", "maximum": 7, "group": 16, "scale": "e4m3"},
        {"bits": 8, "kind": "int", "maximum": 127, "group": 48, "scale": "float32"},
        {"bits": 8, "kind": "int", "maximum": 127, "group": None, "scale": "e4m3"},
    ],
)
def test_a_row_that_contradicts_itself_cannot_be_built(row: dict) -> None:
    with pytest.raises(ValueError, match="wrong"):
        NumberFormat("wrong", **row)


def test_nan_is_not_hidden() -> None:
    values = torch.ones(1, 64)
    values[0, 3] = torch.nan
    assert FORMATS["int4-g64"].roundtrip(values).isnan().all()
