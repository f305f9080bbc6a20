"""A whole diffusers pipeline as the folder that `optimum.onnxruntime.ORTDiffusionPipeline` loads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aquatint.compiler.capture import Example, capture
from aquatint.compiler.errors import ExportError
from aquatint.compiler.module import CompressedModule
from aquatint.export import Component, Exported, component_of, export_onnx

Run = Callable[[Any, Tensor], dict[str, Tensor]]

WRITTEN = ("vae", "text_encoder")
FOR_HIDDEN_STATES = ("StableDiffusionXL", "StableDiffusion3", "Flux")  # pipelines that read inner layers of their text encoders


def export_pipeline(
    pipeline: Any, folder: str | Path, *, weights: str = "w4-fold", scales: str = "tensor"
) -> dict[str, Exported]:
    """Write `folder` with every part of `pipeline`: its compressed denoiser, its text encoders and its autoencoder.

    Only what `aquatint.optimize` compressed has fewer bits; the other parts are written in float32, as they are. Schedulers and
    tokenizers save themselves. Raises ExportError for a pipeline whose denoiser was not compressed, or with a part that can't
    be written.
    """
    parts = {name: part for name, part in pipeline.components.items() if part is not None}
    if not any(isinstance(part, CompressedModule) for part in parts.values()):
        raise ExportError(f"nothing in this {type(pipeline).__name__} is compressed: call aquatint.optimize(pipeline) first")
    for name, part in parts.items():
        if isinstance(part, nn.Module) and not isinstance(part, CompressedModule) and not name.startswith(WRITTEN):
            raise ExportError(
                f"{name} is a {type(part).__name__}, which ORTDiffusionPipeline has no place for: set pipeline.{name} = None"
            )
    folder = Path(folder)
    made: dict[str, Exported] = {}
    index: dict[str, Any] = {"_class_name": type(pipeline).__name__}
    for name in pipeline.components:
        part = parts.get(name)
        index[name] = _entry(pipeline, name, part)
        if isinstance(part, CompressedModule):
            place = dataclasses.replace(component_of(part.program), folder=name)
            made[name] = export_onnx(part, folder, weights=weights, scales=scales, component=place)
        elif name == "vae":
            made |= {place.folder: _plain(half, place, folder) for half, place in _autoencoder(part)}
        elif name.startswith("text_encoder"):
            tokenizer = parts[name.replace("text_encoder", "tokenizer")]
            inner = any(kind in type(pipeline).__name__ for kind in FOR_HIDDEN_STATES)
            made[name] = _plain(*_text_encoder(name, part, tokenizer, inner), folder)
        elif part is not None and hasattr(part, "save_pretrained"):
            part.save_pretrained(folder / name)
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n")
    return made


def _entry(pipeline: Any, name: str, part: Any) -> list[str | None]:
    """[library, class] as model_index.json lists a part."""
    if part is None:
        return [None, None]
    if isinstance(part, CompressedModule):
        return ["diffusers", part.program.name]
    return list(pipeline.config[name])


class _Part(nn.Module):
    """A part of a pipeline: one tensor in, like `example`, and tensors by name out; `config` is written beside it."""

    def __init__(self, whole: nn.Module, config: dict[str, Any], run: Run, example: Tensor) -> None:
        super().__init__()
        self.whole, self.config, self.run, self.example = whole, config, run, example

    def forward(self, given: Tensor) -> dict[str, Tensor]:
        return self.run(self.whole, given)


def _autoencoder(vae: Any) -> list[tuple[_Part, Component]]:
    """The two halves of an autoencoder."""
    config = dict(vae.config)
    side = 8 * 2 ** (len(config.get("block_out_channels", [0])) - 1)
    latents, images = torch.zeros(2, config["latent_channels"], 8, 8), torch.zeros(2, config["in_channels"], side, side)
    decoder = _Part(vae, config, lambda v, z: {"sample": v.decode(z, return_dict=False)[0]}, latents)
    encoder = _Part(vae, config, lambda v, x: {"latent_parameters": v.encode(x).latent_dist.parameters}, images)
    return [
        (decoder, Component("vae_decoder", ("latent_sample",), ("sample",))),
        (encoder, Component("vae_encoder", ("sample",), ("latent_parameters",))),
    ]


def _text_encoder(name: str, encoder: Any, tokenizer: Any, inner: bool) -> tuple[_Part, Component]:
    def run(encoder: Any, ids: Tensor) -> dict[str, Tensor]:
        output = encoder(ids, output_hidden_states=inner)
        found = {k: output[k] for k in ("text_embeds", "last_hidden_state", "pooler_output") if k in output}
        return found | {f"hidden_states.{i}": h for i, h in enumerate(output.get("hidden_states") or ())}

    ids = torch.zeros(2, tokenizer.model_max_length, dtype=torch.long)
    with torch.no_grad():
        names = tuple(run(encoder, ids))
    return _Part(encoder, encoder.config.to_dict(), run, ids), Component(name, ("input_ids",), names)


def _plain(part: _Part, place: Component, folder: Path) -> Exported:
    program = capture(part.eval(), Example((part.example,)), type(part.whole).__name__)
    return export_onnx(program, folder, weights="fp32", component=place)
