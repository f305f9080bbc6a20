"""What torch.export makes of a model: without decomposition, and without what it sets apart."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim

from aquatint.compiler.errors import CaptureError

AUTOCAST = "wrap_with_autocast"
# What runs a part of the graph in a mode, and which of its arguments that part is.
APART = {AUTOCAST: 4, "wrap_with_set_grad_enabled": 1}
OWN = ("compiler/capture.py", "compiler/exported.py")  # files that are no lines of the model


def exported_from(model: nn.Module, tensors: Sequence[Tensor]) -> torch.export.ExportedProgram:
    """`model` called with `tensors`, whose sizes above 1 are free where it leaves them so. Raises CaptureError."""
    free = tuple({i: Dim.AUTO for i, size in enumerate(t.shape) if size > 1} for t in tensors)
    try:
        exported = torch.export.export(model, tuple(tensors), dynamic_shapes=(free,), strict=False)
        if any(_mutates(n) for n in exported.graph.nodes):
            exported = exported.run_decompositions({})
    except Exception as error:
        where = _user_line(error)
        raise CaptureError(
            f"the model can't be captured: {_first_line(error)}\n  at {where}\n"
            "  A model is captured by torch.export: control flow must not depend on the values of tensors."
        ) from error
    _inline(exported.graph_module)
    return exported


def _inline(module: fx.GraphModule) -> None:
    """Bring back what torch.export sets apart: `with torch.autocast(.., enabled=False)`, `with torch.no_grad()`."""
    graph = module.graph
    for node in [n for n in graph.nodes if str(n.target) in APART]:
        place = APART[str(node.target)]
        if str(node.target) == AUTOCAST and node.args[2]:
            raise CaptureError("the model turns autocast on: compress it in the dtype that it is to run in, without autocast")
        part: Any = module.get_submodule(node.args[place].target)  # type: ignore[union-attr]
        _inline(part)
        inputs = [n for n in part.graph.nodes if n.op == "placeholder"]
        with graph.inserting_before(node):
            results: Any = graph.graph_copy(part.graph, dict(zip(inputs, node.args[place + 1 :], strict=True)))
        for user in list(node.users):
            user.replace_all_uses_with(results[user.args[1]])
            graph.erase_node(user)
        graph.erase_node(node)
    graph.eliminate_dead_code()  # what named the parts


def _mutates(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _user_line(error: Exception) -> str:
    """The innermost line of the model itself: from torch's own note in the message, else from the trace."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/torch/" not in f.filename and not f.filename.endswith(OWN)]
    if ours:
        return f"{ours[-1].filename}:{ours[-1].lineno} in {ours[-1].name}: {ours[-1].line}"
    found = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', str(error))
    outside = [f for f in found if "/torch/" not in f[0]] or found
    return f"{outside[-1][0]}:{outside[-1][1]} in {outside[-1][2]}" if outside else "an unknown line"
