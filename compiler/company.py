"""Several processes that train one student, as torchrun starts them: each with a batch of its own; gradients are averaged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class Company:
    """This process is number `rank` of `size`."""

    rank: int = 0
    size: int = 1

    @staticmethod
    def here() -> Company:
        """As torch.distributed was begun with; alone when it was not."""
        begun = dist.is_available() and dist.is_initialized()
        return Company(dist.get_rank(), dist.get_world_size()) if begun else Company()

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Each becomes the mean over all processes, in one exchange for all."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.flatten() for t in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, part in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, said: bool) -> bool:
        """Does any process say so?"""
        if self.size == 1:
            return said
        flag = torch.tensor(float(said))
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def first(self, number: int) -> int:
        """The number that the first process has."""
        if self.size == 1:
            return number
        told = torch.tensor(number)
        dist.broadcast(told, 0)
        return int(told)

    def turn(self, iteration: int) -> int:
        """A number that no other process has in any iteration: what its draws are seeded with."""
        return iteration * self.size + self.rank
