"""What can be chosen when a program is written for onnxruntime."""

from __future__ import annotations

from dataclasses import dataclass

WEIGHTS = {
    "w4-fold": "4 bits in the file, bytes once it is loaded, the branch in them: the fastest",
    "w4-nbits": "4 bits in the file and in memory, by MatMulNBits with the branch apart: the smallest, slow for many rows",
    "w8a8": "bytes in the file: for onnxruntime before 1.24, and for other runtimes",
    "fp32": "plain floating point, nothing quantized: what the others are held against",
}
SCALES = {
    "tensor": "one scale for all rows of an input",
    "row": "a scale for each row, as the program has it: nearer, and slower by a third to a half",
}


@dataclass(frozen=True)
class OrtOptions:
    """weights: a name of WEIGHTS; scales: of SCALES, for the inputs of linears, which are quantized as they come."""

    weights: str = "w4-fold"
    scales: str = "tensor"

    def __post_init__(self) -> None:
        for given, known in ((self.weights, WEIGHTS), (self.scales, SCALES)):
            if given not in known:
                raise ValueError(f"no {given!r}; known: {', '.join(known)}")
