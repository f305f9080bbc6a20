"""Attention in bfloat16, where nothing masks it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import aquatint
from aquatint.compiler.capture import Example, capture
from aquatint.compiler.errors import RecipeError
from aquatint.compiler.pipeline import Context, run_pass
from aquatint.compiler.statistics import Calibration
from aquatint.passes.attention import Attention
from aquatint.passes.recipes import PRESETS
from tests.onnx.common import decibel, run, session


class Attending(nn.Module):
    """Self-attention over tokens (B, T, 128) of two heads, with what `options` adds to it."""

    def __init__(self, **options: object) -> None:
        super().__init__()
        self.first, self.qkv, self.out, self.last = (nn.Linear(128, n) for n in (128, 384, 128, 128))
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.first(x)).unflatten(-1, (3, 2, 64)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, **self.options)  # type: ignore[arg-type]
        return self.last(self.out(y.transpose(1, 2).flatten(2)))


TOKENS = torch.randn(2, 50, 128, generator=torch.Generator().manual_seed(0))


def changed(model: nn.Module, x: Tensor = TOKENS) -> tuple[int, Tensor, Tensor]:
    """How many attentions the pass found, and what the model says before it and behind it."""
    program = capture(model, Example((x,), {}), "attending")
    small, report = run_pass(program, Attention(), Context({}, Calibration(((x,),))))
    return report.sites[""]["attention"], program(x)[0], small(x)[0]


@pytest.mark.parametrize("options", [{}, {"scale": 0.2}])
def test_attention_is_rounded(options: dict[str, object]) -> None:
    count, before, after = changed(Attending(**options))
    assert count == 1
    assert 35 < decibel([after], [before]) < 70


@pytest.mark.parametrize("options", [{"is_causal": True}, {"attn_mask": torch.ones(50, 50).tril().bool()}])
def test_what_is_masked_is_left_alone(options: dict[str, object]) -> None:
    count, before, after = changed(Attending(**options))
    assert count == 0
    assert torch.equal(before, after)


def test_what_is_small_already_is_left_alone() -> None:
    assert changed(Attending().bfloat16(), TOKENS.bfloat16())[0] == 0


def test_other_formats_are_refused() -> None:
    with pytest.raises(RecipeError, match="no attention in 'int8'; known: bfloat16"):
        Attention(format="int8")


@pytest.mark.parametrize("recipe", sorted(PRESETS))
def test_presets_do_it_and_files_keep_it(recipe: str, tmp_path: Path) -> None:
    model = Attending()
    small = aquatint.optimize(model, recipe, calibrate=lambda m: m(TOKENS))
    assert any("aquatint::attention" in str(node.target) for node in small.program.graph.nodes)
    small.save(tmp_path / "small.aq")
    assert torch.equal(aquatint.load(tmp_path / "small.aq")(TOKENS), small(TOKENS))
    if recipe == "nvfp4-r32":
        return
    written = aquatint.export_onnx(small, tmp_path / "onnx")
    assert decibel(run(session(written.path), [TOKENS]), [small(TOKENS)]) > 30
