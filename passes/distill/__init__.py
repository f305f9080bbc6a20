"""Step distillation, a file a method: a loss, and the sampler that the student is drawn with."""

from __future__ import annotations

from aquatint.passes.distill.consistency import Consistency
from aquatint.passes.distill.latent_consistency import LatentConsistency
from aquatint.passes.distill.progressive import Progressive
from aquatint.passes.distill.recover import Recover
from aquatint.passes.distill.schedule import Schedule
from aquatint.passes.distill.sfd import Sfd

METHODS: dict[str, type] = {m.name: m for m in (Sfd, Progressive, Consistency, LatentConsistency, Schedule, Recover)}
