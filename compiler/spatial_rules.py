"""What each operator does to the places of an image; see compiler/spatial.py. What has no rule loses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

from torch import fx

from aquatint.compiler.layout import ROW, WHOLE, Layout, Mark, Seeing
from aquatint.compiler.regions import Reach
from aquatint.runtime.ops import name_of

Found = tuple[Layout | None, Seeing] | None
Rule = Callable[["Reader", fx.Node], Found]


@dataclass(frozen=True)
class Reader:
    """What is known so far: shapes by name, and layouts."""

    shapes: dict[str, tuple[int, ...]]
    layouts: dict[fx.Node, Layout]

    def of(self, value: Any) -> Layout | None:
        return self.layouts.get(value) if isinstance(value, fx.Node) else None

    def shape(self, node: Any) -> tuple[int, ...]:
        return self.shapes.get(node.name, ()) if isinstance(node, fx.Node) else ()


def argument(node: fx.Node, place: int, name: str, default: Any = None) -> Any:
    """One argument of a call, by place or by name."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _each(reader: Reader, node: fx.Node) -> Found:
    """Numbers by numbers, with broadcasting."""
    shape, found = reader.shape(node), None
    for source in node.all_input_nodes:
        layout, given = reader.of(source), reader.shape(source)
        if layout is None:
            continue
        marks = (*[None] * (len(shape) - len(given)), *layout.marks)
        if any(m and shape[d] != given[d - len(shape)] for d, m in enumerate(marks)):
            return None
        aligned = Layout(layout.grid, marks)
        if found not in (None, aligned):
            return None
        found = aligned
    return (found, ROW) if found and all(_fits(found, shape, reader.shape(n)) for n in node.all_input_nodes) else None


def _fits(layout: Layout, shape: tuple[int, ...], given: tuple[int, ...]) -> bool:
    """Has an operand all of the places, or none of them?"""
    sizes = [given[d - len(shape)] for d in layout.axes if d - len(shape) >= -len(given)]
    return all(s == 1 for s in sizes) or sizes == [shape[d] for d in layout.axes]


def _view(reader: Reader, node: fx.Node) -> Found:
    layout = reader.of(node.args[0])
    found = layout and regroup(layout, reader.shape(node.args[0]), reader.shape(node))
    return (found, ROW) if found else None


def regroup(layout: Layout, before: tuple[int, ...], after: tuple[int, ...]) -> Layout | None:
    """The layout behind a view from one shape to another, or None where places are mixed with something else."""
    marks: list[Mark | None] = [None] * len(after)
    for old, new in _groups(before, after):
        if not _carry(layout, before, after, old, new, marks):
            return None
    return Layout(layout.grid, tuple(marks))


def _groups(before: tuple[int, ...], after: tuple[int, ...]) -> Iterator[tuple[range, range]]:
    """The smallest runs of axes that hold equally many numbers."""
    i = j = 0
    while i < len(before) or j < len(after):
        first_i, first_j, left, right = i, j, 1, 1
        if i < len(before):
            left, i = before[i], i + 1
        if j < len(after):
            right, j = after[j], j + 1
        while left != right:
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        yield range(first_i, i), range(first_j, j)


def _carry(
    layout: Layout, before: tuple[int, ...], after: tuple[int, ...], old: range, new: range, marks: list[Mark | None]
) -> bool:
    """What a group of axes that becomes another holds; False where that can't be said."""
    held = [layout.marks[d] for d in old]
    if not any(held):
        return True
    old_marks = [(m, before[d]) for d, m in zip(old, held, strict=True) if m or before[d] != 1]
    places = [d for d in new if after[d] != 1] or list(new)[:1]
    if any(m is None for m, _ in old_marks):
        return False
    if [after[d] for d in places] == [size for _, size in old_marks]:
        for d, (mark, _) in zip(places, old_marks, strict=True):
            marks[d] = mark
        return True
    whole = [m.axis for m, _ in old_marks if m]
    if whole == list(range(len(layout.grid))) and len(places) == 1:
        marks[places[0]] = Mark(None)
        return True
    if whole == [None] and layout.ends == (0, 0) and tuple(after[d] for d in places) == layout.grid:
        for axis, d in enumerate(places):
            marks[d] = Mark(axis)
        return True
    return False


def _permutation(node: fx.Node, rank: int) -> list[int]:
    name, order = (name_of(node.target) or "").split(".")[0], list(range(rank))
    if name == "aten::permute":
        return [d % rank for d in node.args[1]]  # type: ignore[union-attr,operator]
    a, b = (int(v) % rank for v in node.args[1:3])  # type: ignore[arg-type,call-overload]
    if name == "aten::transpose":
        order[a], order[b] = b, a
    else:
        order.insert(b, order.pop(a))
    return order


