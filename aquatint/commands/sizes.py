"""Sizes of free dimensions, as commands take them: --size batch=2."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def add_argument(parser: argparse.ArgumentParser, what: str) -> None:
    """The option; `what` it is for stands in its help."""
    parser.add_argument("--size", action="append", default=[], metavar="NAME=N", help=what)


def sizes_of(given: Sequence[str]) -> dict[str, int]:
    """By name. Raises InputError for what is no NAME=N."""
    from aquatint.compiler.errors import InputError

    try:
        return {name: int(size) for name, _, size in (one.partition("=") for one in given)}
    except ValueError:
        raise InputError(f"--size takes NAME=N, not {' '.join(given)}") from None
