"""Every architecture that must go through, at a small random size: (name, model, call)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Call = tuple[tuple[Any, ...], dict[str, Any]]
SD = {
    "sample_size": 16, "block_out_channels": (64, 64), "layers_per_block": 1, "cross_attention_dim": 64,
    "attention_head_dim": 4, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
}  # fmt: skip
TIMES = torch.tensor([5, 9])


def _image(channels: int = 4, size: int = 16) -> Tensor:
    return torch.randn(2, channels, size, size)


def _text(width: int) -> Tensor:
    return torch.randn(2, 7, width)


def unet2d() -> tuple[nn.Module, Call]:
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=16, layers_per_block=1, block_out_channels=(64, 64), attention_head_dim=32,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    return model, ((_image(3), TIMES), {})


def sd() -> tuple[nn.Module, Call]:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**SD), ((_image(), TIMES, _text(64)), {})


def sdxl() -> tuple[nn.Module, Call]:
    from diffusers import UNet2DConditionModel

    changes = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"), "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2), "use_linear_projection": True, "addition_embed_type": "text_time",
        "addition_time_embed_dim": 16, "projection_class_embeddings_input_dim": 16 * 6 + 64,
    }  # fmt: skip
    more = {"added_cond_kwargs": {"text_embeds": torch.randn(2, 64), "time_ids": torch.randn(2, 6)}}
    return UNet2DConditionModel(**{**SD, **changes}), ((_image(), TIMES, _text(64)), more)


def controlnet() -> tuple[nn.Module, Call]:
    from diffusers import ControlNetModel

    model = ControlNetModel(
        block_out_channels=(64, 64), layers_per_block=1, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        cross_attention_dim=64, attention_head_dim=4, conditioning_embedding_out_channels=(16, 32),
    )  # fmt: skip
    for name, weight in model.named_parameters():  # its zero convolutions would make every output zero
        if not weight.any():
            nn.init.normal_(weight, std=0.05 if "weight" in name else 0.0)
    return model, ((_image(), TIMES, _text(64), _image(3, 32)), {"conditioning_scale": 0.7})


def dit() -> tuple[nn.Module, Call]:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=8, num_layers=2, sample_size=16,
        num_embeds_ada_norm=10,
    )  # fmt: skip
    return model, ((_image(), TIMES, torch.tensor([1, 2])), {})


def pixart() -> tuple[nn.Module, Call]:
    from diffusers import PixArtTransformer2DModel

    model = PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=8, num_layers=2, sample_size=16,
        cross_attention_dim=64, caption_channels=48, use_additional_conditions=False,
    )  # fmt: skip
    added = {"resolution": None, "aspect_ratio": None}
    return model, ((_image(),), {"encoder_hidden_states": _text(48), "timestep": TIMES, "added_cond_kwargs": added})


def sana() -> tuple[nn.Module, Call]:
    from diffusers import SanaTransformer2DModel

    model = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=32, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=32, cross_attention_dim=64, caption_channels=48, sample_size=16,
    )  # fmt: skip
    return model, ((_image(),), {"encoder_hidden_states": _text(48), "timestep": TIMES})


def sd3() -> tuple[nn.Module, Call]:
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=48, caption_projection_dim=64, pooled_projection_dim=32, out_channels=4, pos_embed_max_size=16,
    )  # fmt: skip
    return model, ((_image(), _text(48), torch.randn(2, 32), TIMES), {})


def flux() -> tuple[nn.Module, Call]:
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=32, num_attention_heads=2,
        joint_attention_dim=48, pooled_projection_dim=32, axes_dims_rope=(8, 12, 12),
    )  # fmt: skip
    more = {
        "encoder_hidden_states": _text(48), "pooled_projections": torch.randn(2, 32), "timestep": torch.rand(2),
        "img_ids": torch.randn(64, 3), "txt_ids": torch.randn(7, 3),
    }  # fmt: skip
    return model, ((torch.randn(2, 64, 16),), more)


def wan() -> tuple[nn.Module, Call]:
    from diffusers import WanTransformer3DModel

    model = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=32, in_channels=4, out_channels=4, text_dim=48, freq_dim=32, ffn_dim=128,
        num_layers=2, rope_max_seq_len=64,
    )  # fmt: skip
    return model, ((torch.randn(2, 4, 3, 8, 8), TIMES, _text(48)), {})


def kl() -> nn.Module:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(64, 64), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2
    )


def kl_decoder() -> tuple[nn.Module, Call]:
    return kl().decoder, ((_image(4, 8),), {})


def kl_encoder() -> tuple[nn.Module, Call]:
    return kl().encoder, ((_image(3, 32),), {})


def dc() -> nn.Module:
    from diffusers import AutoencoderDC

    return AutoencoderDC(
        in_channels=3, latent_channels=8, attention_head_dim=8, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(64, 64),
        decoder_block_out_channels=(64, 64), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
    )  # fmt: skip


def dc_decoder() -> tuple[nn.Module, Call]:
    return dc().decoder, ((_image(8, 4),), {})


def dc_encoder() -> tuple[nn.Module, Call]:
    return dc().encoder, ((_image(3, 32),), {})


class HandWritten(nn.Module):
    """A mixer that no library knows: an in-place update, a tied gain, a dict of outputs and a positional-only start."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(12, 64)
        self.mix = nn.ModuleList([nn.Linear(64, 192) for _ in range(2)])
        self.back = nn.ModuleList([nn.Linear(64, 64, bias=False) for _ in range(2)])
        self.gain = nn.Parameter(torch.ones(64))
        self.leave = nn.Linear(64, 12)

    def forward(self, x: Tensor, strength: float = 1.0, *, mask: Tensor | None = None) -> dict[str, Tensor]:
        h = self.enter(x) * self.gain
        for mix, back in zip(self.mix, self.back, strict=True):
            a, b, c = mix(h).chunk(3, dim=-1)
            a = torch.nn.functional.silu(a)
            a.mul_(b)
            h = h + back(a + c.mean(1, keepdim=True)) * strength
        if mask is not None:
            h = h.masked_fill(mask.unsqueeze(-1), 0.0)
        return {"out": self.leave(h), "hidden": h}


