"""Our ONNX files beside those that onnxruntime's own quantization makes, on the two shipped models, in one run.

    python -m benchmarks.onnx_files            # writes docs/onnx_files.md and a dated JSON

All are files, all run in the same onnxruntime with all its optimizations, and take turns; figures are medians over the turns.
`fp32` is torch.onnx.export of the model as it is, with its sizes free as ours are. SQNR is of one step on unseen inputs at a
middle time; the picture's PSNR and distance (mean absolute difference, of 255) are to what the fp32 model draws from the same
seeds. quantize_static gets the calls that our recipe was calibrated with.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

import aquatint
from aquatint.calibrate import Recorder, default_calibration
from aquatint.checkpoint import open_checkpoint
from aquatint.commands.demo import MODELS, SUBJECTS, Subject
from aquatint.compiler.numerics import reproducible
from aquatint.quality import pixel_distance, psnr
from aquatint.sampling import SamplingPlan, noise, sample
from benchmarks.cpu_peers import cpu
from benchmarks.records import markdown, write_record

BASE = "fp32 (torch.onnx.export)"
OURS: dict[str, dict[str, Any]] = {
    "aquatint w4-fold": {"weights": "w4-fold"},
    "aquatint w4-fold, scales by row": {"weights": "w4-fold", "scales": "row"},
    "aquatint w4-nbits": {"weights": "w4-nbits"},
    "aquatint W8A8 recipe, w8a8": {"weights": "w8a8"},
}
BATCHES = (2, 16)
TURN = 0.1  # seconds at least that a contender runs before the next has its turn
Files = dict[str, Path]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    reproducible()
    logging.disable(logging.WARNING)  # the quantizers tell every node that they pass by
    with tempfile.TemporaryDirectory() as folder:
        results = {s.name: measure(s, Path(folder) / s.folder, options) for s in SUBJECTS}
    path = write_record("onnx_files", {**vars(options), "onnxruntime": ort.__version__, "models": results})
    page = Path(__file__).parent.parent / "docs" / "onnx_files.md"
    page.write_text(document(results, options, path.name))
    print(page.read_text())


def measure(subject: Subject, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    checkpoint = open_checkpoint(MODELS / subject.folder)
    model = checkpoint.model.eval()
    made = files(model, checkpoint.scheduler, folder)
    sessions: dict[str, ort.InferenceSession] = {}
    rows: dict[str, Any] = {}
    for name, path in made.items():
        if not path.is_file():
            rows[name] = {"missing": path.with_suffix(".fault").read_text()}
            continue
        try:
            sessions[name] = opened(path, options.threads)
        except Exception as error:  # onnxruntime's own kinds
            rows[name] = {"missing": f"does not load: {str(error).splitlines()[0]}"}
    seconds = {batch: interleaved(subject, sessions, batch, options.turns) for batch in BATCHES}
    images = {name: drawn(subject, s, checkpoint.scheduler, options) for name, s in sessions.items()}
    exact = step(model, *inputs(subject, 2))
    for name, session in sessions.items():
        difference = step(Onnx(session), *inputs(subject, 2)) - exact
        rows[name] = {
            "MB": made[name].stat().st_size / 1e6,
            "sqnr": float(20 * torch.log10(exact.norm() / difference.norm())),
            "psnr": float(psnr(images[name], images[BASE]).mean()) if name != BASE else None,
            "distance": float(pixel_distance(images[name], images[BASE]).mean()),
            **{f"ms at batch {b}": [1e3 * q for q in statistics.quantiles(seconds[b][name], n=4)] for b in BATCHES},
        }
    return {name: rows[name] for name in made}


def files(model: nn.Module, scheduler: Any, folder: Path) -> Files:
    """Every contender's file by name."""
    folder.mkdir()
    with Recorder(model, 16) as recorder:
        default_calibration(model, scheduler, 0)(model)
    made = {BASE: folder / "fp32.onnx"}
    example = recorder.examples[0]
    free: dict[str, Any] = {name: {0: torch.export.Dim.AUTO} for name in example.kwargs}
    torch.onnx.export(
        model, kwargs=example.kwargs, f=made[BASE], dynamic_shapes=free, dynamo=True, external_data=False, verbose=False,
    )  # fmt: skip
    for recipe in ("svdq-w4a8-r32", "w8a8"):
        small = aquatint.optimize(model, recipe, sampler=scheduler)
        for name, choice in OURS.items():
            if (recipe == "w8a8") == ("w8a8" in name):
                made[name] = aquatint.export_onnx(small, folder / name, **choice).path
    return made | theirs(made[BASE], [e.kwargs for e in recorder.examples], folder)


