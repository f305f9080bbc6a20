"""The weights of a program by name. One may be derived: stated by what it is made of, and computed when it is read; or stored
in fewer bits than it is computed in.

So smoothing and splitting a model takes the memory of the vectors and branches alone, never that of a second model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass

import torch
from torch import Tensor

from aquatint.compiler.mapped import Mapped
from aquatint.compiler.powers import Scaled


@dataclass(frozen=True)
class Derived:
    """base * factor - up down: factor broadcasts to base; up (N, r) and down (r, ...) are in the base's layout."""

    base: Tensor
    factor: Tensor | None = None
    up: Tensor | None = None
    down: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        return self.base.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def learns(self) -> bool:
        """Is it another one after each step of a training?"""
        return self.up is not None and self.up.requires_grad

    def read(self) -> Tensor:
        """The weight, computed in float32, in the dtype of the base."""
        value = self.base.float() if self.factor is None else self.base.float() * self.factor.float()
        if self.up is not None and self.down is not None:
            value = value - (self.up.float() @ self.down.float().flatten(1)).view_as(value)
        return value.to(self.base.dtype)


@dataclass(frozen=True)
class Narrow:
    """Numbers stored in fewer bits than they are computed in, without a loss."""

    stored: Tensor
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        return self.stored.shape

    def read(self) -> Tensor:
        """The weight in the dtype that it is computed in."""
        return self.stored.to(self.dtype)


Stored = Tensor | Derived | Narrow | Scaled


class Weights(MutableMapping[str, Tensor]):
    """Name to tensor; reading computes what is derived and keeps nothing."""

    def __init__(self, stored: Mapping[str, Stored] | None = None, file: Mapped | None = None) -> None:
        self._stored: dict[str, Stored] = dict(stored._stored if isinstance(stored, Weights) else stored or {})
        self.file = stored.file if isinstance(stored, Weights) else file

    def __getitem__(self, name: str) -> Tensor:
        return read(self._stored[name])

    def __setitem__(self, name: str, value: Stored) -> None:
        self._stored[name] = value

    def __delitem__(self, name: str) -> None:
        del self._stored[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def __contains__(self, name: object) -> bool:
        return name in self._stored

    def release(self) -> None:
        """Let go of the memory that can be read from the file again."""
        if self.file:
            self.file.release()

    def stored(self, name: str) -> Stored:
        """The tensor, or what it is made of."""
        return self._stored[name]

    def derived(self, name: str) -> Derived:
        """The weight as something to derive more from."""
        found = self._stored[name]
        return found if isinstance(found, Derived) else Derived(read(found))


def read(value: Stored) -> Tensor:
    """The tensor itself, or computed."""
    return value if isinstance(value, Tensor) else value.read()
