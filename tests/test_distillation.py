"""Distillation of a toy whose flow is known exactly: images of two numbers, spread as a Gaussian."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

import aquatint
from aquatint.compiler.distilling import Batch, Lesson, ddim, solved
from aquatint.compiler.errors import ArtifactError, DistillError, ExportError, InputError, PassError
from aquatint.compiler.pipeline import Context, run_pass
from aquatint.compiler.process import CLEAN, Process
from aquatint.compiler.statistics import Calibration
from aquatint.compiler.time_schedule import cheapest, step_costs
from aquatint.compiler.training import Schooling
from aquatint.passes.distill.sfd import Sfd
from aquatint.passes.sparse import Sparse
from aquatint.sampling import SamplingPlan, sample, sampler_of, scheduler_from, times_of

MEAN, SPREAD = torch.tensor([0.6, -0.3]).view(2, 1, 1), torch.tensor([0.5, 0.1]).view(2, 1, 1)


class Exact(nn.Module):
    """The exact denoiser of that Gaussian, as a gain and an offset for each time: weights that a student can change."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        process = Process.of(scheduler)
        alpha, sigma = process.alphas.view(-1, 1, 1, 1), process.sigmas.view(-1, 1, 1, 1)
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)  # E[x | x_t] = mean + gain (x_t - alpha mean)
        offset = MEAN - gain * alpha * MEAN
        clean = {"sample": (gain, offset), "v_prediction": ((alpha - gain) / sigma, -offset / sigma)}
        clean["epsilon"] = ((1 - alpha * gain) / sigma, -alpha * offset / sigma)
        clean["flow_prediction"] = ((1 - gain) / sigma, -offset / sigma)
        self.first = int(process.told[0])
        self.gain, self.offset = (nn.Parameter(t.clone()) for t in clean[process.prediction])

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        place = timestep.long() - self.first
        return self.gain[place] * sample + self.offset[place]


def scheduler(prediction: str = "v_prediction") -> Any:
    if prediction == "flow_prediction":
        return FlowMatchEulerDiscreteScheduler()
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type=prediction, timestep_spacing="trailing", clip_sample=False
    )


def called(model: nn.Module) -> None:
    model(torch.randn(2, 2, 1, 1), torch.tensor([3, 400]))


def called_in_flow(model: nn.Module) -> None:
    model(torch.randn(2, 2, 1, 1), torch.tensor([3.0, 400.0]))


def distilled(method: Any, steps: int, prediction: str = "v_prediction", **options: Any) -> Any:
    plan = scheduler(prediction)
    random = torch.Generator().manual_seed(5)
    data = MEAN + SPREAD * torch.randn(4096, 2, 1, 1, generator=random)
    schooling = options.pop("schooling", Schooling(iterations=300, rate=2e-2, clip=10.0))
    calls = called_in_flow if prediction == "flow_prediction" else called
    return aquatint.distill(
        Exact(plan), plan, method, steps, data=data, calibrate=calls, batch=128, schooling=schooling, **options
    )


def flowed(noise: Tensor, process: Process) -> Tensor:
    """Where the exact flow takes noise: quantile to quantile."""
    alpha, sigma = process.alphas[-1], process.sigmas[-1]
    return MEAN + SPREAD * (noise - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2).sqrt()


def own_stamps(model: Any, process: Process, steps: int) -> list[int]:
    """A student's own times, or even ones."""
    sampler = sampler_of(model)
    uneven = sampler.get("timesteps") or [round(sigma * process.times) - 1 for sigma in sampler.get("sigmas", ())]
    return list(uneven) or process.stamps(steps)


def error(model: Any, steps: int, prediction: str = "v_prediction") -> float:
    process = Process.of(scheduler(prediction))
    noise = torch.randn(512, 2, 1, 1, generator=torch.Generator().manual_seed(11))
    with torch.no_grad():
        drawn = ddim(process, lambda x, t: model(x, process.told[t]), noise, own_stamps(model, process, steps))
    return float((drawn - flowed(noise, process)).square().mean().sqrt())


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


