"""The stages one after the other, whoever does the units: progress, and what fails tried again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.progress import Progress, TaskID

from megafm.data.stages.stage import Stage, Unit


class StageFailed(ValueError):
    """Some units failed; names each with its own error."""


@dataclass(frozen=True)
class Failure:
    """`final`: another attempt would fail likewise, as the settings are at fault."""

    message: str
    final: bool


class Workers(Protocol):
    def map(self, stage: Stage, units: list[Unit]) -> Iterator[tuple[Unit, Failure | None]]:
        """Do each unit, and give it back as soon as it is done or has failed."""


@dataclass(frozen=True)
class Share:
    """The units of one task among many: each `world_size`-th, from `rank` on."""

    rank: int = 0
    world_size: int = 1


def run_stages(
    stages: Sequence[Stage], workers: Workers, retries: int, share: Share | None = None
) -> None:
    """Do what is not done yet of all stages.

    Raises:
        StageFailed: after all other units of the stage are done.
    """
    share = share or Share()
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        for stage in stages:
            units = stage.pending(share.rank, share.world_size)
            bar = progress.add_task(stage.name, total=len(units))
            failed = _attempt(stage, units, workers, progress, bar)
            for _ in range(retries):
                again = [unit for unit, failure in failed.items() if not failure.final]
                for unit in again:  # alone: it may have taken a worker and its neighbours along
                    del failed[unit]
                    failed |= _attempt(stage, [unit], workers, progress, bar)
            if failed:
                raise StageFailed(_describe(stage, len(units), failed))


def run_unit(stage: Stage, unit: Unit) -> Failure | None:
    """Do a unit; returns why it failed."""
    try:
        stage.run_unit(unit)
    except Exception as error:
        return Failure(f"{type(error).__name__}: {error}", final=isinstance(error, ValueError))
    return None


def _attempt(
    stage: Stage, units: list[Unit], workers: Workers, progress: Progress, bar: TaskID
) -> dict[Unit, Failure]:
    """Try each unit once; returns those that failed."""
    failed = {}
    for unit, failure in workers.map(stage, units):
        if failure is None:
            progress.advance(bar)
        else:
            failed[unit] = failure
    return failed


def _describe(stage: Stage, count: int, failed: dict[Unit, Failure]) -> str:
    named = "; ".join(f"{unit.name}: {failure.message}" for unit, failure in failed.items())
    return f"stage {stage.name}: {len(failed)} of {count} shards failed: {named}"
