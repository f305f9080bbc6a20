"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, as a program of their own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from aquatint.runtime.cpu.native import kernel_set

ROOT = Path(__file__).resolve().parent.parent.parent
AVX512 = "-mavx2 -mfma -mavx512f -mavx512bw -mavx512vl -mavx512dq"
VNNI = f"{AVX512} -mavx512vnni"
AMX = f"{VNNI} -mavx512bf16 -mamx-tile -mamx-int8 -mamx-bf16"
SETS = {"plain": "", "avx2": "-mavx2 -mfma", "avx512": AVX512, "avx512-vnni": VNNI, "avx512-amx": AMX}
CHECKED = "-O1 -fsanitize=address,undefined -fno-sanitize-recover=all"

pytestmark = pytest.mark.native


def test_no_kernel_leaves_its_buffers(tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    kernels = ROOT / "csrc" / "cpu"
    # plain first: of an inline function that several files bring, the linker keeps the first. What can't run here is only
    # there to be linked.
    sources = {kernels / f"{n.replace('-', '_')}.cpp": f"{f} {CHECKED if kernel_set(n) else '-O0'}" for n, f in SETS.items()}
    sources |= {
        kernels / "dispatch.cpp": f"-DAQUATINT_X86 -DAQUATINT_AMX {CHECKED}",
        ROOT / "tests" / "native" / "sanitize.cpp": CHECKED,
    }
    common = f"{compiler} -std=c++17 -w -ffp-contract=off -I{ROOT / 'csrc'}".split()
    objects = [str(tmp_path / f"{path.stem}.o") for path in sources]
    compiled = [
        subprocess.Popen([*common, *flags.split(), "-c", str(path), "-o", out])
        for (path, flags), out in zip(sources.items(), objects, strict=True)
    ]
    assert [job.wait() for job in compiled] == [0] * len(compiled)
    program = tmp_path / "sanitize"
    subprocess.run([*common, *CHECKED.split(), *objects, "-o", str(program)], check=True)
    done = subprocess.run([str(program), "60"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == [name for name in SETS if kernel_set(name)]
