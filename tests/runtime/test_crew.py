"""The native library's own threads, for a process that lends none, as a program of their own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.native
@pytest.mark.parametrize(("flags", "arguments"), [("-fsanitize=thread", []), ("", ["fork"])], ids=["raced", "forked"])
def test_every_task_is_done_once(tmp_path: Path, flags: str, arguments: list[str]) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    program, source = tmp_path / "crew", ROOT / "tests" / "native" / "crew.cpp"
    command = [compiler, *f"-std=c++17 -O1 -g -pthread {flags} -I{ROOT / 'csrc'}".split(), str(source), "-o", str(program)]
    subprocess.run(command, check=True)
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
