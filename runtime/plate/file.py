"""The file of a plate: safetensors with a single tensor, the memory that no run writes, and the program as its metadata.

Its bytes begin at a multiple of 64, so that they can be used where they lie in the mapped file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aquatint.compiler.errors import ArtifactError

FORMAT = "aquatint plate"
VERSION = 1  # of the program, of the kernels' calls and of how their weights lie
ALIGNMENT = 64  # bytes
CONSTANTS = "constants"
LENGTH = 8  # bytes of the header's length, which stand first


def write(path: Path, program: Mapping[str, Any], blocks: Iterable[np.ndarray], size: int) -> int:
    """Write the plate `path` and give its bytes; `blocks` have `size` bytes together."""
    metadata = {"format": FORMAT, "version": str(VERSION), "program": json.dumps(program, separators=(",", ":"))}
    tensor = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
    header = json.dumps({"__metadata__": metadata, CONSTANTS: tensor}).encode()
    header += b" " * (-(LENGTH + len(header)) % ALIGNMENT)
    with path.open("wb") as stream:
        stream.write(len(header).to_bytes(LENGTH, "little") + header)
        for block in blocks:
            stream.write(block.data)
    return LENGTH + len(header) + size


def read(path: Path) -> tuple[dict[str, Any], np.ndarray]:
    """The program, and the mapped constants. Raises ArtifactError naming the file and the fault."""
    try:
        mapped = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path} can't be read: {error}") from error
    begin = LENGTH + int.from_bytes(mapped[:LENGTH].tobytes(), "little")
    try:
        header = json.loads(mapped[LENGTH:begin].tobytes())
        metadata, size = header["__metadata__"], header[CONSTANTS]["shape"][0]
        program = json.loads(metadata["program"])
    except (ValueError, KeyError, TypeError, IndexError):
        metadata, size, program = {}, 0, {}
    if metadata.get("format") != FORMAT:
        raise ArtifactError(f"{path} is no plate: export_plate writes them")
    if metadata.get("version") != str(VERSION):
        raise ArtifactError(
            f"{path} is a plate of version {metadata.get('version')}; this aquatint reads {VERSION}: make it anew"
        )
    if begin + size != len(mapped):
        raise ArtifactError(f"{path} has {len(mapped)} bytes where its header says {begin + size}: it was cut short")
    return program, mapped[begin:]
