"""A program on another device: nothing of it stays behind. The meta device refuses a tensor from elsewhere."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

import aquatint
from aquatint.classroom import Classroom, Teacher, default_conditions
from aquatint.compiler.capture import Example, capture
from aquatint.compiler.distilling import Batch, Lesson, Method
from aquatint.compiler.execution import Execution
from aquatint.compiler.process import Process
from aquatint.compiler.trainable import Trainable
from aquatint.passes.distill.consistency import Consistency
from aquatint.passes.distill.latent_consistency import LatentConsistency
from aquatint.passes.distill.progressive import Progressive
from aquatint.passes.distill.sfd import Sfd
from tests.zoo import build


@pytest.mark.parametrize("name", ["unet2d", "sd", "dit", "pixart", "sd3", "flux", "kl_decoder", "hand_written"])
def test_a_program_runs_wholly_on_its_device(name: str) -> None:
    model, (args, kwargs) = build(name)
    program = capture(model, Example(args, kwargs), name)
    device = torch.device("meta")
    inputs = [t.to(device) for t in program.interface.flatten(args, kwargs)[0]]
    for result in Execution(program.graph, program.weights, device=device)(*inputs):
        assert result.device == device


@pytest.mark.parametrize("train", ["all", "lora", "branch"])
@pytest.mark.parametrize("method", [Sfd(), Progressive(), Consistency(), LatentConsistency()], ids=lambda m: m.name)
def test_a_training_runs_wholly_on_its_device(method: Method, train: str) -> None:
    model, (args, kwargs) = build("dit")
    program = capture(model, Example(args, kwargs), "dit")
    if train == "branch":
        program = aquatint.optimize(model, "svdq-w4a4-r32", lambda m: m(*args, **kwargs)).program
    device, shape = torch.device("meta"), program.interface.inputs[0].example[1:]
    teacher, student = Teacher(Trainable(program, device=device).requires_grad_(False)), Trainable(program, train, device)
    process = Process.of(DDIMScheduler())
    classroom = Classroom(process, teacher, student, teacher, shape, default_conditions(program), 2, 0)
    noise, given = classroom.noise(2, 0)
    lesson = Lesson(process, classroom.teaches(teacher, given), classroom.says(student, given), (999, 499))
    for loss in method.losses(lesson, Batch(noise, noise, torch.Generator().manual_seed(0), 0.5)):
        assert loss.device == device
        loss.backward()
    assert {p.grad.device for p in student.trained if p.grad is not None} == {device}