def _permute(reader: Reader, node: fx.Node) -> Found:
    layout = reader.of(node.args[0])
    return (layout.moved(_permutation(node, len(layout.marks))), ROW) if layout else None


def _einsum(reader: Reader, node: fx.Node) -> Found:
    """One that only permutes."""
    (source,), (before, _, after) = node.args[1], str(node.args[0]).replace(" ", "").partition("->")  # type: ignore[misc]
    layout = reader.of(source)
    if layout is None or sorted(before) != sorted(after) or len(set(before)) != len(before):
        return None
    return layout.moved([before.index(c) for c in after]), ROW


def _along(place: int, name: str, default: Any) -> Rule:
    """Operators that work along some axes, which hold no places, and may drop them."""

    def rule(reader: Reader, node: fx.Node) -> Found:
        source = node.args[0][0] if isinstance(node.args[0], (list, tuple)) else node.args[0]
        layout, given = reader.of(source), argument(node, place, name, default)
        if layout is None or given is None:
            return None
        rank = len(layout.marks)
        axes = [d % rank for d in (given if isinstance(given, (list, tuple)) else [given])]
        if any(layout.marks[d] for d in axes):
            return None
        shape = reader.shape(node)
        dropped = axes if shape and len(shape) == rank - len(axes) else ()
        return replace(layout, marks=tuple(m for d, m in enumerate(layout.marks) if d not in dropped)), ROW

    return rule


def _stack(reader: Reader, node: fx.Node) -> Found:
    layouts = [reader.of(p) for p in node.args[0]]  # type: ignore[union-attr]
    if any(layout is None or layout != layouts[0] for layout in layouts) or layouts[0] is None:
        return None
    marks = list(layouts[0].marks)
    marks.insert(int(argument(node, 1, "dim", 0)) % (len(marks) + 1), None)
    return replace(layouts[0], marks=tuple(marks)), ROW


