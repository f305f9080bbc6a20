"""aquatint: a compression compiler for diffusion models.

small = aquatint.optimize(model, calibrate=run)
small.save("out.aq")
small = aquatint.load("out.aq")
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aquatint.compiler.errors import AquatintError
    from aquatint.compiler.recipe import Recipe, Rule, Treatment
    from aquatint.compression import load, optimize
    from aquatint.distillation import distill
    from aquatint.editing import edit
    from aquatint.export import export_onnx
    from aquatint.passes.recipes import recipe_named
    from aquatint.pipelines import export_pipeline
    from aquatint.plates import export_plate
    from aquatint.runtime.plate.plate import Plate

__version__ = "0.1.0"
__all__ = [
    "AquatintError", "Plate", "Recipe", "Rule", "Treatment",
    "distill", "edit", "export_onnx", "export_pipeline", "export_plate", "load", "optimize", "recipe_named",
]  # fmt: skip

_here = Path(__file__).resolve().parent
if not (_here / "compiler").is_dir():  # a checkout where links do not survive
    __path__.append(str(_here.parent))

_HOMES = {
    "optimize": "aquatint.compression",
    "load": "aquatint.compression",
    "distill": "aquatint.distillation",
    "edit": "aquatint.editing",
    "export_onnx": "aquatint.export",
    "export_pipeline": "aquatint.pipelines",
    "export_plate": "aquatint.plates",
    "Plate": "aquatint.runtime.plate.plate",
    "recipe_named": "aquatint.passes.recipes",
    "Recipe": "aquatint.compiler.recipe",
    "Rule": "aquatint.compiler.recipe",
    "Treatment": "aquatint.compiler.recipe",
    "AquatintError": "aquatint.compiler.errors",
}


def __getattr__(name: str) -> Any:
    """Public names are imported when they are first used: `import aquatint` itself imports nothing heavy."""
    if name not in _HOMES:
        raise AttributeError(f"module 'aquatint' has no attribute {name!r}")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