class Small(nn.Module):
    """Nothing that was trained; but a student can learn where its steps lead."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(1)
        self.first, self.time, self.inner, self.last = (nn.Linear(*s) for s in ((2, 512), (1, 512), (512, 512), (512, 2)))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5, generator=random)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        inner = self.first(sample.flatten(1)) + self.time(timestep.view(-1, 1) / 500 - 1)
        return self.last(nn.functional.silu(self.inner(nn.functional.silu(inner)))).view(-1, 2, 1, 1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_adapters_are_added_to_the_weights(precision: str) -> None:
    model, schooling = Small().eval(), Schooling(200, rate=5e-3, precision=precision)
    student = aquatint.distill(model, scheduler(), "sfd", 1, train="lora", calibrate=called, schooling=schooling, batch=64)
    before, after = model.inner.weight, student.program.weights["inner.weight"]
    assert student.program.weights.keys() == dict(model.named_parameters()).keys()
    assert 0 < torch.linalg.matrix_rank(after - before, rtol=1e-4) <= 32
    assert torch.equal(student.program.weights["inner.bias"], model.inner.bias)


def test_the_noise_of_steps_is_each_images_own() -> None:
    config = {**scheduler().config, "_class_name": "LCMScheduler", "num_inference_steps": 4}
    plan, model = SamplingPlan.of(config), Small().eval()
    as_diffusers = lambda x, timestep: SimpleNamespace(sample=model(x, timestep))  # noqa: E731
    start = torch.randn(3, 2, 1, 1, generator=torch.Generator().manual_seed(6))
    drawn = sample(as_diffusers, scheduler_from(config), start, plan)
    torch.testing.assert_close(sample(as_diffusers, scheduler_from(config), start[:2], plan), drawn[:2])
    other = sample(as_diffusers, scheduler_from(config), start, replace(plan, seed=1))
    assert not torch.allclose(other, drawn)
    torch.testing.assert_close(
        sample(as_diffusers, scheduler_from(config), start[:1].expand(2, -1, -1, -1), plan)[:1], drawn[:1]
    )
    with pytest.raises(InputError, match="0 steps draw nothing"):
        SamplingPlan.of(config, steps=0)


def test_a_student_is_stored_in_as_many_bits_as_its_teacher(tmp_path: Path) -> None:
    model = Small().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.half())
    student = aquatint.distill(model, scheduler(), "sfd", 1, calibrate=called, schooling=Schooling(50, rate=2e-3), batch=64)
    assert all(torch.equal(w.half().float(), w) for w in student.program.weights.values())
    assert not torch.equal(student.program.weights["inner.weight"], model.inner.weight)
    student.save(tmp_path / "student.aq")
    page = (tmp_path / "student.aq" / "report.html").read_text()
    assert "nearer" in page
    assert "smaller as stored" not in page


def test_a_student_with_tables_knows_its_own_times() -> None:
    model, schooling = Small().eval(), Schooling(60, rate=2e-3)
    options: dict[str, Any] = {"calibrate": called, "schooling": schooling, "batch": 64}
    plain, looked_up = (aquatint.distill(model, scheduler(), "sfd", 2, tables=t, **options) for t in (False, True))
    times = looked_up.program.sampler["timesteps"]
    assert looked_up.program.sampler["tables"] == times
    x, own = torch.randn(3, 2, 1, 1), torch.tensor([times[0], times[1], times[0]])
    torch.testing.assert_close(looked_up(x, own), plain(x, own), rtol=1e-4, atol=1e-5)
    assert looked_up(x, torch.tensor([*times, 7]))[2].isnan().all()
    assert "time" not in [site.name for site in looked_up.program.sites]
    as_diffusers = lambda x, timestep: SimpleNamespace(sample=looked_up(x, timestep))  # noqa: E731
    config = looked_up.program.sampler
    assert not sample(as_diffusers, scheduler_from(config), x, SamplingPlan.of(config)).isnan().any()
    as_diffusers.program = looked_up.program  # type: ignore[attr-defined]
    with pytest.raises(InputError, match=f"tables for the times 999, {times[1]}, and is called at 749"):
        sample(as_diffusers, scheduler_from(config), x, SamplingPlan.of(config, steps=4))
    with pytest.raises(ArtifactError, match="has no branch"):
        looked_up.save_pack("nowhere.safetensors")


def test_tables_are_of_the_times_that_the_scheduler_asks_for() -> None:
    data = torch.randn(64, 2, 1, 1, generator=torch.Generator().manual_seed(4))
    student = aquatint.distill(
        Small().eval(), scheduler(), "lcm", 4, data=data, tables=True, calibrate=called, batch=8,
        schooling=Schooling(1, rate=1e-9),
    )  # fmt: skip
    assert student.program.sampler["tables"] == times_of(student.program.sampler)
    assert len(student.program.sampler["tables"]) == 4


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


def test_a_speed_pack_changes_the_branch_alone(tmp_path: Path) -> None:
    model = Small().eval()
    recipe = aquatint.recipe_named("svdq-w4a4-r32")
    recipe = replace(recipe, rules=(*recipe.rules[:1], aquatint.Rule("@first", None), aquatint.Rule("@last", None)))
    base = aquatint.optimize(model, recipe, lambda m: [called(m) for _ in range(4)])
    schooling = Schooling(100, rate=5e-3)
    fast = aquatint.distill(
        base, scheduler(), "sfd", 1, train="branch", teacher=model, calibrate=called, schooling=schooling, batch=64
    )
    base.save(tmp_path / "base.aq")
    fast.save_pack(tmp_path / "one-step.safetensors")
    again = aquatint.load(tmp_path / "base.aq").with_pack(tmp_path / "one-step.safetensors")
    x, time = torch.randn(3, 2, 1, 1), torch.tensor([999] * 3)
    assert torch.equal(again(x, time), fast(x, time))
    assert again.program.sampler == fast.program.sampler
    assert (tmp_path / "one-step.safetensors").stat().st_size < (tmp_path / "base.aq" / "weights.safetensors").stat().st_size

    with torch.no_grad():
        model.inner.weight.add_(0.1)
    other = aquatint.optimize(model, recipe, lambda m: [called(m) for _ in range(4)])
    with pytest.raises(ArtifactError, match="over another base"):
        other.with_pack(tmp_path / "one-step.safetensors")
    with pytest.raises(ArtifactError, match="but no speed pack"):
        base.with_pack(tmp_path / "base.aq" / "weights.safetensors")
    with pytest.raises(ArtifactError, match="has no sampler"):
        base.save_pack(tmp_path / "none.safetensors")
    assert not (tmp_path / "none.safetensors").exists()


def test_branches_by_step(tmp_path: Path) -> None:
    model = Small().eval()
    recipe = aquatint.recipe_named("svdq-w4a4-r32")
    recipe = replace(recipe, rules=(*recipe.rules[:1], aquatint.Rule("@first", None), aquatint.Rule("@last", None)))
    base = aquatint.optimize(model, recipe, lambda m: [called(m) for _ in range(4)])
    options: dict[str, Any] = {
        "train": "branch", "teacher": model, "calibrate": called, "schooling": Schooling(60, rate=5e-3), "batch": 64
    }  # fmt: skip
    one, fast = (aquatint.distill(base, scheduler(), "sfd", 2, by_step=b, **options) for b in (False, True))
    name = next(n for n in fast.program.weights if n.endswith(".up"))
    assert fast.program.weights[name].shape == (2, *one.program.weights[name].shape)
    assert not torch.equal(*fast.program.weights[name])
    assert fast.report["distillation"]["student"] < fast.report["distillation"]["teacher"]

    first, second = fast.program.sampler["timesteps"]
    x = torch.randn(3, 2, 1, 1)
    seen = [fast(x, torch.full((3,), time)) for time in (first, second)]
    for time, found in zip((first, second), seen, strict=True):
        (meant,) = fast.program(x, torch.full((3,), time))
        torch.testing.assert_close(found, meant, rtol=1e-2, atol=1e-2 * float(meant.abs().max()))
        again = [fast(x, torch.full((3,), time)) for _ in range(3)]  # replayed
        assert all(torch.equal(found, other) for other in again)
    with pytest.raises(InputError, match=f"branches for the times 999, {second}, .* is called at 7: sample it with its own"):
        fast(x, torch.full((3,), 7))
    with pytest.raises(InputError, match=f"is called at {second}, 999"):
        fast(x, torch.tensor([999, second, 999]))
    mixed = fast.program(x, torch.tensor([999, second, 999]))[0]
    assert mixed.isnan().all()

    fast.save(tmp_path / "fast.aq")
    fast.save_pack(tmp_path / "fast.safetensors")
    one.save_pack(tmp_path / "one.safetensors")
    for again in (aquatint.load(tmp_path / "fast.aq"), base.with_pack(tmp_path / "fast.safetensors")):
        assert torch.equal(again(x, torch.full((3,), second)), seen[1])
    swapped = base.with_pack(tmp_path / "fast.safetensors").with_pack(tmp_path / "one.safetensors")
    assert torch.equal(swapped(x, torch.full((3,), second)), one(x, torch.full((3,), second)))
    with pytest.raises(ExportError, match="of which a file would need one"):
        aquatint.export_onnx(fast, tmp_path / "onnx")
    with pytest.raises(PassError, match="an edit is of no step"):
        run_pass(fast.program, Sparse(), Context({}, Calibration(((),))))
    with pytest.raises(DistillError, match="by step are what train='branch' trains"):
        aquatint.distill(model, scheduler(), "sfd", 2, by_step=True, calibrate=called)
    with pytest.raises(DistillError, match="or one by step already"):
        aquatint.distill(fast, scheduler(), "sfd", 2, by_step=True, **options)


def test_times_are_chosen_without_training() -> None:
    student = distilled("schedule", 4)
    stamps = student.program.sampler["timesteps"]
    plan, process = scheduler(), Process.of(scheduler())
    noise = torch.randn(256, 2, 1, 1, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        chosen, even = (
            float((ddim(process, Exact(plan), noise, s) - flowed(noise, process)).square().mean())
            for s in (stamps, process.stamps(4))
        )
    assert chosen < 0.8 * even
    as_diffusers = lambda x, timestep: SimpleNamespace(sample=student(x, timestep))  # noqa: E731
    drawn = sample(as_diffusers, scheduler_from(student.program.sampler), noise, SamplingPlan(timesteps=tuple(stamps)))
    torch.testing.assert_close(drawn, ddim(process, Exact(plan), noise, stamps), rtol=1e-3, atol=1e-3)


def test_where_steps_learn_the_hardest_is_as_easy_as_can_be() -> None:
    plan, process = scheduler(), Process.of(scheduler())
    noise = torch.randn(256, 2, 1, 1, generator=torch.Generator().manual_seed(2))
    times = [*process.stamps(50), CLEAN]
    costs = step_costs(process, Exact(plan), noise, times)

    def hardest(stamps: Sequence[int]) -> float:
        places = [*map(times.index, stamps), 50]
        return max(float(costs[a, b]) for a, b in pairwise(places))

    learned = distilled("sfd", 4, schooling=Schooling(1, rate=1e-9)).program.sampler["timesteps"]
    added_up = distilled("schedule", 4).program.sampler["timesteps"]
    assert hardest(learned) < hardest(added_up)
    best = min(hardest((999, *(times[i] for i in inner))) for inner in combinations(range(1, 50), 3))
    assert hardest(learned) < 1.1 * best
    even = distilled(Sfd(norm=None), 4, schooling=Schooling(1, rate=1e-9))
    assert "timesteps" not in even.program.sampler


def test_the_cheapest_path_is_found() -> None:
    costs = torch.rand(7, 7).triu(1) + torch.full((7, 7), float("inf")).tril().nan_to_num(0.0, posinf=float("inf"))
    for steps in (1, 2, 3, 6):
        path = [*cheapest(costs, steps), 6]
        best = min(sum(costs[a, b] for a, b in pairwise((0, *middle, 6))) for middle in combinations(range(1, 6), steps - 1))
        assert sum(costs[a, b] for a, b in pairwise(path)) == pytest.approx(float(best))


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
    eight._runs[0] = lambda *inputs: runs.append(len(inputs)) or eight._executions[0](*inputs)
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
