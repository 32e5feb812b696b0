"""What a dry run says of a rank: its numbers, and as a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from megafm.plan.step import Observed

REMEDIES = {
    "activations": "set a smaller train.micro_batch_size, or train.activation_checkpointing=full",
    "gathered": "set parallel.tp, which splits each layer",
    "other": "set a smaller train.micro_batch_size, or parallel.tp",
}
SHARD = "set more parallel.dp_shard (with parallel.zero=3) or parallel.tp, which split the model"


@dataclass(frozen=True)
class Collective:
    """
    Attributes:
        axis: of the mesh; "dp_replicate x dp_shard" is a group over both. The ranks of ep, which
            regroups others, stand under the axes that they lie along.
        calls, payload_bytes, sent_bytes: see `traffic.Moved`.
    """

    axis: str
    kind: str
    calls: int
    payload_bytes: int
    sent_bytes: int


@dataclass(frozen=True)
class RankReport:
    """One step of one rank; all memory in bytes of live tensors.

    Attributes:
        place: along each axis of more than one rank.
        device: and the dtype of the matmuls.
        routing: how tokens were given to experts; None for a dense model.
        most: of each category, the most at any time.
        at_peak: of each category, when their sum is `peak`.
        verdict: whether `peak` fits the device; None where no memory was given.
        seconds: that the dry run took.
    """

    rank: int
    world_size: int
    place: dict[str, str]
    device: str
    routing: str | None
    most: dict[str, int]
    at_peak: dict[str, int]
    peak: int
    traffic: list[Collective]
    verdict: str | None
    picture: str
    seconds: float

    @classmethod
    def of(
        cls,
        observed: Observed,
        *,
        rank: int,
        world_size: int,
        place: dict[str, str],
        device: str,
        routing: str | None,
        picture: str,
        device_memory_gb: float | None,
        seconds: float,
    ) -> RankReport:
        return cls(
            rank=rank,
            world_size=world_size,
            place=place,
            device=device,
            routing=routing,
            most=observed.most,
            at_peak=observed.at_peak,
            peak=observed.peak,
            traffic=[
                Collective(axis, kind, moved.calls, moved.payload, moved.sent)
                for (axis, kind), moved in sorted(observed.moved.items())
            ],
            verdict=None if device_memory_gb is None else verdict(observed, device_memory_gb),
            picture=picture,
            seconds=seconds,
        )


def verdict(observed: Observed, device_memory_gb: float) -> str:
    spare = device_memory_gb * 1e9 - observed.peak
    found = f"{size(observed.peak)} of {device_memory_gb:g} GB"
    if spare >= 0:
        return f"fits: {found}; {size(spare)} are left for the allocator, NCCL and the kernels"
    largest = max(observed.at_peak, key=lambda name: observed.at_peak[name])
    return f"does not fit: {found}, most of it {largest}; {REMEDIES.get(largest, SHARD)}"


def show(report: RankReport, console: Console) -> None:
    places = ", ".join(f"{axis} {place}" for axis, place in report.place.items())
    title = f"rank {report.rank} of {report.world_size:,}" + (f" ({places})" if places else "")
    console.print(f"{title}, {report.device}", style="bold", highlight=False, soft_wrap=True)
    console.print(_memory(report))
    if report.traffic:
        console.print(_traffic(report))
    for line in _last_lines(report):
        console.print(line, highlight=False, soft_wrap=True)


def _memory(report: RankReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for header in ("memory of a step", "most", "at the peak"):
        table.add_column(header, justify="left" if header.startswith("memory") else "right")
    for name, most in report.most.items():
        if most:
            table.add_row(name, size(most), size(report.at_peak[name]))
    table.add_row("all", "", size(report.peak), style="bold")
    return table


def _traffic(report: RankReport) -> Table:
    table = Table(box=None, pad_edge=False)
    for header in ("traffic of a step", "", "calls", "put in", "sent by a ring"):
        table.add_column(header, justify="left" if header in ("traffic of a step", "") else "right")
    for each in report.traffic:
        row = each.axis, each.kind, f"{each.calls:,}"
        table.add_row(*row, size(each.payload_bytes), size(each.sent_bytes))
    return table


def _last_lines(report: RankReport) -> Iterator[str]:
    if report.routing:
        yield f"routing: {report.routing}"
    if report.verdict:
        yield report.verdict
    yield f"picture: {report.picture}"


def size(num_bytes: float) -> str:
    """1234567 as 1.23 MB (10^6 bytes)."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(num_bytes) >= scale:
            return f"{num_bytes / scale:.2f} {unit}"
    return f"{num_bytes:.0f} B"
