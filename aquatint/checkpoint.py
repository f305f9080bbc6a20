"""A model from disk: a diffusers component folder, a pipeline folder, or one safetensors file with its config."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from aquatint.calibrate import DENOISERS
from aquatint.compiler.errors import AquatintError
from aquatint.sampling import scheduler_from

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class CheckpointError(AquatintError):
    """A folder or file that no model can be read from; names it and says what is missing."""


@dataclass(frozen=True)
class Checkpoint:
    """A model in float32, its scheduler where one lies beside it, and the folder that it came from."""

    model: nn.Module
    scheduler: Any | None
    folder: Path


def open_checkpoint(path: str | Path, config: str | Path | None = None) -> Checkpoint:
    """The model at `path`. Only safetensors are read, never pickles. Raises CheckpointError.

    path    a folder with config.json and *.safetensors; a pipeline folder with such a folder inside; or a .safetensors file
    config  the config.json of a single file, when it does not lie beside it
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist")
    if path.is_file():
        _refuse_pickle(path)
        config_file = Path(config) if config else path.parent / "config.json"
        return _open(path.parent, config_file, [path])
    folder = _component(path)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickled = [f for f in folder.iterdir() if f.suffix in PICKLES]
        if pickled:
            _refuse_pickle(pickled[0])
        raise CheckpointError(f"{folder} has a config.json but no *.safetensors")
    plain = [f for f in files if ".fp16." not in f.name and ".bf16." not in f.name]  # variants of the same weights
    return _open(folder, folder / "config.json", plain or files)


def _component(path: Path) -> Path:
    if (path / "config.json").is_file():
        return path
    inside = [path / name for name in DENOISERS if (path / name / "config.json").is_file()]
    if inside:
        return inside[0]
    found = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
    raise CheckpointError(
        f"{path} is no model: neither config.json nor a folder {', '.join(DENOISERS)} is in it (found: {found})"
    )


def _refuse_pickle(path: Path) -> None:
    if path.suffix in PICKLES:
        raise CheckpointError(
            f"{path} is a pickle, which can run any code when it is opened: convert it to safetensors first "
            "(diffusers: model.save_pretrained(folder, safe_serialization=True))"
        )


def _open(folder: Path, config_file: Path, files: list[Path]) -> Checkpoint:
    config = _read(config_file)
    model = _build(config, config_file)
    state: dict[str, Tensor] = {}
    for file in files:
        try:
            state |= {k: v.float() if v.is_floating_point() else v for k, v in load_file(file).items()}
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{file} is not a safetensors file: {error}") from error
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{files[0]} does not fit {config_file}: {str(error).splitlines()[1].strip()}") from error
    model = model.eval()
    scheduler_file = folder.parent / "scheduler" / "scheduler_config.json"
    scheduler = scheduler_from(_read(scheduler_file)) if scheduler_file.is_file() else None
    return Checkpoint(model, scheduler, folder)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing: the model's configuration belongs there")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error


def _build(config: dict[str, Any], path: Path) -> nn.Module:
    import diffusers
    from diffusers.configuration_utils import ConfigMixin

    name = config.get("_class_name")
    kind = getattr(diffusers, str(name), None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.ModelMixin) and issubclass(kind, ConfigMixin)):
        raise CheckpointError(f"{path} asks for the class {name!r}, which this diffusers does not have")
    model = kind.from_config(config)
    assert isinstance(model, nn.Module)
    return model
