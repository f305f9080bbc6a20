"""Distillation of a toy whose flow is known exactly: images of two numbers, spread as a Gaussian."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

import aquatint
from aquatint.compiler.distilling import Batch, Lesson, ddim, solved
from aquatint.compiler.errors import DistillError
from aquatint.compiler.process import Process
from aquatint.compiler.training import Schooling
from aquatint.sampling import SamplingPlan, sample, scheduler_from
from tests.flow_toy import Exact, Small, called, distilled, error, flowed, own_stamps, scheduler


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction", "flow_prediction"])
def test_every_parameterisation_takes_the_exact_flow(prediction: str) -> None:
    plan = scheduler(prediction)
    assert error(Exact(plan), 500, prediction) < 2e-3
    process = Process.of(plan)
    noise = torch.randn(64, 2, 1, 1, generator=torch.Generator().manual_seed(3))
    model = Exact(plan)
    with torch.no_grad():
        near = solved(process, lambda x, t: model(x, process.told[t]), noise, 999, -1, 20)
        assert (near - flowed(noise, process)).square().mean().sqrt() < 0.03


def test_ddim_is_that_of_diffusers() -> None:
    plan = scheduler()
    model, process = Exact(plan), Process.of(plan)
    state = noise = torch.randn(8, 2, 1, 1)
    plan.set_timesteps(4)
    assert plan.timesteps.tolist() == process.stamps(4)
    with torch.no_grad():
        for time in plan.timesteps:
            state = plan.step(model(state, time.expand(8)), time, state, return_dict=False)[0]
        ours = ddim(process, lambda x, t: model(x, t), noise, process.stamps(4))
    torch.testing.assert_close(ours, state, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("method", "steps", "gain"), [("sfd", 4, 4), ("sfd", 1, 4), ("progressive", 2, 2), ("lcm", 1, 1.2)])
def test_a_student_comes_nearer_to_the_flow(method: str, steps: int, gain: float) -> None:
    student = distilled(method, steps)
    assert error(student, steps) * gain < error(Exact(scheduler()), steps)
    assert student.program.sampler["num_inference_steps"] == steps


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_is_that_of_diffusers(shift: float) -> None:
    plan = FlowMatchEulerDiscreteScheduler(shift=shift)
    process = Process.of(plan)
    plan.set_timesteps(sigmas=[(stamp + 1) / process.times for stamp in process.stamps(4)])
    torch.testing.assert_close(process.told[process.stamps(4)], plan.timesteps)
    torch.testing.assert_close(process.sigmas[process.stamps(4)], plan.sigmas[:-1])


@pytest.mark.parametrize("method", ["sfd", "progressive", "schedule"])
def test_a_student_of_flow_matching(method: str) -> None:
    student = distilled(method, 2, "flow_prediction")
    config, process = student.program.sampler, Process.of(scheduler("flow_prediction"))
    assert config["_class_name"] == "FlowMatchEulerDiscreteScheduler"
    noise = torch.randn(64, 2, 1, 1, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours = ddim(process, lambda x, t: student(x, process.told[t]), noise, own_stamps(student, process, 2))
    as_diffusers = lambda x, timestep: SimpleNamespace(sample=student(x, timestep))  # noqa: E731
    drawn = sample(as_diffusers, scheduler_from(config), noise, SamplingPlan.of(config))
    torch.testing.assert_close(drawn, ours, rtol=1e-3, atol=1e-3)
    if method != "schedule":
        assert error(student, 2, "flow_prediction") * 2 < error(Exact(scheduler("flow_prediction")), 2, "flow_prediction")


class Labelled(Small):
    """With two classes, and none."""

    def __init__(self) -> None:
        super().__init__()
        self.label = nn.Embedding(3, 512)
        nn.init.normal_(self.label.weight, std=0.5, generator=torch.Generator().manual_seed(2))

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> Tensor:
        inner = self.first(sample.flatten(1)) + self.time(timestep.view(-1, 1) / 500 - 1) + self.label(class_labels)
        return self.last(nn.functional.silu(self.inner(nn.functional.silu(inner)))).view(-1, 2, 1, 1)


def test_a_student_learns_the_guidance_of_its_teacher() -> None:
    model, plan = Labelled().eval(), scheduler()
    options: dict[str, Any] = {
        "conditions": lambda n, random: {"class_labels": torch.randint(2, (n,), generator=random)},
        "calibrate": lambda m: m(torch.randn(2, 2, 1, 1), torch.tensor([3, 400]), torch.tensor([0, 1])),
        "guidance": 3.0,
    }
    with pytest.raises(DistillError, match="say with unconditional="):
        aquatint.distill(model, plan, "sfd", 1, **options)
    nothing = {"unconditional": lambda n, random: {"class_labels": torch.full((n,), 2)}}
    with pytest.raises(DistillError, match="so no student learns a guidance of 3"):
        aquatint.distill(model, plan, "schedule", 1, **options, **nothing)
    student = aquatint.distill(model, plan, "sfd", 1, **options, **nothing, schooling=Schooling(200, rate=2e-3), batch=64)
    process, noise = Process.of(plan), torch.randn(64, 2, 1, 1, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(64) % 2

    def guided(x: Tensor, t: Tensor) -> Tensor:
        plain = model(x, t, torch.full_like(labels, 2))
        return plain + 3 * (model(x, t, labels) - plain)

    with torch.no_grad():
        far, once = (ddim(process, guided, noise, process.stamps(n)) for n in (50, 1))
        learned = ddim(process, lambda x, t: student(x, t, labels), noise, process.stamps(1))
    assert student.program.sampler["guidance"] == 3.0
    assert (learned - far).square().mean() * 4 < (once - far).square().mean()


def test_consistency_agrees_along_a_path() -> None:
    student = distilled("consistency", 1, schooling=Schooling(iterations=1500, rate=2e-2, clip=10.0))
    assert error(student, 1) * 1.1 < error(Exact(scheduler()), 1)


def test_a_student_is_saved_and_compressed(tmp_path: Path) -> None:
    student = distilled("sfd", 2, schooling=Schooling(iterations=50, rate=2e-2, clip=10.0))
    student.save(tmp_path / "student.aq")
    again = aquatint.load(tmp_path / "student.aq")
    x, time = torch.randn(3, 2, 1, 1), torch.tensor([999, 499, 499])
    assert torch.equal(again(x, time), student(x, time))
    assert again.program.sampler == student.program.sampler
    assert "2 steps" in again.report["distillation"]["comparison"]


def test_a_killed_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    schooling = Schooling(iterations=40, rate=1e-2, every=10)
    whole = distilled("sfd", 2, schooling=schooling)

    def killed(iteration: int, loss: float, left: float) -> None:
        if iteration == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distilled("sfd", 2, schooling=schooling, folder=tmp_path, watch=killed)
    resumed = distilled("sfd", 2, schooling=schooling, folder=tmp_path)
    for name, weight in whole.program.weights.items():
        assert torch.equal(weight, resumed.program.weights[name]), name
    with pytest.raises(DistillError, match="of another training"):
        distilled("sfd", 2, schooling=schooling, folder=tmp_path, seed=7)


def _taught_together(rank: int, folder: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    student = distilled("sfd", 2, schooling=Schooling(100, rate=2e-2, clip=10.0), folder=folder / "checkpoints")
    student.save(folder / f"{rank}.aq")
    torch.distributed.destroy_process_group()


def test_processes_train_one_student_together(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(_taught_together, (tmp_path,), nprocs=2)
    first, second = (aquatint.load(tmp_path / f"{rank}.aq") for rank in range(2))
    alone = distilled("sfd", 2, schooling=Schooling(100, rate=2e-2, clip=10.0))
    for name, weight in first.program.weights.items():
        assert torch.equal(weight, second.program.weights[name]), name
    assert not torch.equal(first.program.weights["gain"], alone.program.weights["gain"]), "each had a batch of its own"
    assert error(first, 2) * 3 < error(Exact(scheduler()), 2)


def test_a_compressed_teacher_runs_by_its_kernels(tmp_path: Path) -> None:
    model, runs = Small().eval(), []
    eight = aquatint.optimize(model, "w8a8", lambda m: [called(m) for _ in range(4)])
    (execution,) = eight._runs[0].executions
    eight._runs[0] = lambda *inputs: runs.append(len(inputs)) or execution(*inputs)
    options: dict[str, Any] = {"calibrate": called, "schooling": Schooling(50, rate=2e-3), "batch": 64, "folder": tmp_path}
    learned = aquatint.distill(model, scheduler(), "sfd", 1, teacher=eight, **options)
    assert len(runs) > 50 * 16
    assert learned.report["distillation"]["student"] * 1.5 < learned.report["distillation"]["teacher"]
    with pytest.raises(DistillError, match="of another training"):
        aquatint.distill(model, scheduler(), "sfd", 1, **options)


@pytest.mark.gpu
@pytest.mark.parametrize("train", ["all", "lora"])
def test_a_student_is_trained_on_a_gpu(train: str, tmp_path: Path) -> None:
    student, schooling = Small().eval(), Schooling(200, rate=2e-3, every=50, precision="bfloat16")
    options: dict[str, Any] = {"train": train, "calibrate": called, "schooling": schooling, "folder": tmp_path}
    learned = aquatint.distill(student, scheduler(), "sfd", 1, device="cuda", **options)
    assert all(w.device.type == "cpu" for w in learned.program.weights.values())
    found = learned.report["distillation"]
    assert found["student"] * 1.5 < found["teacher"]
    again = aquatint.distill(student, scheduler(), "sfd", 1, device="cuda", **options)  # from its last checkpoint
    for name, weight in learned.program.weights.items():
        assert torch.equal(weight, again.program.weights[name]), name


def test_own_losses_plug_in() -> None:
    class Nearest:
        name, trains, needs_data, sampler = "nearest", True, False, "DDIMScheduler"

        def losses(self, lesson: Lesson, batch: Batch) -> Any:
            state = batch.noise
            with torch.no_grad():
                target = solved(lesson.process, lesson.teacher, state, 999, -1, 16)
            time = torch.full((len(state),), 999)
            yield (lesson.process.moved(state, lesson.student(state, time), time, -1) - target).square().mean()

    plan = scheduler()
    student = aquatint.distill(Exact(plan), plan, Nearest(), 1, calibrate=called, schooling=Schooling(200, rate=2e-2))
    assert error(student, 1) * 2 < error(Exact(plan), 1)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    plan = scheduler()
    with pytest.raises(DistillError, match="known: sfd"):
        aquatint.distill(Exact(plan), plan, "magic", calibrate=called)
    with pytest.raises(DistillError, match="a student of 0 steps"):
        aquatint.distill(Exact(plan), plan, steps=0, calibrate=called)
    with pytest.raises(DistillError, match="use_dynamic_shifting has no times"):
        aquatint.distill(Exact(plan), FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), calibrate=called)
    with pytest.raises(DistillError, match="known: all, lora, branch"):
        aquatint.distill(Exact(plan), plan, train="some", calibrate=called)
    with pytest.raises(DistillError, match="no weight to train with train='branch'"):
        aquatint.distill(Exact(plan), plan, train="branch", teacher=Exact(plan), calibrate=called)
    with pytest.raises(DistillError, match="can't be trained on cuda:99: "):
        aquatint.distill(Exact(plan), plan, device="cuda:99", calibrate=called)
    with pytest.raises(DistillError, match="no precision 'int8'"):
        Schooling(precision="int8")
    with pytest.raises(DistillError, match="give data="):
        aquatint.distill(Exact(plan), plan, "progressive", calibrate=called)
    with pytest.raises(DistillError, match="give teacher="):
        aquatint.distill(Exact(plan), plan, train="branch", calibrate=called)
    with pytest.raises(DistillError, match="predicts epsilon, but"):
        aquatint.distill(Exact(plan), scheduler("epsilon"), calibrate=called)
    with pytest.raises(DistillError, match=r"nothing was kept: give a folder.*lower rate"):
        distilled("sfd", 2, schooling=Schooling(iterations=20, rate=float("inf"), clip=10.0))
    (tmp_path / "full").write_text("a file where the folder should be")
    with pytest.raises(DistillError, match="can't be written"):
        distilled("sfd", 2, schooling=Schooling(iterations=2, every=1), folder=tmp_path / "full")
    with pytest.raises(DistillError, match="refused: the student is worse"):
        distilled("sfd", 4, schooling=Schooling(iterations=3, rate=5.0, clip=1e6))


def test_a_budget_of_seconds_is_kept() -> None:
    seen: list[int] = []
    distilled("sfd", 1, schooling=Schooling(iterations=10**6, rate=2e-2, seconds=3.0), watch=lambda i, *_: seen.append(i))
    assert 1 < len(seen) < 10**5
