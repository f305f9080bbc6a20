"""Diffusers' models of video, sound and embeddings, and its autoencoders, as `diffusers_models` has those of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from benchmarks.diffusers_calls import (
    AXES,
    HEADS,
    Call,
    Tiny,
    angles,
    given,
    image,
    made,
    mask,
    noise_levels,
    pooled,
    steps,
    text,
)


class Decoder(nn.Module):
    """The half of an autoencoder that a sampling loop ends in."""

    def __init__(self, autoencoder: nn.Module) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latent: Tensor) -> Tensor:
        return self.autoencoder.decode(latent).sample  # type: ignore[operator]


def video(batch: int, frames: int, size: int, channels: int = 4) -> Tensor:
    return torch.randn(batch, channels, frames, size, size)


def unet_spatiotemporal() -> Tiny:
    model = diffusers.UNetSpatioTemporalConditionModel(
        sample_size=16, in_channels=8, block_out_channels=(64, 64), layers_per_block=1, cross_attention_dim=64,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        addition_time_embed_dim=16, projection_class_embeddings_input_dim=48, num_attention_heads=(2, 2), num_frames=3,
    )  # fmt: skip

    def call(batch: int, size: int) -> Call:
        return given(torch.randn(batch, 3, 8, size, size), steps(batch), text(batch, 64, 1), torch.full((batch, 3), 2.0))

    return Tiny(model, call, (16, 24))


def unet_motion() -> Tiny:
    model = diffusers.UNetMotionModel(
        sample_size=16, block_out_channels=(64, 64), layers_per_block=1, cross_attention_dim=64, num_attention_heads=2,
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"), motion_num_attention_heads=2,
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
    )  # fmt: skip
    return Tiny(model, lambda batch, size: given(video(batch, 3, size), steps(batch), text(batch * 3, 64)), (16, 24))


def unet3d() -> Tiny:
    model = diffusers.UNet3DConditionModel(
        sample_size=16, block_out_channels=(64, 64), layers_per_block=1, cross_attention_dim=64, attention_head_dim=8,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"), up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )  # fmt: skip
    return Tiny(model, lambda batch, size: given(video(batch, 3, size), steps(batch), text(batch, 64)), (16, 24))


def unet1d() -> Tiny:
    model = diffusers.UNet1DModel(sample_size=256, in_channels=2, out_channels=2, extra_in_channels=64)
    return Tiny(model, lambda batch, size: given(torch.randn(batch, 2, size), steps(batch)), (256, 512))


def prior() -> Tiny:
    model = diffusers.PriorTransformer(**HEADS, num_layers=2, embedding_dim=48, num_embeddings=7, additional_embeddings=4)
    return Tiny(
        model, lambda batch, _: given(pooled(batch, 48), steps(batch), pooled(batch, 48), text(batch), mask(batch)), (48,)
    )


def ltx(places: bool) -> Tiny:
    """With `places`, by coordinates; else by the number of frames, height and width, which a program takes as fixed."""
    model = diffusers.LTXVideoTransformer3DModel(
        **HEADS, in_channels=16, out_channels=16, cross_attention_dim=64, num_layers=2, caption_channels=48
    )

    def call(batch: int, size: int) -> Call:
        more: dict[str, Any] = {"num_frames": 2, "height": size, "width": size, "rope_interpolation_scale": (0.1, 32.0, 32.0)}
        if places:
            more = {"video_coords": torch.rand(batch, 3, 2 * size * size)}
        return given(torch.randn(batch, 2 * size * size, 16), text(batch), steps(batch), mask(batch), **more)

    return Tiny(model, call, (8, 12) if places else (8,))


def mochi() -> Tiny:
    model = diffusers.MochiTransformer3DModel(
        **HEADS, num_layers=2, pooled_projection_dim=32, in_channels=4, text_embed_dim=48, time_embed_dim=32,
        max_sequence_length=7,
    )  # fmt: skip
    return Tiny(model, lambda batch, size: given(video(batch, 2, size), text(batch), steps(batch), mask(batch)), (8, 12))


def cosmos(positions: str | None) -> Tiny:
    model = diffusers.CosmosTransformer3DModel(
        **HEADS, in_channels=4, out_channels=4, num_layers=2, mlp_ratio=2.0, text_embed_dim=48, adaln_lora_dim=16,
        max_size=(4, 32, 32), concat_padding_mask=False, extra_pos_embed_type=positions,
    )  # fmt: skip
    return Tiny(
        model,
        lambda batch, size: given(video(batch, 2, size), noise_levels(batch), text(batch), attention_mask=mask(batch), fps=30),
        (8, 12),
    )


def latte() -> Tiny:
    model = diffusers.LatteTransformer3DModel(
        **HEADS, in_channels=4, out_channels=8, num_layers=1, cross_attention_dim=64, attention_bias=True, sample_size=8,
        patch_size=2, activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
        norm_elementwise_affine=False, norm_eps=1e-6, caption_channels=48, video_length=3,
    )  # fmt: skip
    return Tiny(
        model,
        lambda batch, size: given(video(batch, 3, size), steps(batch), text(batch), enable_temporal_attentions=True),
        (8, 12),
    )


def allegro() -> Tiny:
    from diffusers.models.embeddings import get_3d_rotary_pos_embed_allegro

    model = diffusers.AllegroTransformer3DModel(
        num_attention_heads=2, attention_head_dim=48, in_channels=4, out_channels=4, num_layers=2, cross_attention_dim=96,
        sample_height=8, sample_width=8, sample_frames=2, caption_channels=48,
    )  # fmt: skip

    def call(batch: int, size: int) -> Call:
        half = size // 2
        rotary_parts = get_3d_rotary_pos_embed_allegro(48, [(0, 0), (half, half)], (half, half), 2)
        grid = torch.cartesian_prod(*(axis.long() for axis in rotary_parts[3:])).T.reshape(3, 1, -1)
        masks = {"attention_mask": torch.ones(batch, 2, size, size), "encoder_attention_mask": mask(batch).long()}
        rotary = (rotary_parts[:3], tuple(grid))
        return given(video(batch, 2, size), text(batch), steps(batch), **masks, image_rotary_emb=rotary)

    return Tiny(model, call, (8, 12))


def cogvideox(rotary: bool) -> Tiny:
    model = diffusers.CogVideoXTransformer3DModel(
        **HEADS, in_channels=4, out_channels=4, time_embed_dim=32, text_embed_dim=48, num_layers=2, sample_width=8,
        sample_height=8, sample_frames=9, max_text_seq_length=7, use_rotary_positional_embeddings=rotary,
    )  # fmt: skip

    def call(batch: int, size: int) -> Call:
        more = {"image_rotary_emb": angles(3 * (size // 2) ** 2)} if rotary else {}
        return given(torch.randn(batch, 3, 4, size, size), text(batch), steps(batch), **more)

    return Tiny(model, call, (8, 12))


def kandinsky5() -> Tiny:
    model = diffusers.Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=48, in_text_dim2=32, time_dim=32, out_visual_dim=4, model_dim=64, ff_dim=128,
        num_text_blocks=1, num_visual_blocks=2, axes_dims=AXES,
    )  # fmt: skip

    def call(batch: int, size: int) -> Call:
        places = [torch.arange(2), torch.arange(size // 2), torch.arange(size // 2)]
        frames = torch.randn(batch, 2, size, size, 4)
        return given(frames, text(batch), steps(batch).float(), pooled(batch), places, torch.arange(7))

    return Tiny(model, call, (8, 12))


def hunyuanvideo() -> Tiny:
    model = diffusers.HunyuanVideoTransformer3DModel(
        **HEADS, in_channels=4, out_channels=4, num_layers=1, num_single_layers=1, num_refiner_layers=1, mlp_ratio=2.0,
        text_embed_dim=48, pooled_projection_dim=32, rope_axes_dim=AXES,
    )  # fmt: skip

    def call(batch: int, size: int) -> Call:
        guidance = torch.full((batch,), 6.0)
        return given(video(batch, 2, size), steps(batch), text(batch), mask(batch).long(), pooled(batch), guidance=guidance)

    return Tiny(model, call, (8, 12))


def stable_audio() -> Tiny:
    from diffusers.models.embeddings import get_1d_rotary_pos_embed

    model = diffusers.StableAudioDiTModel(
        **HEADS, sample_size=64, in_channels=16, out_channels=16, num_layers=2, num_key_value_attention_heads=1,
        cross_attention_dim=32, time_proj_dim=32, global_states_input_dim=40, cross_attention_input_dim=48,
    )  # fmt: skip

    def call(batch: int, size: int) -> Call:
        rotary = get_1d_rotary_pos_embed(16, size + 1, use_real=True, repeat_interleave_real=False)
        return given(torch.randn(batch, 16, size), noise_levels(batch), text(batch), text(batch, 40, 1), rotary)

    return Tiny(model, call, (64, 96))


def vae_tiny() -> Tiny:
    channels, blocks = (64, 64), (1, 1)
    model = diffusers.AutoencoderTiny(
        encoder_block_out_channels=channels, decoder_block_out_channels=channels, num_encoder_blocks=blocks,
        num_decoder_blocks=blocks,
    )  # fmt: skip
    return Tiny(Decoder(model), lambda batch, size: given(image(batch, size)), (8, 12))


def vq(channels: int, norm: str) -> Tiny:
    model = diffusers.VQModel(
        block_out_channels=(64, 64), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels, num_vq_embeddings=32, vq_embed_dim=channels, norm_type=norm,
    )  # fmt: skip
    return Tiny(Decoder(model), lambda batch, size: given(image(batch, size, channels)), (8, 12))


def _wan(kind: type[nn.Module], frames: int) -> Tiny:
    model = kind(base_dim=32, z_dim=16, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True])
    return Tiny(Decoder(model), lambda batch, size: given(video(batch, frames, size, 16)), (4, 6))


def vae_wan() -> Tiny:
    return _wan(diffusers.AutoencoderKLWan, 2)


def vae_qwen() -> Tiny:
    return _wan(diffusers.AutoencoderKLQwenImage, 1)


def vae_ltx() -> Tiny:
    pair, once = (32, 64), (1, 1, 1)
    model = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=pair, decoder_block_out_channels=pair, layers_per_block=once,
        decoder_layers_per_block=once, spatio_temporal_scaling=(True, False), decoder_spatio_temporal_scaling=(True, False),
        decoder_inject_noise=(False,) * 3, downsample_type=("conv",) * 2, upsample_residual=(False,) * 2,
        upsample_factor=(1,) * 2, patch_size=2, down_block_types=("LTXVideoDownBlock3D",) * 2,
    )  # fmt: skip
    return Tiny(Decoder(model), lambda batch, size: given(video(batch, 2, size, 8)), (4, 6))


def vae_cogvideox() -> Tiny:
    model = made(
        diffusers.AutoencoderKLCogVideoX, block_out_channels=(32, 64),
        down_block_types=("CogVideoXDownBlock3D",) * 2, latent_channels=4, layers_per_block=1,
        up_block_types=("CogVideoXUpBlock3D",) * 2, norm_num_groups=16, temporal_compression_ratio=2,
    )  # fmt: skip
    return Tiny(Decoder(model), lambda batch, size: given(video(batch, 3, size)), (4, 6))


def vae_oobleck() -> Tiny:
    model = diffusers.AutoencoderOobleck(
        encoder_hidden_size=16, downsampling_ratios=[2, 4], channel_multiples=[1, 2], decoder_channels=16,
        decoder_input_channels=16, audio_channels=2,
    )  # fmt: skip
    return Tiny(Decoder(model), lambda batch, size: given(torch.randn(batch, 16, size)), (16, 24))


def _consistency() -> diffusers.ConsistencyDecoderVAE:
    return diffusers.ConsistencyDecoderVAE(
        encoder_block_out_channels=(32, 64), encoder_down_block_types=("DownEncoderBlock2D",) * 2, encoder_layers_per_block=1,
        decoder_block_out_channels=(32, 64), decoder_down_block_types=("ResnetDownsampleBlock2D",) * 2,
        decoder_up_block_types=("ResnetUpsampleBlock2D",) * 2, decoder_layers_per_block=1,
    )  # fmt: skip


def vae_consistency() -> Tiny:
    return Tiny(Decoder(_consistency()), lambda batch, size: given(image(batch, size)), (8, 12))


def vae_consistency_unet() -> Tiny:
    return Tiny(_consistency().decoder_unet, lambda batch, size: given(image(batch, size, 7), steps(batch)), (16, 24))


VIDEOS: dict[str, Callable[[], Tiny]] = {
    "AllegroTransformer3DModel": allegro,
    "CogVideoXTransformer3DModel": lambda: cogvideox(False),
    "CogVideoXTransformer3DModel, rotary": lambda: cogvideox(True),
    "CosmosTransformer3DModel": lambda: cosmos(None),
    "CosmosTransformer3DModel, learnable positions": lambda: cosmos("learnable"),
    "HunyuanVideoTransformer3DModel": hunyuanvideo,
    "Kandinsky5Transformer3DModel": kandinsky5,
    "LatteTransformer3DModel": latte,
    "LTXVideoTransformer3DModel": lambda: ltx(False),
    "LTXVideoTransformer3DModel, by coordinates": lambda: ltx(True),
    "MochiTransformer3DModel": mochi,
    "PriorTransformer": prior,
    "StableAudioDiTModel": stable_audio,
    "UNet1DModel": unet1d,
    "UNet3DConditionModel": unet3d,
    "UNetMotionModel": unet_motion,
    "UNetSpatioTemporalConditionModel": unet_spatiotemporal,
    "AutoencoderKLCogVideoX, decoder": vae_cogvideox,
    "AutoencoderKLLTXVideo, decoder": vae_ltx,
    "AutoencoderKLQwenImage, decoder": vae_qwen,
    "AutoencoderKLWan, decoder": vae_wan,
    "AutoencoderOobleck, decoder": vae_oobleck,
    "AutoencoderTiny, decoder": vae_tiny,
    "ConsistencyDecoderVAE, decoder": vae_consistency,
    "ConsistencyDecoderVAE, its U-Net": vae_consistency_unet,
    "VQModel, decoder": lambda: vq(3, "group"),
    "VQModel, decoder, spatial norms": lambda: vq(4, "spatial"),
}
