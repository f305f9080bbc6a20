"""A compressed model as an ONNX file that an unmodified onnxruntime runs fast."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aquatint.compiler.errors import ExportError
from aquatint.compiler.interface import short_names
from aquatint.compiler.module import CompressedModule
from aquatint.compiler.program import Program

if TYPE_CHECKING:
    import onnx_ir as ir

MODEL, DATA, CONFIG = "model.onnx", "model.onnx_data", "config.json"
LARGEST_FILE = 1 << 30  # bytes; protobuf ends at 2 GB, and what lies beside the graph can be mapped
NEEDED = "writing ONNX needs the packages onnx, onnx_ir, onnxscript: pip install 'aquatint[onnx]'"


@dataclass(frozen=True)
class Component:
    """Where a model stands in the folder of a pipeline, and what `optimum`'s classes call its inputs, results and time.

    inputs, outputs: in order; those that are not named keep the names that the program gives
    scalar_time: the time step is one number for the whole batch, not one a sample
    """

    folder: str
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    scalar_time: bool = False


def component_of(program: Program) -> Component:
    """By the kind of model that its class name tells."""
    if "UNet" in program.name:
        return Component("unet", outputs=("out_sample",), scalar_time="Condition" in program.name)
    if "Transformer" in program.name:
        return Component("transformer", outputs=("out_hidden_states",))
    return Component("model")


@dataclass(frozen=True)
class Exported:
    """What was written: the file, its bytes with what lies beside it, and its inputs by name with their shapes."""

    path: Path
    nbytes: int
    inputs: dict[str, tuple[int | str, ...]]


def export_onnx(
    model: CompressedModule | Program,
    folder: str | Path,
    *,
    weights: str = "w4-fold",
    scales: str = "tensor",
    component: Component | None = None,
) -> Exported:
    """Write `folder`/COMPONENT/model.onnx with config.json beside it, and the scheduler: what `ORTDiffusionPipeline` reads.

    model      compressed, or a program as it was captured; sizes that were free in the program are free in the file
    weights    "w4-fold" (4 bits in the file, bytes once onnxruntime >= 1.24 has loaded it), "w4-nbits", "w8a8", or "fp32"
    scales     "tensor" or "row": of the inputs of linears, which are quantized as they come
    component  where it belongs and what its results are called; by default what the model's class name tells

    Convolutions take fixed scales where the recipe observed ranges, and find them as they go where it did not.
    Raises ExportError for an unknown choice, and with a line for each node that can't be written; then nothing is written.
    """
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ExportError(f"{folder} is a file: choose the name of a folder")
    program = model.program if isinstance(model, CompressedModule) else model
    component = component or component_of(program)
    graph = onnx_model(program, weights, scales)
    if component.scalar_time:
        _take_one_time(graph)
    _shorten_inputs(graph)
    _rename(graph.graph.inputs, component.inputs)
    _rename(graph.graph.outputs, component.outputs)
    path = Path(folder) / component.folder
    nbytes = _written(path, lambda work: _save(graph, program, work))
    if program.sampler:
        _written(Path(folder) / "scheduler", lambda work: _dump(work / "scheduler_config.json", dict(program.sampler or {})))
    inputs = {str(value.name): _sizes(value) for value in graph.graph.inputs}
    return Exported(path / MODEL, nbytes, inputs)


def onnx_model(program: Program, weights: str = "w4-fold", scales: str = "tensor") -> ir.Model:
    """`program` as an onnx_ir model for onnxruntime's CPU provider. Raises ExportError."""
    try:
        from aquatint.compiler.onnx_graph import onnx_graph
        from aquatint.runtime.ort.lower import lower, refusals
        from aquatint.runtime.ort.narrow import narrow
        from aquatint.runtime.ort.options import OrtOptions
    except ModuleNotFoundError as error:
        raise ExportError(f"{NEEDED} ({error})") from error
    try:
        options = OrtOptions(weights, scales)
    except ValueError as error:
        raise ExportError(str(error)) from None
    graph = onnx_graph(program)
    if found := refusals(graph):
        raise ExportError("\n  ".join([f"{program.name} can't be written for onnxruntime:", *found]))
    lower(graph, options, program.ranges)
    narrow(graph)
    graph.producer_name = "aquatint"
    return graph


def _rename(values: Sequence[ir.Value], names: tuple[str, ...]) -> None:
    for value, name in zip(values, names, strict=False):
        value.name = name


def _shorten_inputs(graph: ir.Model) -> None:
    names = short_names([str(value.name) for value in graph.graph.inputs])
    for value, name in zip(graph.graph.inputs, names, strict=True):
        value.name = name


def _take_one_time(graph: ir.Model) -> None:
    """`timestep` (B,) becomes a scalar input that is expanded to the batch."""
    import onnx_ir as ir

    inner = graph.graph
    times = next((v for v in inner.inputs if v.name == "timestep"), None)
    if times is None or times.shape is None or len(times.shape) != 1:
        return
    scalar = ir.Value(name="timestep", shape=ir.Shape([]), type=times.type)
    batch = ir.node("Shape", [inner.inputs[0]], {"start": 0, "end": 1}, num_outputs=1)
    expand = ir.node("Expand", [scalar, batch.outputs[0]], num_outputs=1)
    ir.convenience.replace_all_uses_with(times, expand.outputs[0])
    expand.outputs[0].shape, expand.outputs[0].type = times.shape, times.type
    times.name, batch.outputs[0].name, expand.outputs[0].name = None, "batch", "timestep.expanded"
    inner.inputs[inner.inputs.index(times)] = scalar
    inner.insert_before(inner[0], [batch, expand])


def _save(graph: ir.Model, program: Program, work: Path) -> None:
    import onnx_ir as ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    ClearMetadataAndDocStringPass()(graph)
    inner = [value for node in graph.graph for value in node.outputs if not value.is_graph_output()]
    for place, value in enumerate(inner):  # long names and sizes as formulas are a tenth of a small file; nodes tell the site
        value.name, value.shape, value.type = f"v{place}", None, None
    size = sum(value.const_value.nbytes for value in graph.graph.initializers.values() if value.const_value is not None)
    ir.save(graph, work / MODEL, external_data=DATA if size > LARGEST_FILE else None)
    _dump(work / CONFIG, {**program.config, "_class_name": program.name})


def _dump(path: Path, data: dict[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, sort_keys=True) + "\n")


def _written(folder: Path, write: Callable[[Path], None]) -> int:
    """Have `write` fill a new folder and put it at `folder`; the bytes of its files. What was there stays if it fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        write(work)
        work.chmod(0o755)
        nbytes = sum(file.stat().st_size for file in work.iterdir())
        folder.mkdir(exist_ok=True)
        for file in sorted(work.iterdir()):
            os.replace(file, folder / file.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return nbytes


def _sizes(value: ir.Value) -> tuple[int | str, ...]:
    return tuple(s if isinstance(s, int) else str(s.value) for s in value.shape or ())
