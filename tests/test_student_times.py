"""The times that a student steps through: chosen, told to its scheduler, and looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import aquatint
from aquatint.compiler.distilling import ddim
from aquatint.compiler.errors import ArtifactError, InputError
from aquatint.compiler.process import CLEAN, Process
from aquatint.compiler.time_schedule import cheapest, step_costs
from aquatint.compiler.training import Schooling
from aquatint.passes.distill.sfd import Sfd
from aquatint.sampling import SamplingPlan, sample, scheduler_from, times_of
from tests.flow_toy import Exact, Small, called, distilled, flowed, scheduler


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