def theirs(exact: Path, calls: list[dict[str, Tensor]], folder: Path) -> Files:
    """What onnxruntime.quantization makes of the fp32 file."""
    prepared = folder / "prepared.onnx"
    quant_pre_process(exact, prepared, skip_symbolic_shape=True)
    products: dict[str, Any] = {"op_types_to_quantize": ["MatMul", "Gemm"]}
    made: dict[str, Callable[[Path], object]] = {
        "quantize_dynamic": lambda path: quantize_dynamic(prepared, path, weight_type=QuantType.QUInt8),
        "quantize_dynamic, linears only": lambda path: quantize_dynamic(
            prepared, path, weight_type=QuantType.QInt8, per_channel=True, **products
        ),
        "quantize_static": lambda path: quantize_static(prepared, path, Calls(calls), per_channel=True),
        "quantize_static, Conv and Gemm only": lambda path: quantize_static(
            prepared, path, Calls(calls), per_channel=True, op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_exclude=attention_products(prepared),
        ),
        "MatMulNBits": lambda path: nbits(prepared, path),
    }  # fmt: skip
    paths = {name: folder / f"{place}.onnx" for place, name in enumerate(made)}
    for name, path in paths.items():
        try:
            made[name](path)
        except Exception as error:
            path.unlink(missing_ok=True)
            path.with_suffix(".fault").write_text(f"not made: {type(error).__name__}: {error}")
    return paths


def attention_products(path: Path) -> list[str]:
    """The products without a weight: their quantization is what made a U-Net slower."""
    graph = onnx.load(path).graph
    weights = {t.name for t in graph.initializer}
    return [n.name for n in graph.node if n.op_type == "MatMul" and not weights & set(n.input)]


def nbits(exact: Path, path: Path) -> None:
    quantizer = MatMulNBitsQuantizer(onnx.load(exact), block_size=64, is_symmetric=True, accuracy_level=4)
    quantizer.process()
    onnx.save(quantizer.model.model, path)  # pyright: ignore[reportAttributeAccessIssue]


class Calls(CalibrationDataReader):
    def __init__(self, calls: list[dict[str, Tensor]]) -> None:
        self.left = [{name: value.numpy() for name, value in call.items()} for call in calls]

    def get_next(self) -> Any:
        return self.left.pop(0) if self.left else None


def opened(path: Path, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # who waits for its turn must not work
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Onnx:
    """A session called as the model is."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session, self.inputs = session, [spec.name for spec in session.get_inputs()]

    def __call__(self, image: Tensor, timestep: Tensor, class_labels: Tensor | None = None) -> Any:
        given = {"timestep": timestep, "class_labels": class_labels}
        feed = {name: np.ascontiguousarray(given.get(name, image)) for name in self.inputs}
        return SimpleNamespace(sample=torch.from_numpy(self.session.run(None, feed)[0]))


def inputs(subject: Subject, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
    random = torch.Generator().manual_seed(11)
    image = torch.randn(batch, 1, 28, 28, generator=random)
    labels = {"class_labels": torch.arange(batch) % subject.classes} if subject.classes else {}
    return image, {"timestep": torch.full((batch,), 500), **labels}


def step(model: Any, image: Tensor, keywords: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(image, **keywords).sample


def interleaved(subject: Subject, sessions: dict[str, Any], batch: int, turns: int) -> dict[str, list[float]]:
    """Seconds a step of every contender, turn by turn."""
    image, keywords = inputs(subject, batch)
    models = {name: Onnx(session) for name, session in sessions.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(turns):
        for name, model in models.items():
            step(model, image, keywords)
            began, calls = time.perf_counter(), 0
            while (spent := time.perf_counter() - began) < TURN or calls < 2:
                step(model, image, keywords)
                calls += 1
            seconds[name].append(spent / calls)
    return seconds


def drawn(subject: Subject, session: Any, scheduler: Any, options: argparse.Namespace) -> Tensor:
    start = noise((1, 28, 28), options.images, 0)
    labels = torch.arange(options.images) % subject.classes if subject.classes else None
    plan = SamplingPlan(options.steps, subject.guidance)
    return sample(Onnx(session), scheduler, start, plan, labels, subject.classes)


def document(results: dict[str, Any], options: argparse.Namespace, record: str) -> str:
    head = ["", "MB", "of fp32", *[c for b in BATCHES for c in (f"ms, batch {b}", "quartiles", "x fp32")]]
    head += ["SQNR dB", "PSNR dB", "distance"]
    text = f"""# ONNX files in an unmodified onnxruntime, beside its own quantization

    python -m benchmarks.onnx_files

On {cpu()}, {options.threads} threads, onnxruntime {ort.__version__}, {options.turns} turns; {options.images} images of
{options.steps} steps; raw: `benchmarks/results/{record}`.
"""
    for name, rows in results.items():
        lines = []
        for contender, row in rows.items():
            if "missing" in row:
                lines.append([contender, row["missing"].replace("|", "/"), *[""] * (len(head) - 2)])
                continue
            cells = [f"{row['MB']:.2f}", f"{row['MB'] / rows[BASE]['MB']:.3f}"]
            for batch in BATCHES:
                low, median, high = row[f"ms at batch {batch}"]
                ratio = rows[BASE][f"ms at batch {batch}"][1] / median
                cells += [f"{median:.2f}", f"{low:.2f} - {high:.2f}", f"{ratio:.2f}"]
            quality = ["", "", ""] if contender == BASE else [f"{row['psnr']:.1f}", f"{row['distance']:.2f}"]
            cells += [f"{row['sqnr']:.1f}", *quality] if contender != BASE else quality
            lines.append([contender, *cells])
        text += f"\n## {name}\n\n{markdown(head, lines)}"
    return text


if __name__ == "__main__":
    main()