def auraflow() -> tuple[nn.Module, Call]:
    from diffusers import AuraFlowTransformer2DModel

    model = AuraFlowTransformer2DModel(
        sample_size=16, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=1, attention_head_dim=32,
        num_attention_heads=2, joint_attention_dim=48, caption_projection_dim=64, pos_embed_max_size=256,
    )  # fmt: skip
    return model, ((_image(),), {"encoder_hidden_states": _text(48), "timestep": torch.tensor([0.5, 0.9])})


def cascade() -> tuple[nn.Module, Call]:
    from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet

    model = StableCascadeUNet(
        in_channels=4, out_channels=4, timestep_ratio_embedding_dim=16, conditioning_dim=64, block_out_channels=(64,),
        num_attention_heads=(2,), down_num_layers_per_block=(1,), up_num_layers_per_block=(1,), clip_text_in_channels=48,
        down_blocks_repeat_mappers=(1,), up_blocks_repeat_mappers=(1,), kernel_size=3, clip_text_pooled_in_channels=48,
        clip_image_in_channels=40, clip_seq=2, switch_level=(), dropout=(0.1,), self_attn=True,
        block_types_per_layer=(("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock"),),
    )  # fmt: skip
    text = {"clip_text_pooled": torch.randn(2, 1, 48), "clip_text": _text(48), "clip_img": torch.randn(2, 1, 40)}
    return model, ((_image(),), {"timestep_ratio": torch.tensor([0.5, 0.9]), **text})


def zimage() -> tuple[nn.Module, Call]:
    """Lists of images and of texts; a part runs with autocast turned off; a parameter has a dash in its name."""
    from diffusers import ZImageTransformer2DModel

    model = ZImageTransformer2DModel(
        in_channels=4, dim=64, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=48, axes_dims=[8, 12, 12],
        axes_lens=[256, 64, 64],
    )  # fmt: skip
    images, texts = [torch.randn(4, 1, 16, 16) for _ in range(2)], [torch.randn(7, 48) for _ in range(2)]
    return model, ((images, torch.tensor([0.5, 0.9]), texts), {})


def hand_written() -> tuple[nn.Module, Call]:
    return HandWritten(), ((torch.randn(2, 10, 12),), {"strength": 0.5, "mask": torch.rand(2, 10) > 0.7})


ZOO: dict[str, Callable[[], tuple[nn.Module, Call]]] = {
    f.__name__: f
    for f in (
        unet2d,
        sd,
        sdxl,
        controlnet,
        dit,
        pixart,
        sana,
        sd3,
        flux,
        wan,
        auraflow,
        cascade,
        zimage,
        kl_decoder,
        dc_decoder,
        hand_written,
    )
}


ENCODERS: dict[str, Callable[[], tuple[nn.Module, Call]]] = {f.__name__: f for f in (kl_encoder, dc_encoder)}


def build(name: str) -> tuple[nn.Module, Call]:
    """The model and its call, always with the same numbers."""
    torch.manual_seed(7)
    model, call = (ZOO | ENCODERS)[name]()
    return model.eval(), call


def tensors_of(output: Any) -> list[Tensor]:
    """Every tensor of an output, in order."""
    if isinstance(output, Tensor):
        return [output]
    items = output.values() if isinstance(output, dict) else output
    return [t for item in items if item is not None for t in tensors_of(item)]
