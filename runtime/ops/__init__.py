"""The operator table: every operator that a program may hold.

PyTorch's own ATen operators keep PyTorch's meaning and are listed by name. Ours are declared once, here: a function of
`meanings` or `sparse` is the meaning, and its signature the schema.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from aquatint.runtime.ops import meanings, sparse

# In an ONNX graph our operators stand in a domain of their own, and with them plain attention, which ATen has and ONNX has not.
DOMAIN, ATTENTION = "aquatint", "attention"


EPILOGUE = ("activation", "gate", "residual")  # what a product does with its result, in this order


class Slot:
    """In the arguments of a call that is being lowered: a value that is known only at run time."""


def filled(values: Sequence[Any], varying: Sequence[Any]) -> list[Any]:
    """`values` with each Slot replaced by the next of what varies."""
    given = iter(varying)
    return [next(given) if value is Slot else value for value in values]


@dataclass(frozen=True)
class Operator:
    """One operator of ours: `name` as printed, and `meaning`, which `__call__` runs."""

    name: str
    meaning: Callable[..., Any]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.meaning(*args, **kwargs)

    @property
    def __name__(self) -> str:
        return self.name.removeprefix("aquatint::")

    @property
    def schema(self) -> inspect.Signature:
        return inspect.signature(self.meaning)

    @property
    def tensors(self) -> list[str]:
        """The parameters that take a tensor, in order."""
        return [p.name for p in self.schema.parameters.values() if "Tensor" in str(p.annotation)]


quantize = Operator("aquatint::quantize", meanings.quantize)
group_affine = Operator("aquatint::group_affine", meanings.group_affine)
dequantize = Operator("aquatint::dequantize", meanings.dequantize)
gemm = Operator("aquatint::gemm", meanings.gemm)
gemm_quantize = Operator("aquatint::gemm_quantize", meanings.gemm_quantize)
conv2d = Operator("aquatint::conv2d", meanings.conv2d)
attention = Operator("aquatint::attention", meanings.attention)
rotary = Operator("aquatint::rotary", meanings.rotary)
angles = Operator("aquatint::angles", meanings.angles)
gemm_rotary = Operator("aquatint::gemm_rotary", meanings.gemm_rotary)

of_step = Operator("aquatint::of_step", meanings.of_step)

take = Operator("aquatint::take", sparse.take)
pick = Operator("aquatint::pick", sparse.pick)
recall = Operator("aquatint::recall", sparse.recall)
merge = Operator("aquatint::merge", sparse.merge)
moved_affine = Operator("aquatint::moved_affine", sparse.moved_affine)
rowwise_linear = Operator("aquatint::rowwise_linear", sparse.rowwise_linear)
rowwise_matmul = Operator("aquatint::rowwise_matmul", sparse.rowwise_matmul)
rowwise_conv2d = Operator("aquatint::rowwise_conv2d", sparse.rowwise_conv2d)

OURS: dict[str, Operator] = {
    op.name: op
    for op in (
        quantize, group_affine, dequantize, gemm, gemm_quantize, conv2d, attention, rotary, angles,
        gemm_rotary, of_step, take, pick, recall, merge, moved_affine, rowwise_linear, rowwise_matmul, rowwise_conv2d,
    )
}  # fmt: skip

PYTHON: dict[str, Callable[..., Any]] = {
    f"python::{f.__name__}": f
    for f in (
        operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv, operator.truediv, operator.mod,
        operator.neg, operator.pow, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
        min, max, torch.sym_max, torch.sym_min, torch.sym_int, torch.sym_float, torch.sym_not, torch.sym_sqrt,
    )
}  # fmt: skip

# Functional operators of ATen, whole (not decomposed). None reads a file, keeps a state or draws a random number.
ATEN_NAMES = frozenset(
    """
    abs adaptive_avg_pool2d add addcmul addmm alias all amax amin any arange argmax argmin atan2 avg_pool2d baddbmm
    bitwise_and bitwise_not bitwise_or bitwise_xor bmm broadcast_tensors broadcast_to cat cdist ceil celu chunk clamp clamp_max
    clamp_min clone complex concat constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d copy cos cosh cumsum detach diagonal div einsum elu embedding empty empty_like eq erf exp expand
    expand_as expm1 eye fill flatten flip floor floor_divide fmod full full_like gather ge gelu glu group_norm gt
    hardsigmoid hardswish hardtanh imag index index_put index_select instance_norm isfinite isinf isnan item layer_norm
    le leaky_relu lerp linalg_vector_norm linear linspace log log1p log2 log_softmax logical_and logical_not logical_or
    logsumexp lt masked_fill matmul max max_pool2d max_pool3d maximum mean meshgrid min minimum mish mm movedim mul
    nan_to_num narrow native_group_norm native_layer_norm ne neg new_empty new_full new_ones new_zeros norm numpy_T ones
    ones_like outer pad pad_sequence permute pixel_shuffle pixel_unshuffle polar pow prelu prod real reciprocal
    reflection_pad1d reflection_pad2d relu relu6 remainder repeat repeat_interleave replication_pad2d replication_pad3d
    reshape rms_norm roll round rsqrt rsub scalar_tensor scaled_dot_product_attention scatter select select_scatter
    sigmoid sign silu sin sinh slice slice_scatter _softmax softmax softplus sort split split_with_sizes sqrt square
    squeeze stack std sub sum sym_numel sym_size sym_stride t tan tanh tensor_split tile to _to_copy topk transpose tril
    triu true_divide trunc type_as unbind unflatten _unsafe_view unsqueeze upsample_bicubic2d upsample_bilinear2d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d upsample_trilinear3d var view
    view_as view_as_complex view_as_real _weight_norm where zeros zeros_like
    """.split()
)


def name_of(target: Any) -> str | None:
    """The printed name of a node's target (`aten::linear.default`), or None for what the table does not hold."""
    if isinstance(target, Operator):
        return target.name
    if isinstance(target, torch._ops.OpOverload):
        namespace, _, name = target._schema.name.partition("::")
        known = namespace == "aten" and name in ATEN_NAMES and not target._schema.is_mutable
        return f"aten::{name}.{target._overloadname}" if known else None
    name = f"python::{getattr(target, '__name__', '')}"
    return name if PYTHON.get(name) is target else None


def operator_named(name: str) -> Callable[..., Any]:
    """The operator printed as `name`; KeyError with the name when the table does not hold it."""
    if name in OURS:
        return OURS[name]
    if name in PYTHON:
        return PYTHON[name]
    packet, _, overload = name.removeprefix("aten::").partition(".")
    if not name.startswith("aten::") or packet not in ATEN_NAMES:
        raise KeyError(name)
    try:
        found = getattr(getattr(torch.ops.aten, packet), overload)
    except AttributeError:
        raise KeyError(name) from None
    if name_of(found) != name:
        raise KeyError(name)
    return found
