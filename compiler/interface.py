"""How a call of the user's model becomes a flat list of tensors, and a flat list of results the user's output again."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from aquatint.compiler.errors import CaptureError, InputError

RETURN_DICT = "return_dict"  # every diffusers model has it: False asks for a plain tuple of the same tensors


@dataclass(frozen=True)
class InputSpec:
    """One tensor that a call brings.

    path    where in the call: `hidden_states`, `added_cond_kwargs.time_ids`
    dtype   "float32"; other floats are cast to it
    shape   ints, and symbols ("s0") for what may vary; a symbol means the same size everywhere
    vector  one entry a sample; a plain number or a 0-d tensor is accepted and stands for all samples
    example its sizes when the program was captured
    """

    path: str
    dtype: str
    shape: tuple[int | str, ...]
    vector: bool = False
    example: tuple[int, ...] = ()


@dataclass(frozen=True)
class Parameter:
    """One parameter of the model's `forward`; defaults that are not plain constants are forgotten."""

    name: str
    kind: str
    optional: bool
    default: Any = None


@dataclass(frozen=True)
class Interface:
    """The outside of a program: signature, inputs, fixed arguments and how the outputs are put together."""

    parameters: tuple[Parameter, ...]
    inputs: tuple[InputSpec, ...]
    constants: tuple[tuple[str, Any], ...]
    output: Any

    @functools.cached_property
    def signature(self) -> inspect.Signature:
        """What a call is held against."""
        return signature_of(self.parameters)

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Tensor], bool]:
        """The tensors of a call in program order, and whether it asks for a tuple. Raises InputError."""
        leaves = dict(call_leaves(self.signature, args, kwargs))
        as_tuple = leaves.pop(RETURN_DICT, True) is False
        for path, expected in self.constants:
            given = leaves.pop(path, expected)
            if isinstance(given, Tensor) or given != expected:
                shown = f"a tensor {tuple(given.shape)}" if isinstance(given, Tensor) else repr(given)
                raise InputError(
                    f"{path} was {expected!r} when this program was captured, and is {shown} now: it is part of the "
                    "program. Calibrate with the call that you need."
                )
        given = [(spec, leaves.pop(spec.path, None)) for spec in self.inputs]
        if unknown := [path for path, value in leaves.items() if value is not None]:
            raise InputError(f"{', '.join(unknown)}: not given when this program was captured, so it has no place for it")
        return self._checked(given), as_tuple

    def _checked(self, given: list[tuple[InputSpec, Any]]) -> list[Tensor]:
        sizes: dict[str, int] = {}
        tensors: list[Tensor | None] = []
        for spec, value in given:
            if value is None:
                raise InputError(f"{spec.path} is missing; expected {spec.dtype}{list(spec.shape)}")
            if spec.vector and (not isinstance(value, Tensor) or value.dim() == 0):
                tensors.append(None)  # expanded below, when the batch is known
                continue
            if not isinstance(value, Tensor):
                raise InputError(f"{spec.path} is a {type(value).__name__}; expected a tensor {list(spec.shape)}")
            _match_shape(spec, tuple(value.shape), sizes)
            tensors.append(_cast(spec, value))
        for position, (spec, value) in enumerate(given):
            if tensors[position] is None:
                vector = _cast(spec, _number(spec, value)).reshape(1)
                size = spec.shape[0]
                tensors[position] = vector.expand(sizes.get(size, 1) if isinstance(size, str) else size)
        return [t for t in tensors if t is not None]

    def unflatten(self, tensors: list[Tensor], as_tuple: bool) -> Any:
        """The user's output from the program's results."""
        output = rebuild(self.output, tensors)
        if as_tuple and not isinstance(output, tuple):
            return tuple(rebuild(item, tensors) for item in self.output.get("items", {}).values())
        return output


