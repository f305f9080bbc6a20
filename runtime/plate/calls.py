"""Calls of compiled kernels as plain data and back: fields by name, and addresses as places in memory that a plate has."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from typing import Any

from aquatint.runtime.cpu.native import library

KERNELS = ("aq_quantize", "aq_group_affine", "aq_product", "aq_attention", "aq_linear", "aq_depthwise", "aq_winograd")

Place = list[int]  # which memory, and how many bytes from its beginning


def stored(call: ctypes.Structure, place_of: Callable[[int], Place]) -> dict[str, Any]:
    """The fields of a call and of what it points to, by name; those that are zero or nothing are left out."""
    found: dict[str, Any] = {}
    for name, kind, *_ in call._fields_:
        value = getattr(call, name)
        if isinstance(value, ctypes.Structure):
            found[name] = stored(value, place_of)
        elif isinstance(value, ctypes._Pointer):
            found[name] = stored(value.contents, place_of) if value else None
        elif isinstance(value, ctypes.Array):
            found[name] = list(value)
        else:
            found[name] = place_of(value) if kind is ctypes.c_void_p and value else value
    return {name: value for name, value in found.items() if value}


def restored(kernel: str, fields: Mapping[str, Any], address_of: Callable[[Place], int]) -> tuple[Any, ctypes.Structure]:
    """The kernel of that name and a call of it. Raises KeyError, TypeError or ValueError for what no such call has."""
    if kernel not in KERNELS:
        raise KeyError(kernel)
    function = getattr(library(), kernel)
    return function, _filled(function.argtypes[1]._type_, fields, address_of)


def _filled(kind: type[ctypes.Structure], fields: Mapping[str, Any], address_of: Callable[[Place], int]) -> ctypes.Structure:
    call = kind()
    kinds: dict[str, Any] = {name: kind for name, kind, *_ in kind._fields_}
    for name, value in fields.items():
        inner = kinds[name]
        if issubclass(inner, ctypes.Structure):
            setattr(call, name, _filled(inner, value, address_of))
        elif issubclass(inner, ctypes._Pointer):
            pointed: Any = vars(inner)["_type_"]
            setattr(call, name, ctypes.pointer(_filled(pointed, value, address_of)))
        elif issubclass(inner, ctypes.Array):
            setattr(call, name, inner(*value))
        else:
            setattr(call, name, address_of(value) if inner is ctypes.c_void_p else value)
    return call