def _pad(reader: Reader, node: fx.Node) -> Found:
    """Of axes that hold no places."""
    layout, widths = reader.of(node.args[0]), list(node.args[1])  # type: ignore[arg-type]
    if layout is None:
        return None
    widened = [-1 - i // 2 for i, width in enumerate(widths) if width != 0]
    return None if any(layout.marks[d] for d in widened) else (layout, ROW)


def _unbind(reader: Reader, node: fx.Node) -> Found:
    layout, axis = reader.of(node.args[0]), int(argument(node, 1, "dim", 0))
    if layout is None or layout.marks[axis]:
        return None
    axis %= len(layout.marks)
    return replace(layout, marks=tuple(m for d, m in enumerate(layout.marks) if d != axis)), ROW


def _cat(reader: Reader, node: fx.Node) -> Found:
    """Along channels; or places with others before and behind them."""
    parts: Sequence[Any] = node.args[0]  # type: ignore[assignment]
    layouts = [reader.of(p) for p in parts]
    placed = [layout for layout in layouts if layout]
    axis = int(argument(node, 1, "dim", 0)) % len(reader.shape(node))
    if not placed or any(layout != placed[0] for layout in placed):
        return None
    if placed[0].marks[axis] is None:
        return placed[0], ROW  # what has no layout is taken by places
    mark = placed[0].marks[axis]
    if len(placed) != 1 or mark is None or mark.axis is not None:
        return None
    at = next(i for i, layout in enumerate(layouts) if layout)
    lead, trail = (sum(reader.shape(p)[axis] for p in some) for some in (parts[:at], parts[at + 1 :]))
    marks = list(placed[0].marks)
    marks[axis] = replace(mark, lead=mark.lead + lead, trail=mark.trail + trail)
    return Layout(placed[0].grid, tuple(marks)), ROW


def _slice(reader: Reader, node: fx.Node) -> Found:
    """Along channels; or of a sequence all places of the grid, or all those before or behind it."""
    source, axis = node.args[0], int(argument(node, 1, "dim", 0))
    layout, size, kept = reader.of(source), reader.shape(source)[axis], reader.shape(node)[axis]
    if layout is None:
        return None
    if layout.marks[axis] is None:
        return layout, ROW
    if argument(node, 4, "step", 1) != 1:
        return None
    start, end = argument(node, 2, "start"), argument(node, 3, "end")
    from_start = start in (0, None)
    to_end = not isinstance(end, fx.Node) and (end is None or end >= size)
    if not (from_start or to_end or isinstance(start, int)):
        return None
    return _part(layout, axis, 0 if from_start else size - kept if to_end else start % size, kept)


def _part(layout: Layout, axis: int, begin: int, count: int) -> Found:
    """What a run of a sequence's places is: its grid, or what stands before or behind it."""
    mark, inner = layout.marks[axis], prod(layout.grid)
    if mark is None or mark.axis is not None:
        return None
    if (begin, count) == (mark.lead, inner):
        marks = list(layout.marks)
        marks[axis] = Mark(None)
        return replace(layout, marks=tuple(marks)), Seeing("grid")
    if (begin, count) == (0, mark.lead):
        return None, Seeing("lead")
    return (None, Seeing("trail")) if (begin, count) == (mark.lead + inner, mark.trail) else None


def _item(reader: Reader, node: fx.Node) -> Found:
    """One of several results; of a sequence that was split, see `_slice`."""
    source, place = node.args
    layout = reader.of(source)
    if layout is not None:
        return layout, ROW
    if not name_of(source.target).startswith("aten::split_with_sizes"):  # type: ignore[union-attr]
        return None
    whole = source.args[0]  # type: ignore[union-attr]
    layout, axis = reader.of(whole), int(argument(source, 2, "dim", 0))  # type: ignore[arg-type]
    if layout is None or layout.marks[axis] is None:
        return None
    parts = {n.args[1]: reader.shape(n)[axis] for n in source.users}  # type: ignore[union-attr]
    count, begin = parts[place], sum(parts.get(i, 0) for i in range(place))  # type: ignore[call-overload,arg-type]
    return _part(layout, axis, begin, count) if all(i in parts for i in range(place)) else None  # type: ignore[arg-type]


def _rows(reader: Reader, node: fx.Node) -> Found:
    """Along the last axes."""
    layout = reader.of(node.args[0])
    if layout is None:
        return None
    name = name_of(node.target) or ""
    count = len(node.args[1]) if name.startswith(("aten::layer_norm", "aten::rms_norm")) else 1  # type: ignore[arg-type]
    return None if any(layout.marks[-count:]) else (layout, ROW)


def _quantize(reader: Reader, node: fx.Node) -> Found:
    layout, axis = reader.of(node.args[0]), int(node.kwargs["axis"])  # type: ignore[arg-type]
    if layout is None or layout.marks[axis]:
        return None
    order = list(range(len(layout.marks)))
    order.append(order.pop(axis))
    return layout.moved(order), ROW


def pair(value: Any) -> tuple[int, int]:
    """For height and width, where one number may stand for both."""
    return (value, value) if isinstance(value, int) else (tuple(value) * 2)[:2]  # type: ignore[return-value]


def unpadded(node: Any) -> tuple[Any, tuple[int, int]]:
    """What a convolution reads, where zeros were put around it: the image, and how many above it and to its left."""
    if not (isinstance(node, fx.Node) and (name_of(node.target) or "").startswith("aten::pad")):
        return node, (0, 0)
    widths, mode, value = node.args[1], argument(node, 2, "mode", "constant"), argument(node, 3, "value")
    plain = mode == "constant" and not value and len(widths) == 4 and min(widths) >= 0  # type: ignore[arg-type,type-var]
    return (node.args[0], (widths[2], widths[0])) if plain else (node, (0, 0))  # type: ignore[index,return-value]


def _convolution(reader: Reader, node: fx.Node) -> Found:
    source, before = unpadded(node.args[0])
    layout, shape = reader.of(source), reader.shape(node)
    ours = not name_of(node.target).startswith("aten")  # type: ignore[union-attr]
    if layout is None or len(layout.grid) != 2 or len(shape) != 4:
        return None
    weight = node.args[2] if name_of(node.target) == "aquatint::conv2d" else node.args[1]
    sizes = reader.shape(weight)
    kernel = sizes[1:3] if name_of(node.target) == "aquatint::conv2d" else sizes[2:4]
    names = (("stride", 3, 1), ("padding", 4, 0), ("dilation", 5, 1))
    stride, padding, dilation = (
        pair(node.kwargs[n] if ours else argument(node, place, n, default)) for n, place, default in names
    )
    around = (padding[0] + before[0], padding[1] + before[1])
    reach = Reach.of_convolution(layout.grid, shape[2:], kernel, stride, around, dilation)  # type: ignore[arg-type]
    pointwise = kernel == (1, 1) and stride == (1, 1) and source is node.args[0] and padding == (0, 0)
    return Layout(shape[2:], (None, None, Mark(0), Mark(1))), ROW if pointwise else Seeing("reach", reach)


def _enlarge(reader: Reader, node: fx.Node) -> Found:
    layout, grid = reader.of(node.args[0]), reader.shape(node)[2:]
    if layout is None or any(t % s for s, t in zip(layout.grid, grid, strict=True)):
        return None
    reach = Reach.of_enlargement(layout.grid, grid)
    return Layout(grid, layout.marks), Seeing("reach", reach)


def _gather_pixels(reader: Reader, node: fx.Node) -> Found:
    """Pixel unshuffle: a place sees those that it is made of."""
    layout, grid = reader.of(node.args[0]), reader.shape(node)[2:]
    if layout is None or len(grid) != 2:
        return None
    factor = pair(node.args[1])
    reach = Reach.of_convolution(layout.grid, grid, factor, factor, (0, 0), (1, 1))  # type: ignore[arg-type]
    return Layout(grid, layout.marks), Seeing("reach", reach)


def _resized(reader: Reader, node: fx.Node) -> Found:
    """Computed whole; its result is an image, or a video, again."""
    layout, grid = reader.of(node.args[0]), reader.shape(node)[2:]
    plain = layout and layout.marks[:2] == (None, None) and len(layout.grid) == len(grid)
    return (Layout(grid, layout.marks), WHOLE) if layout and plain else None


def _attention(reader: Reader, node: fx.Node) -> Found:
    """Queries at some places see all keys and values."""
    layout = reader.of(node.args[0])
    masked = argument(node, 3, "attn_mask") is not None or argument(node, 5, "is_causal", False)
    return None if layout is None or masked or len(layout.axes) != 1 or layout.marks[-1] else (layout, ROW)


def _matmul(reader: Reader, node: fx.Node) -> Found:
    """Where one operand has places and does not sum over them."""
    (a, b), layouts = node.args[:2], [reader.of(n) for n in node.args[:2]]
    if layouts[0] and not layouts[1] and not layouts[0].marks[-1] and len(reader.shape(b)) == len(reader.shape(a)):
        return layouts[0], ROW
    if layouts[1] and not layouts[0] and not layouts[1].marks[-2] and len(reader.shape(b)) == len(reader.shape(a)):
        return layouts[1], ROW
    return None


def _rowwise_matmul(reader: Reader, node: fx.Node) -> Found:
    layout = reader.of(node.args[0])
    return None if layout is None or layout.marks[-1] or reader.of(node.args[1]) else (layout, ROW)


EACH = (
    "add sub mul div rsub silu gelu relu relu6 sigmoid tanh exp log sin cos neg abs pow rsqrt sqrt square reciprocal clamp to "
    "_to_copy where maximum minimum addcmul erf softplus leaky_relu hardswish hardsigmoid mish elu lerp round floor expand "
    "masked_fill empty_like copy"
)
VIEWS = "view reshape flatten unflatten squeeze unsqueeze _unsafe_view contiguous clone alias"
MOVES = "permute transpose movedim"

RULES: dict[str, Rule] = {
    **{f"aten::{name}": _each for name in EACH.split()},
    **{f"aten::{name}": _view for name in VIEWS.split()},
    **{f"aten::{name}": _permute for name in MOVES.split()},
    **{f"aten::{name}": _rows for name in ("linear", "layer_norm", "rms_norm")},
    **{f"aten::{name}": _along(1, "dim", None) for name in ("mean", "sum", "var", "amax", "softmax")},
    **{f"aten::{name}": _along(2, "dim", 0) for name in ("chunk", "split", "split_with_sizes", "repeat_interleave")},
    "aten::select": _along(1, "dim", None),
    "aten::type_as": _item,
    "aten::unbind": _unbind,
    "aten::stack": _stack,
    "aten::pad": _pad,
    "aten::slice_scatter": _along(2, "dim", 0),
    "aten::cat": _cat,
    "aten::concat": _cat,
    "aten::slice": _slice,
    "aten::einsum": _einsum,
    "aten::conv2d": _convolution,
    "aten::upsample_nearest2d": _enlarge,
    "aten::pixel_shuffle": _enlarge,
    "aten::pixel_unshuffle": _gather_pixels,
    **{f"aten::{name}": _resized for name in ("conv3d", "avg_pool2d", "group_norm")},
    "aten::scaled_dot_product_attention": _attention,
    "aquatint::attention": _attention,
    "aten::matmul": _matmul,
    "aquatint::quantize": _quantize,
    "aquatint::gemm": _rows,
    "aquatint::conv2d": _convolution,
    "aquatint::rowwise_linear": _rows,
    "aquatint::rowwise_matmul": _rowwise_matmul,
    "aquatint::rowwise_conv2d": _convolution,
    "python::getitem": _item,
}  # fmt: skip
