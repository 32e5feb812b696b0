"""The schema of a plan: that of the training run which is planned, and what to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megafm.paths import RunDir
from megafm.train.config import TrainJob


@dataclass(frozen=True)
class PlanJob(TrainJob):
    """`megafm plan`: takes what `megafm train` takes.

    Attributes:
        run: where the pictures go.
        dry_run: take one training step of some ranks, on tensors without data.
        world_size: ranks of the run; None is the fewest that the layout can have.
        rank: whose step; a list of them is one after the other.
        device_memory_gb: memory of a device in 10^9 bytes, to say whether the run fits.
    """

    what: str = "memory and traffic of any rank of a training run, before it is started"
    run: RunDir = field(default_factory=lambda: RunDir("runs/plan"))
    dry_run: bool = True
    world_size: int | None = None
    rank: int | tuple[int, ...] = 0
    device_memory_gb: float | None = None
    format: Literal["table", "json"] = "table"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dry_run:
            raise ValueError("dry_run=false: there is no other plan yet; set dry_run=true")
        if self.world_size is not None and self.world_size < 1:
            raise ValueError(f"world_size={self.world_size}: must be at least 1; set world_size=8")
        if not self.ranks:
            raise ValueError("rank=[]: no rank; set rank=0, or a list as rank=[0,1]")
        if self.device_memory_gb is not None and not self.device_memory_gb > 0:
            raise ValueError(f"device_memory_gb={self.device_memory_gb}: must be above 0; set 80")

    @property
    def ranks(self) -> tuple[int, ...]:
        """rank as a list."""
        return (self.rank,) if isinstance(self.rank, int) else self.rank
