"""The folder that export_pipeline writes loads and samples through optimum's own ORTDiffusionPipeline."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = ROOT / "build" / "peers" / "optimum" / "bin" / "python"


@pytest.mark.skipif(not PYTHON.is_file(), reason="optimum has an environment of its own: make build/peers/optimum/ready")
def test_stock_pipeline(tmp_path: Path) -> None:
    command = [str(PYTHON), "-m", "tests.onnx.stock_pipeline", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    found = re.search(r"(\w+) (\[.*\]) stock ([\d.]+) ours ([\d.]+)", done.stdout)
    assert found, done.stdout
    assert found[1] == "ORTStableDiffusionPipeline"
    assert found[2] == "['text_encoder', 'unet', 'vae_decoder', 'vae_encoder']"
    assert float(found[3]) > 32  # dB of the picture against that of the model in fp32, from the same latents