def _match_shape(spec: InputSpec, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    fits = len(shape) == len(spec.shape)
    for expected, size in zip(spec.shape, shape, strict=False):
        fits = fits and size == (sizes.setdefault(expected, size) if isinstance(expected, str) else expected)
    if not fits:
        known = ", ".join(f"{k}={v}" for k, v in sizes.items() if k in spec.shape)
        raise InputError(f"{spec.path} has shape {list(shape)}; expected {list(spec.shape)}" + f" with {known}" * bool(known))


def _number(spec: InputSpec, value: Any) -> Tensor:
    """What stands for every sample of a batch."""
    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        tensor = None
    if tensor is None or tensor.numel() != 1:
        raise InputError(f"{spec.path} is {value!r}; expected a number or a tensor {list(spec.shape)}")
    return tensor


def _cast(spec: InputSpec, value: Tensor) -> Tensor:
    dtype = getattr(torch, spec.dtype)
    if value.is_floating_point() and not dtype.is_floating_point:
        raise InputError(f"{spec.path} is {value.dtype}; this program was captured with {spec.dtype}")
    return value.to(dtype)


def short_names(paths: Sequence[str]) -> list[str]:
    """`added_cond_kwargs.time_ids` is called `time_ids`, where no other input is; what is in a list keeps its whole path."""
    last = [path.rpartition(".")[2] for path in paths]
    return [own if last.count(own) == 1 and not own.isdigit() else path for own, path in zip(last, paths, strict=True)]


def parameters_of(model: nn.Module) -> tuple[Parameter, ...]:
    """The parameters of `model.forward`."""
    plain = (bool, int, float, str, type(None))
    rows: list[Parameter] = []
    for p in inspect.signature(model.forward).parameters.values():
        optional = p.default is not p.empty
        rows.append(Parameter(p.name, p.kind.name, optional, p.default if isinstance(p.default, plain) else None))
    return tuple(rows)


def signature_of(parameters: tuple[Parameter, ...]) -> inspect.Signature:
    """The signature with these parameters."""
    kinds = inspect._ParameterKind
    return inspect.Signature(
        [
            inspect.Parameter(p.name, kinds[p.kind], default=p.default if p.optional else inspect.Parameter.empty)
            for p in parameters
        ]
    )


def call_leaves(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[str, Any]]:
    """(path, leaf) of one call, in the order of the signature. Raises InputError when it does not fit."""
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"{error}; the signature is {signature}") from None
    bound.apply_defaults()
    leaves: list[tuple[str, Any]] = []
    for name, value in bound.arguments.items():
        extra = signature.parameters[name].kind == inspect.Parameter.VAR_KEYWORD
        for key, item in value.items() if extra else [(name, value)]:
            leaves.extend(_leaves(key, item))
    return leaves


def _leaves(path: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [leaf for key, item in value.items() for leaf in _leaves(f"{path}.{key}", item)]
    if isinstance(value, (list, tuple)):
        return [leaf for i, item in enumerate(value) for leaf in _leaves(f"{path}.{i}", item)]
    return [(path, value)]


def replace_leaves(path: str, value: Any, new: dict[str, Any]) -> Any:
    """`value` with the leaves at the paths of `new` exchanged."""
    if isinstance(value, dict):
        return {key: replace_leaves(f"{path}.{key}", item, new) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(replace_leaves(f"{path}.{i}", item, new) for i, item in enumerate(value))
    return new.get(path, value)


def describe(value: Any, tensors: list[Tensor]) -> Any:
    """A plain description of an output; its tensors are appended to `tensors`. Raises CaptureError."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"kind": "tensor", "index": len(tensors) - 1}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"kind": "constant", "value": value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        items = {name: describe(item, tensors) for name, item in fields.items() if item is not None}
        return {"kind": "class", "class": f"{type(value).__module__}:{type(value).__qualname__}", "items": items}
    if isinstance(value, dict):
        return {"kind": "dict", "items": {key: describe(item, tensors) for key, item in value.items()}}
    if isinstance(value, (list, tuple)):
        items = {str(i): describe(item, tensors) for i, item in enumerate(value)}
        return {"kind": "tuple" if isinstance(value, tuple) else "list", "items": items}
    raise CaptureError(f"the model returns a {type(value).__name__}; tensors, lists, dicts and dataclasses can be captured")


def rebuild(tree: Any, tensors: list[Tensor]) -> Any:
    """What `describe` described, from other tensors."""
    if tree["kind"] == "tensor":
        return tensors[tree["index"]]
    if tree["kind"] == "constant":
        return tree["value"]
    items = {name: rebuild(item, tensors) for name, item in tree["items"].items()}
    if tree["kind"] == "dict":
        return items
    if tree["kind"] == "class":
        return _output_class(tree["class"])(**items)
    return tuple(items.values()) if tree["kind"] == "tuple" else list(items.values())


class Output(SimpleNamespace):
    """What stands for an output class that is not loaded: by attribute, by name and by place, as diffusers' own."""

    def __getitem__(self, key: str | int | slice) -> Any:
        return vars(self)[key] if isinstance(key, str) else self.to_tuple()[key]

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(vars(self).values())


def _output_class(name: str) -> type:
    """The user's output class, if it is loaded: an artifact does not choose what code is, and diffusers alone takes 80 MB."""
    module_name, _, class_name = name.partition(":")
    found = getattr(sys.modules.get(module_name), class_name, None)
    return found if isinstance(found, type) and dataclasses.is_dataclass(found) else Output
