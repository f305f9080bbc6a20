"""What may import what (DESIGN, section 4), and that the face stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LEAVES = {"aquatint.runtime.ops", "aquatint.compiler.formats"}


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{a.name}" if node.module == "aquatint.runtime" else node.module for a in node.names}
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
    return {name for name in found if name.startswith(("aquatint", "compiler", "passes", "runtime"))}


def files(room: str) -> list[Path]:
    return sorted((ROOT / room).glob("**/*.py"))


@pytest.mark.parametrize("path", files("passes"), ids=str)
def test_passes_know_the_compiler_only(path: Path) -> None:
    for name in imports_of(path):
        own_list = path.name in ("recipes.py", "__init__.py") and name.startswith("aquatint.passes.")
        assert name.startswith(("aquatint.compiler.", "aquatint.runtime.ops")) or name in LEAVES or own_list


@pytest.mark.parametrize("path", files("compiler"), ids=str)
def test_the_compiler_knows_no_pass_and_no_target(path: Path) -> None:
    for name in imports_of(path):
        assert name.startswith(("aquatint.compiler", "aquatint.runtime.ops")), name


@pytest.mark.parametrize("path", files("runtime"), ids=str)
def test_targets_know_operators_and_formats_only(path: Path) -> None:
    for name in imports_of(path):
        leaves = ("aquatint.compiler.formats", "aquatint.compiler.powers", "aquatint.compiler.errors")
        assert name.startswith(("aquatint.runtime", *leaves)), name


@pytest.mark.parametrize("path", [*files("compiler"), *files("passes"), *files("runtime")], ids=str)
def test_one_name_for_each_module(path: Path) -> None:
    assert not [n for n in imports_of(path) if not n.startswith("aquatint")], "import it as aquatint..."


def test_native_code_knows_neither_torch_nor_python() -> None:
    for path in (ROOT / "csrc").glob("**/*"):
        if path.suffix in (".h", ".cpp", ".cu", ".cuh"):
            assert not {"torch", "Python.h", "pybind11"} & {
                line.partition("<")[2].partition("/")[0] for line in _includes(path)
            }


def _includes(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line.startswith("#include")]


def test_import_is_light() -> None:
    code = "import aquatint, sys; print([m for m in ('torch', 'diffusers', 'numpy') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_links_lead_to_the_rooms() -> None:
    for room in ("compiler", "passes", "runtime"):
        assert (ROOT / "aquatint" / room / "__init__.py").samefile(ROOT / room / "__init__.py")


def test_public_names_are_there() -> None:
    import aquatint

    for name in aquatint.__all__:
        assert getattr(aquatint, name) is not None
        assert not (ROOT / "aquatint" / f"{name}.py").exists(), "whoever imports the module hides what is called like it"
    with pytest.raises(AttributeError, match="no attribute"):
        _ = aquatint.nothing
