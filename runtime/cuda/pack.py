"""Weights in the order in which the CUDA kernels read them, made with torch on any device; see csrc/cuda/widen.h.

A fragment's row r = lane / 4 and byte 4 (lane % 4) are those of "Register fragments for wgmma" in the PTX ISA.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from aquatint.compiler.formats import unpack_nibbles

TILE = 128  # outputs, and inputs, of a block


def packed_bytes(codes: Tensor, outputs: int) -> Tensor:
    """Codes of 8 bits (N, K) -> blocks (N / 128, K / 128, 16384), zeros up to `outputs` rows and whole blocks."""
    return _fragments(_whole(codes, outputs)).contiguous().view(torch.uint8).flatten(2)


def packed_nibbles(codes: Tensor, scales: Tensor, outputs: int) -> Tensor:
    """Codes of 4 bits (N, K / 2) and group scales, whole numbers (N, K / 64) -> blocks (N / 128, K / 128, 8448)."""
    # -8..7 as 0..15; what is filled up is a zero too
    numbers = (_whole((unpack_nibbles(codes).to(torch.int8) << 4) >> 4, outputs) + 8).to(torch.uint8)
    fragments = _fragments(numbers)  # (.., group, step, thread, register, 4)
    near, far = fragments[..., :2, :], fragments[..., 2:, :]
    words = (near | far << 4).unflatten(3, (2, 2)).transpose(4, 5)  # two steps are 16 bytes of a thread
    groups = F.pad(scales, (0, -scales.shape[1] % 2, 0, outputs - len(scales)), value=1)
    # rows r and r + 8 of the first 64 along K, then of the second, for each warp's rows r
    by_row = groups.view(-1, 2, 4, 2, 8, groups.shape[1] // 2, 2).permute(0, 5, 1, 2, 4, 6, 3)
    return torch.cat([words.flatten(2), by_row.flatten(2)], -1).contiguous()


def packed_groups(codes: Tensor, scales: Tensor, outputs: int) -> Tensor:
    """Codes of 4 bits (N, K / 2) and their groups' scales (N, K / 64) -> blocks (N / 128, K / 256, 17408) of bytes.

    For products of 4 by 4 bits, "Matrix Fragments for mma.m16n8k64": see csrc/cuda/operands_sm80.h.
    """
    groups = F.pad(scales.bfloat16(), (0, -scales.shape[1] % 4, 0, outputs - len(scales)))
    by_row = groups.view(-1, 2, 4, 2, 8, groups.shape[1] // 4, 4).permute(0, 5, 6, 1, 2, 4, 3).contiguous().view(torch.uint8)
    return torch.cat([_nibble_fragments(codes, outputs), by_row.flatten(2)], -1).contiguous()


def packed_blocks(codes: Tensor, scales: Tensor, outputs: int) -> Tensor:
    """Codes of 4 bits (N, K / 2) and a scale of a byte for each 16, (N, K / 16) -> blocks (N / 128, K / 256, 18432) of bytes.

    For products that scale by themselves, "mma.m16n8k64 with block scaling": see csrc/cuda/product_sm120.cu.
    """
    groups = F.pad(scales, (0, -scales.shape[1] % 16, 0, outputs - len(scales)))
    # N: block, 64 outputs, part, half, row; K: block, 64, 16
    by_row = groups.view(-1, 2, 4, 2, 8, groups.shape[1] // 16, 4, 4).permute(0, 5, 6, 1, 2, 3, 4, 7)
    return torch.cat([_nibble_fragments(codes, outputs), by_row.flatten(2)], -1).contiguous()


def packed_up(up: Tensor, outputs: int, slices: int) -> Tensor:
    """An up-projection (N, r) -> (N / 64, slices, 128, 8), zeros beyond."""
    whole = F.pad(up, (0, 16 * slices - up.shape[1], 0, outputs - len(up)))
    # (N / 64, warp, row half, row, slice, rank half, quad, pair) -> .., slice, warp, row, quad, rank half, row half, pair
    return whole.view(-1, 4, 2, 8, slices, 2, 4, 2).permute(0, 4, 1, 3, 6, 5, 2, 7).reshape(-1, slices, 128, 8).contiguous()


def packed_down(down: Tensor, slices: int) -> Tensor:
    """A down-projection (r, K) -> (K / 16, slices, 32, 8), zeros beyond r; K is a multiple of 16."""
    whole = F.pad(down, (0, 0, 0, 16 * slices - len(down)))
    # (slice, tile, rank, K / 16, half, quad, pair) -> K / 16, slice, rank, quad, tile, half, pair
    return whole.view(slices, 2, 8, -1, 2, 4, 2).permute(3, 0, 2, 5, 1, 4, 6).reshape(-1, slices, 32, 8).contiguous()


def packed_down_by_lanes(down: Tensor, slices: int) -> Tensor:
    """A down-projection (r, K) -> (K / 32, 2 slices, 32, 8), zeros beyond: a lane reads eight neighbours."""
    whole = F.pad(down, (0, -down.shape[1] % 32, 0, 16 * slices - len(down)))
    return whole.view(2 * slices, 8, -1, 4, 8).permute(2, 0, 1, 3, 4).reshape(-1, 2 * slices, 32, 8).contiguous()


def _nibble_fragments(codes: Tensor, outputs: int) -> Tensor:
    """(N, K / 2) -> (N / 128, K / 256, 16384): by 64 along K, 64 outputs, 16 of them, lane, its four registers."""
    whole = F.pad(codes, (0, -codes.shape[1] % TILE, 0, outputs - len(codes)))
    # N: block, 64 outputs, part, half, row; K: block, group, half, quad, byte
    parts = whole.view(torch.uint8).view(-1, 2, 4, 2, 8, whole.shape[1] // TILE, 4, 2, 4, 4)
    return parts.permute(0, 5, 6, 1, 2, 4, 8, 7, 3, 9).reshape(-1, whole.shape[1] // TILE, TILE * TILE)


def _whole(codes: Tensor, outputs: int) -> Tensor:
    return F.pad(codes, (0, -codes.shape[1] % TILE, 0, outputs - len(codes)))


def _fragments(codes: Tensor) -> Tensor:
    """(N, K) -> (N / 128, K / 128, group, step, thread, register, 4): two warpgroups, four products of k = 32."""
    # N: block, group, warp, half, row; K: block, step, half, quad, byte
    parts = codes.view(-1, 2, 4, 2, 8, codes.shape[1] // TILE, 4, 2, 4, 4)
    return parts.permute(0, 5, 1, 6, 2, 4, 8, 7, 3, 9).reshape(-1, codes.shape[1] // TILE, 2, 4, 128, 4, 4)
