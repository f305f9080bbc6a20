"""Which site gets what: roles from the dataflow, rules, caps, and names that clash."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import aquatint
from aquatint.compiler.capture import Example, capture
from aquatint.compiler.errors import PassError
from aquatint.compiler.plan import roles_of
from aquatint.compiler.recipe import Rule, Treatment
from aquatint.compiler.verify import shapes
from tests.zoo import build


def roles(name: str) -> dict[str, frozenset[str]]:
    model, (args, kwargs) = build(name)
    program = capture(model, Example(args, kwargs))
    inputs, _ = program.interface.flatten(args, kwargs)
    return roles_of(program, {n: len(s) for n, s in shapes(program, inputs).items()})


def test_roles_of_a_unet() -> None:
    found = roles("sd")
    assert "first" in found["conv_in"]
    assert "last" in found["conv_out"]
    assert {"first", "embedding"} <= found["time_embedding.linear_1"]
    assert found["time_embedding.linear_2"] == {"embedding"}
    assert found["down_blocks.0.resnets.0.time_emb_proj"] == {"modulation"}
    assert found["down_blocks.0.resnets.0.conv1"] == {"convolution"}
    assert not found["down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"], (
        "text keys have many readers: no first layer"
    )


def test_roles_of_a_transformer() -> None:
    found = roles("dit")
    assert "first" in found["pos_embed.proj"]
    assert "last" in found["proj_out_2"]
    assert found["transformer_blocks.1.norm1.linear"] == {"modulation"}
    assert "embedding" in found["transformer_blocks.1.norm1.emb.timestep_embedder.linear_2"]
    assert not found["transformer_blocks.0.ff.net.2"]


class Block(nn.Module):
    """One compressible linear between two others."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.enter, self.mid, self.leave = nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.leave(self.mid(self.enter(x)).relu())


X = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))


def row(small, name: str) -> dict:
    return next(r for r in small.report["sites"] if r["name"] == name)


def test_the_rank_is_capped_and_said() -> None:
    found = row(aquatint.optimize(Block(), calibrate=lambda m: m(X)), "mid")
    assert found["rank"] == 16
    assert "capped" in found["reason"]


def test_rules_by_glob_and_by_function_and_the_last_wins(tmp_path: Path) -> None:
    def wide(site) -> bool:
        return site.width == 64

    recipe = aquatint.recipe_named("w4a16").with_rules(Rule(wide, Treatment("int8"), "wide"), Rule("leave", None, "mine"))
    small = aquatint.optimize(Block(), recipe, calibrate=lambda m: m(X))
    assert row(small, "mid")["treatment"] == "int8 x float"
    assert row(small, "mid")["reason"] == "wide (rule wide)"
    assert row(small, "leave")["reason"] == "mine (rule leave)"
    small.save(tmp_path / "a.aq")
    assert aquatint.load(tmp_path / "a.aq").recipe["rules"][-2]["match"] == "wide"


def test_a_parameter_with_a_name_that_a_pass_needs() -> None:
    class Clash(Block):
        def __init__(self) -> None:
            super().__init__()
            self.mid.scales = nn.Parameter(torch.ones(64))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.leave(self.mid(self.enter(x)) * self.mid.scales)

    with pytest.raises(PassError, match=r"parameter called mid.scales.*rename it"):
        aquatint.optimize(Clash(), calibrate=lambda m: m(X))


def test_half_precision_models_keep_their_dtype() -> None:
    model = Block(128).bfloat16()
    x = X.bfloat16()
    small = aquatint.optimize(model, "svdq-w4a8-r32", calibrate=lambda m: m(x))
    assert small(x).dtype == torch.bfloat16
    assert small.dtype == torch.bfloat16
    with torch.no_grad():
        exact = model(x).float()
    assert (small(x).float() - exact).norm() < 0.1 * exact.norm()


def test_one_sample_is_enough_and_sizes_stay_free() -> None:
    small = aquatint.optimize(Block(), "w8a16", calibrate=lambda m: m(X[:1]))
    assert small(torch.randn(7, 3, 8)).shape == (7, 3, 8)
    assert small.program.interface.inputs[0].shape == ("s0", "s1", 8)
