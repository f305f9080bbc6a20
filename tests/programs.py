"""Small programs for tests, put together from text lines, and the check that every pass test begins with."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from aquatint.compiler.capture import find_sites
from aquatint.compiler.edit import is_call
from aquatint.compiler.interface import InputSpec, Interface, Parameter
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.pipeline import Context, Report, run_pass
from aquatint.compiler.plan import Decision
from aquatint.compiler.program import Program
from aquatint.compiler.recipe import Pass, Treatment
from aquatint.compiler.statistics import Calibration
from aquatint.compiler.text import parse
from aquatint.compiler.verify import verify
from aquatint.compiler.weights import Weights

TOKENS = InputSpec("x", "float32", ("s0", "s1", 64))
IMAGE = InputSpec("x", "float32", ("s0", 64, "s1", "s2"))


def program_of(lines: list[str], weights: dict[str, Tensor], spec: InputSpec = TOKENS) -> Program:
    """A program of one input %x from the lines of its text, after `input`."""
    interface = Interface((Parameter("x", "POSITIONAL_OR_KEYWORD", False),), (spec,), (), {"kind": "tensor", "index": 0})
    shell = Program("small", None, Weights(), interface)  # type: ignore[arg-type]
    program = parse("\n".join(["program small", "input %x: float32[]", *lines]), shell)
    program.weights = Weights(weights)
    program.sites = find_sites(program)
    verify(program)
    return program


def attention_like(seed: int = 0, width: int = 64) -> Program:
    """Two siblings on one input, a GELU, an output projection and a residual."""
    random = torch.Generator().manual_seed(seed)

    def weight(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random) / width**0.5

    weights = {
        "to_q.weight": weight(128, width), "to_q.bias": weight(128),
        "to_k.weight": weight(128, width), "to_k.bias": weight(128),
        "out.weight": weight(width, 128), "out.bias": weight(width),
    }  # fmt: skip
    lines = [
        "%q = aten::linear.default(%x, @to_q.weight, @to_q.bias)",
        "%k = aten::linear.default(%x, @to_k.weight, @to_k.bias)",
        "%g = aten::gelu.default(%q, approximate='tanh')",
        "%m = aten::mul.Tensor(%g, %k)",
        "%o = aten::linear.default(%m, @out.weight, @out.bias)",
        "%y = aten::add.Tensor(%o, %x)",
        "return [%y]",
    ]
    return program_of(lines, weights)


def convolutional(seed: int = 0) -> Program:
    """A 3 x 3 convolution with stride 2, a SiLU, and a 1 x 1 convolution."""
    random = torch.Generator().manual_seed(seed)
    weights = {
        "conv.weight": torch.randn(64, 64, 3, 3, generator=random) / 24,
        "conv.bias": torch.randn(64, generator=random),
        "point.weight": torch.randn(128, 64, 1, 1, generator=random) / 8,
        "point.bias": torch.randn(128, generator=random),
    }
    lines = [
        "%c = aten::conv2d.default(%x, @conv.weight, @conv.bias, [2, 2], [1, 1])",
        "%s = aten::silu.default(%c)",
        "%p = aten::conv2d.default(%s, @point.weight, @point.bias)",
        "return [%p]",
    ]
    return program_of(lines, weights, IMAGE)


def normed_block(seed: int = 0) -> Program:
    """What stands in a U-Net: group norm, SiLU, a 3 x 3 convolution, and all of it again."""
    random = torch.Generator().manual_seed(seed)
    weights = {f"norm{i}.{n}": torch.randn(64, generator=random) for i in (1, 2) for n in ("weight", "bias")}
    weights |= {f"conv{i}.weight": torch.randn(64, 64, 3, 3, generator=random) / 24 for i in (1, 2)}
    lines = []
    for i, source in ((1, "x"), (2, "c1")):
        lines.append(f"%n{i} = aten::group_norm.default(%{source}, 8, @norm{i}.weight, @norm{i}.bias, 1e-05)")
        lines.append(f"%s{i} = aten::silu.default(%n{i})")
        lines.append(f"%c{i} = aten::conv2d.default(%s{i}, @conv{i}.weight, None, [1, 1], [1, 1])")
    return program_of([*lines, "%y = aten::add.Tensor(%c2, %x)", "return [%y]"], weights, IMAGE)


def token_inputs(seed: int = 0, calls: int = 2) -> tuple[tuple[Tensor, ...], ...]:
    """Calls whose channels differ in size, as real activations do."""
    random = torch.Generator().manual_seed(seed)
    span = torch.logspace(-1, 1, 64)
    return tuple((torch.randn(2, 9, 64, generator=random) * span,) for _ in range(calls))


def image_inputs(seed: int = 0, calls: int = 2) -> tuple[tuple[Tensor, ...], ...]:
    random = torch.Generator().manual_seed(seed)
    span = torch.logspace(-1, 1, 64).view(-1, 1, 1)
    return tuple((torch.randn(2, 64, 8, 6, generator=random) * span,) for _ in range(calls))


def context_for(program: Program, calls: tuple[tuple[Tensor, ...], ...], treatment: Treatment, *kept: str) -> Context:
    decisions = {s.name: Decision(None if s.name in kept else treatment, "test") for s in program.sites}
    return Context(decisions, Calibration(calls))


def apply_and_check(program: Program, step: Pass, context: Context) -> tuple[Program, Report]:
    """Run a pass and hold it to what every pass promises."""
    calls = context.calibration.calls
    before = {name: w.clone() for name, w in program.weights.items()}
    changed, report = run_pass(program, step, context)
    for name, weight in program.weights.items():
        assert torch.equal(weight, before[name]), f"{name} was written in place"
    assert changed.interface == program.interface
    for site in program.sites:
        if context.decisions[site.name].treatment is None:
            assert torch.equal(changed.weights[site.weight], before[site.weight]), f"{site.name} was not left alone"
    if step.exact:
        for call in calls:
            for got, expected in zip(changed(*call), program(*call), strict=True):
                assert_equal_but_for_codes(got, expected)
    return changed, report


def assert_equal_but_for_codes(got: Tensor, expected: Tensor) -> None:
    """To float tolerance; sums in another order may round a code the other way, which few outputs show, and a little."""
    scale = expected.abs().max().item() + 1e-6
    apart = (got - expected).abs() / scale
    assert (apart > 2e-5 + 1e-4 * expected.abs() / scale).float().mean() < 0.05
    assert apart.max() < 5e-3


@st.composite
def random_programs(draw: st.DrawFn) -> Program:
    """A chain of up to six random steps over tokens (B, T, 64)."""
    seed = draw(st.integers(0, 2**16))
    random = torch.Generator().manual_seed(seed)
    weights: dict[str, Tensor] = {}
    lines: list[str] = []
    current = "x"
    for i in range(draw(st.integers(1, 6))):
        kind = draw(st.sampled_from(["linear", "wide", "gelu", "silu", "norm", "adaptive", "residual", "twins"]))
        new = f"n{i}"
        if kind in ("linear", "twins"):
            weights[f"l{i}.weight"] = torch.randn(64, 64, generator=random) / 8
            lines.append(f"%{new} = aten::linear.default(%{current}, @l{i}.weight)")
        if kind == "twins":
            weights[f"t{i}.weight"], weights[f"t{i}.bias"] = (torch.randn(s, generator=random) / 8 for s in ((64, 64), (64,)))
            lines.append(f"%{new}b = aten::linear.default(%{current}, @t{i}.weight, @t{i}.bias)")
            lines.append(f"%{new}c = aten::add.Tensor(%{new}, %{new}b)")
            new = f"{new}c"
        if kind == "wide":
            weights[f"u{i}.weight"] = torch.randn(128, 64, generator=random) / 8
            weights[f"d{i}.weight"] = torch.randn(64, 128, generator=random) / 11
            lines.append(f"%{new}a = aten::linear.default(%{current}, @u{i}.weight)")
            lines.append(f"%{new}b = aten::gelu.default(%{new}a)")
            lines.append(f"%{new} = aten::linear.default(%{new}b, @d{i}.weight)")
        if kind in ("gelu", "silu"):
            lines.append(f"%{new} = aten::{kind}.default(%{current})")
        if kind == "norm":
            lines.append(f"%{new} = aten::layer_norm.default(%{current}, [64])")
        if kind == "adaptive":
            lines.append(f"%{new}v = aten::mean.dim(%x, [1], True)")
            lines.append(f"%{new}n = aten::layer_norm.default(%{current}, [64], None, None, 1e-06)")
            lines.append(f"%{new}g = aten::add.Tensor(%{new}v, 1)")
            lines.append(f"%{new}m = aten::mul.Tensor(%{new}n, %{new}g)")
            lines.append(f"%{new} = aten::add.Tensor(%{new}m, %{new}v)")
        if kind == "residual":
            lines.append(f"%{new} = aten::add.Tensor(%{current}, %x)")
        current = new
    lines.append(f"return [%{current}]")
    return program_of(lines, weights)


def with_exact_branch(model: CompressedModule) -> CompressedModule:
    """The same program, but its low-rank branch reads what is quantized before it is rounded."""
    program = model.program.copy()
    for node in program.graph.nodes:
        if is_call(node, "aquatint::quantize"):
            node.kwargs = {k: v for k, v in node.kwargs.items() if k != "branch"}
    return CompressedModule(program, model.target, model.recipe, model.report)
