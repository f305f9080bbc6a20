"""Diffusers' models of images at a tiny random size, each with its call; `diffusers_videos` has the others.

A name is the class, and after a comma which of its forms. The forms that `tests/zoo.py` has are not here again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import nn

from benchmarks.diffusers_calls import (
    AXES,
    HEADS,
    JOINT,
    Call,
    Tiny,
    angles,
    given,
    image,
    made,
    mask,
    noise_levels,
    patches,
    places,
    pooled,
    steps,
    text,
)


def auraflow() -> Tiny:
    model = diffusers.AuraFlowTransformer2DModel(
        **HEADS, sample_size=16, in_channels=4, num_mmdit_layers=1, num_single_dit_layers=2, joint_attention_dim=48,
        caption_projection_dim=64, pos_embed_max_size=256,
    )  # fmt: skip
    return Tiny(
        model,
        lambda batch, size: given(image(batch, size), encoder_hidden_states=text(batch), timestep=noise_levels(batch)),
        (16, 24),
    )


def chroma(masked: bool) -> Tiny:
    model = diffusers.ChromaTransformer2DModel(
        **JOINT, in_channels=16, axes_dims_rope=AXES, approximator_num_channels=64, approximator_hidden_dim=64,
        approximator_layers=1,
    )  # fmt: skip

    def call(batch: int, size: int) -> Call:
        places_of = {"img_ids": places(size * size), "txt_ids": places(7)}
        kept = torch.cat([mask(batch), torch.ones(batch, size * size, dtype=torch.bool)], 1)
        more = {"attention_mask": kept} if masked else {}
        return given(patches(batch, size), text(batch), noise_levels(batch), **places_of, **more)

    return Tiny(model, call, (8, 12))


def _cogview(kind: type[nn.Module], **changes: Any) -> Tiny:
    model = kind(
        **HEADS, patch_size=2, in_channels=4, out_channels=4, num_layers=2, text_embed_dim=48, time_embed_dim=64,
        condition_dim=16, pos_embed_max_size=16, sample_size=16, **changes,
    )  # fmt: skip

    def call(batch: int, size: int) -> Call:
        pixels = torch.full((batch, 2), 128.0)
        return given(image(batch, size), text(batch), steps(batch), pixels, pixels, pixels * 0)

    return Tiny(model, call, (16, 24))


def cogview3plus() -> Tiny:
    return _cogview(diffusers.CogView3PlusTransformer2DModel)


def cogview4() -> Tiny:
    return _cogview(diffusers.CogView4Transformer2DModel, rope_axes_dim=(16, 16))


def hunyuandit() -> Tiny:
    model = diffusers.HunyuanDiT2DModel(
        **HEADS, in_channels=4, patch_size=2, sample_size=16, hidden_size=64, num_layers=4, mlp_ratio=2.0,
        cross_attention_dim=48, cross_attention_dim_t5=40, pooled_projection_dim=32, text_len=7, text_len_t5=9,
    )  # fmt: skip

    def call(batch: int, size: int) -> Call:
        texts = {
            "encoder_hidden_states": text(batch), "text_embedding_mask": mask(batch).long(),
            "encoder_hidden_states_t5": text(batch, 40, 9), "text_embedding_mask_t5": mask(batch, 9).long(),
        }  # fmt: skip
        style = {"image_meta_size": torch.full((batch, 6), 128.0), "style": torch.zeros(batch, dtype=torch.long)}
        rotary = angles((size // 2) ** 2)
        return given(image(batch, size), noise_levels(batch) * 900, **texts, **style, image_rotary_emb=rotary)

    return Tiny(model, call, (16, 24))


def lumina2() -> Tiny:
    model = diffusers.Lumina2Transformer2DModel(
        sample_size=16, in_channels=4, hidden_size=64, num_layers=2, num_refiner_layers=1, num_attention_heads=2,
        num_kv_heads=1, multiple_of=16, axes_dim_rope=AXES, axes_lens=(64, 64, 64), cap_feat_dim=48,
    )  # fmt: skip
    return Tiny(model, lambda batch, size: given(image(batch, size), noise_levels(batch), text(batch), mask(batch)), (16, 24))


def luminanext() -> Tiny:
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    model = diffusers.LuminaNextDiT2DModel(
        sample_size=16, in_channels=4, hidden_size=64, num_layers=2, num_attention_heads=2, num_kv_heads=1, multiple_of=16,
        cross_attention_dim=48,
    )  # fmt: skip
    rotary = get_2d_rotary_pos_embed_lumina(32, 384, 384, linear_factor=1.0, ntk_factor=1.0)
    more = {"image_rotary_emb": rotary, "cross_attention_kwargs": {}}
    return Tiny(
        model,
        lambda batch, size: given(image(batch, size), noise_levels(batch), text(batch), mask(batch).long(), **more),
        (16, 24),
    )


def hidream() -> Tiny:
    model = made(
        diffusers.HiDreamImageTransformer2DModel, **HEADS, patch_size=2, in_channels=4, out_channels=4, num_layers=1,
        num_single_layers=1, caption_channels=[48, 40],
        text_emb_dim=32, num_routed_experts=4, num_activated_experts=2, axes_dims_rope=AXES, max_resolution=(32, 32),
        llama_layers=[0, 1], force_inference_output=True,
    )  # fmt: skip

    def call(batch: int, size: int) -> Call:
        texts = {"encoder_hidden_states_t5": text(batch), "encoder_hidden_states_llama3": torch.randn(2, batch, 7, 40)}
        return given(image(batch, size), timesteps=steps(batch), **texts, pooled_embeds=pooled(batch))

    return Tiny(model, call, (16, 24))


def omnigen() -> Tiny:
    model = diffusers.OmniGenTransformer2DModel(
        in_channels=4, hidden_size=64, num_attention_heads=2, num_key_value_heads=2, intermediate_size=128, num_layers=2,
        pad_token_id=0, vocab_size=100, max_position_embeddings=1000, original_max_position_embeddings=1000,
        rope_scaling={"long_factor": [1.0] * 16, "short_factor": [1.0] * 16}, pos_embed_max_size=32, time_step_dim=64,
    )  # fmt: skip

    def call(batch: int, size: int) -> Call:
        count = 7 + 1 + (size // 2) ** 2
        words, order = torch.randint(0, 100, (batch, 7)), torch.arange(count)[None].repeat(batch, 1)
        return given(image(batch, size), noise_levels(batch), words, [], {}, torch.ones(batch, count, count), order)

    return Tiny(model, call, (16, 24))


def qwenimage(masked: bool) -> Tiny:
    model = diffusers.QwenImageTransformer2DModel(
        **HEADS, in_channels=16, out_channels=4, num_layers=2, joint_attention_dim=48, axes_dims_rope=AXES
    )

    def call(batch: int, size: int) -> Call:
        more: dict[str, Any] = {"encoder_hidden_states_mask": mask(batch)} if masked else {}
        more |= {"timestep": noise_levels(batch), "img_shapes": [[(1, size, size)]] * batch}
        return given(patches(batch, size), encoder_hidden_states=text(batch), **more)

    return Tiny(model, call, (8, 12))


def flux2() -> Tiny:
    model = diffusers.Flux2Transformer2DModel(
        **JOINT, in_channels=16, timestep_guidance_channels=32, axes_dims_rope=(8, 8, 8, 8)
    )

    def call(batch: int, size: int) -> Call:
        more = {"img_ids": places(size * size, 4), "txt_ids": places(7, 4), "guidance": torch.full((batch,), 3.5)}
        return given(patches(batch, size), text(batch), noise_levels(batch), **more)

    return Tiny(model, call, (8, 12))


def prx() -> Tiny:
    model = diffusers.PRXTransformer2DModel(
        in_channels=4, context_in_dim=48, hidden_size=64, mlp_ratio=2.0, num_heads=2, depth=2, axes_dim=[16, 16]
    )
    return Tiny(
        model,
        lambda batch, size: given(image(batch, size), noise_levels(batch), text(batch), attention_mask=mask(batch)),
        (16, 24),
    )


def bria() -> Tiny:
    model = diffusers.BriaTransformer2DModel(**JOINT, in_channels=16, axes_dims_rope=list(AXES))

    def call(batch: int, size: int) -> Call:
        more = {"img_ids": places(size * size), "txt_ids": places(7)}
        return given(patches(batch, size), encoder_hidden_states=text(batch), timestep=steps(batch), **more)

    return Tiny(model, call, (8, 12))


def hunyuanimage(glyphs: bool) -> Tiny:
    """With `glyphs`, a second text for the letters in an image."""
    model = diffusers.HunyuanImageTransformer2DModel(
        **HEADS, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, num_refiner_layers=1, mlp_ratio=2.0,
        text_embed_dim=48, text_embed_2_dim=40 if glyphs else None, rope_axes_dim=(16, 16),
    )  # fmt: skip

    def call(batch: int, size: int) -> Call:
        more = {"encoder_hidden_states_2": text(batch, 40, 5), "encoder_attention_mask_2": mask(batch, 5).long()}
        return given(image(batch, size), noise_levels(batch) * 900, text(batch), mask(batch).long(), **(more if glyphs else {}))

    return Tiny(model, call, (8, 12))


def pixart(*sizes: Any) -> Tiny:
    model = diffusers.PixArtTransformer2DModel(
        **HEADS, in_channels=4, out_channels=8, num_layers=2, sample_size=16, cross_attention_dim=64, caption_channels=48,
        use_additional_conditions=False,
    )  # fmt: skip
    more = {"added_cond_kwargs": {"resolution": None, "aspect_ratio": None}}
    return Tiny(model, lambda batch, size: given(image(batch, size), text(batch), steps(batch), **more), sizes)


def _sd3(kind: type[nn.Module], **changes: Any) -> nn.Module:
    return kind(
        **HEADS, sample_size=16, patch_size=2, in_channels=4, out_channels=4, num_layers=2, joint_attention_dim=48,
        caption_projection_dim=64, pooled_projection_dim=32, pos_embed_max_size=16, **changes,
    )  # fmt: skip


def sd35_medium() -> Tiny:
    model = _sd3(diffusers.SD3Transformer2DModel, dual_attention_layers=(0,), qk_norm="rms_norm")
    return Tiny(
        model, lambda batch, size: given(image(batch, size), text(batch), pooled(batch), steps(batch)), (16, 24, (16, 24))
    )


def sd3_controlnet() -> Tiny:
    model = _sd3(diffusers.SD3ControlNetModel)

    def call(batch: int, size: int) -> Call:
        texts = {"encoder_hidden_states": text(batch), "pooled_projections": pooled(batch)}
        return given(image(batch, size), image(batch, size), 0.7, **texts, timestep=steps(batch))

    return Tiny(model, call, (16, 24))


def flux_controlnet(modes: int | None) -> Tiny:
    model = made(
        diffusers.FluxControlNetModel, **{**JOINT, "num_single_layers": 1}, in_channels=16, pooled_projection_dim=32,
        axes_dims_rope=list(AXES), num_mode=modes,
    )  # fmt: skip

    def call(batch: int, size: int) -> Call:
        more: dict[str, Any] = {"controlnet_mode": torch.ones(batch, 1, dtype=torch.long)} if modes else {}
        more |= {"encoder_hidden_states": text(batch), "pooled_projections": pooled(batch), "timestep": noise_levels(batch)}
        more |= {"img_ids": places(size * size), "txt_ids": places(7)}
        return given(patches(batch, size), patches(batch, size), conditioning_scale=0.7, **more)

    return Tiny(model, call, (8, 12))


def t2i_adapter(kind: str, factor: int, blocks: int) -> Tiny:
    model = diffusers.T2IAdapter(3, channels=[64] * blocks, num_res_blocks=1, downscale_factor=factor, adapter_type=kind)
    return Tiny(model, lambda batch, size: given(image(batch, size, 3)), (64, 96))


def cascade_decoder() -> Tiny:
    from diffusers.models.unets.unet_stable_cascade import StableCascadeUNet

    blocks = ("SDCascadeResBlock", "SDCascadeTimestepBlock")
    model = made(
        StableCascadeUNet, in_channels=4, out_channels=4, timestep_ratio_embedding_dim=16, patch_size=2, conditioning_dim=64,
        block_out_channels=(64, 64), num_attention_heads=(0, 2), down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1), down_blocks_repeat_mappers=(1, 1), up_blocks_repeat_mappers=(2, 1),
        block_types_per_layer=(blocks, (*blocks, "SDCascadeAttnBlock")), clip_text_pooled_in_channels=48, clip_seq=2,
        effnet_in_channels=16, pixel_mapper_in_channels=3, timestep_conditioning_type=("sca",),
    )  # fmt: skip
    return Tiny(
        model,
        lambda batch, size: given(image(batch, size), noise_levels(batch), text(batch, 48, 1), effnet=image(batch, 6, 16)),
        (16, 24),
    )


def uvit2d() -> Tiny:
    model = diffusers.UVit2DModel(
        hidden_size=64, cond_embed_dim=64, micro_cond_encode_dim=16, micro_cond_embed_dim=80, encoder_hidden_size=48,
        vocab_size=72, codebook_size=64, in_channels=64, block_out_channels=64, num_res_blocks=1, block_num_heads=2,
        num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, sample_size=8,
    )  # fmt: skip

    def call(batch: int, size: int) -> Call:
        return given(torch.randint(0, 64, (batch, size, size)), text(batch), pooled(batch, 64), torch.full((batch, 5), 3.0))

    return Tiny(model, call, (8, 12))


def kandinsky3() -> Tiny:
    model = diffusers.Kandinsky3UNet(
        in_channels=4, time_embedding_dim=64, groups=16, attention_head_dim=32, layers_per_block=2,
        block_out_channels=(64, 128), cross_attention_dim=64, encoder_hid_dim=48,
    )  # fmt: skip
    return Tiny(model, lambda batch, size: given(image(batch, size), steps(batch), text(batch), mask(batch).float()), (16, 24))


IMAGES: dict[str, Callable[[], Tiny]] = {
    "AuraFlowTransformer2DModel": auraflow,
    "BriaTransformer2DModel": bria,
    "ChromaTransformer2DModel": lambda: chroma(False),
    "ChromaTransformer2DModel, masked": lambda: chroma(True),
    "CogView3PlusTransformer2DModel": cogview3plus,
    "CogView4Transformer2DModel": cogview4,
    "Flux2Transformer2DModel": flux2,
    "FluxControlNetModel": lambda: flux_controlnet(None),
    "FluxControlNetModel, union": lambda: flux_controlnet(3),
    "HiDreamImageTransformer2DModel": hidream,
    "HunyuanDiT2DModel": hunyuandit,
    "HunyuanImageTransformer2DModel": lambda: hunyuanimage(False),
    "HunyuanImageTransformer2DModel, with ByT5": lambda: hunyuanimage(True),
    "Kandinsky3UNet": kandinsky3,
    "Lumina2Transformer2DModel": lumina2,
    "LuminaNextDiT2DModel": luminanext,
    "OmniGenTransformer2DModel": omnigen,
    "PixArtTransformer2DModel": lambda: pixart(16, 24, (16, 24)),
    "PixArtTransformer2DModel, at another size": lambda: pixart(24, 16, (16, 24)),
    "PRXTransformer2DModel": prx,
    "QwenImageTransformer2DModel": lambda: qwenimage(False),
    "QwenImageTransformer2DModel, masked": lambda: qwenimage(True),
    "SD3ControlNetModel": sd3_controlnet,
    "SD3Transformer2DModel, 3.5 medium": sd35_medium,
    "StableCascadeUNet, decoder": cascade_decoder,
    "T2IAdapter": lambda: t2i_adapter("full_adapter", 8, 2),
    "T2IAdapter, of SDXL": lambda: t2i_adapter("full_adapter_xl", 16, 4),
    "UVit2DModel": uvit2d,
}
