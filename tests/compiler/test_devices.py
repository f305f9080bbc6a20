"""A program on another device: nothing of it stays behind. The meta device refuses a tensor from elsewhere."""

from __future__ import annotations

import pytest
import torch

from aquatint.compiler.capture import Example, capture
from aquatint.compiler.execution import Execution
from tests.zoo import build


@pytest.mark.parametrize("name", ["unet2d", "sd", "dit", "pixart", "sd3", "flux", "kl_decoder", "hand_written"])
def test_a_program_runs_wholly_on_its_device(name: str) -> None:
    model, (args, kwargs) = build(name)
    program = capture(model, Example(args, kwargs), name)
    device = torch.device("meta")
    inputs = [t.to(device) for t in program.interface.flatten(args, kwargs)[0]]
    for result in Execution(program.graph, program.weights, device=device)(*inputs):
        assert result.device == device
