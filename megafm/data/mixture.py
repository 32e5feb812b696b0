"""How much of each source to train on: weights, temperature, caps on repetition, stages.

What comes out is `data.blend` of a training run, see `mixing`. A group (a domain, say) has its
stated share of the tokens; within it, and between groups where no share is stated, sources share by
their size to the power of 1 / temperature (Devlin et al. 2018, multilingual BERT; Conneau et al.
2020, XLM-R, section 3.1). No source is seen more than `max_epochs` times, over all stages: four are
nearly as good as new text (Muennighoff et al., Scaling Data-Constrained Language Models, 2023,
section 6). What a source cannot give then goes to the others of its group, and what a group cannot
to the other groups, in their proportions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from megafm.data.config import BlendPart, Mixture


@dataclass(frozen=True)
class Part:
    """The training shard of a data folder: its size, and what it is."""

    dir: str
    tokens: int
    source: str = ""
    domain: str = ""
    language: str = ""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"{self.dir}: tokens={self.tokens}: must be positive; leave it out")


@dataclass(frozen=True)
class Stage:
    """A part of a run: so many tokens of one mixture."""

    name: str
    tokens: int
    mixture: Mixture


@dataclass(frozen=True)
class Share:
    """How many tokens of a part a stage sees, and how many times that is all of the part.

    Attributes:
        asked: the weight that the mixture states, were there no cap on repetition.
    """

    part: Part
    tokens: float
    weight: float  # of the stage's tokens
    asked: float

    @property
    def epochs(self) -> float:
        return self.tokens / self.part.tokens


def curriculum(parts: Sequence[Part], stages: Sequence[Stage]) -> dict[str, list[Share]]:
    """The shares of each stage by its name; caps on repetition hold over all of them.

    Raises:
        ValueError: a weight of a group that no part is in, a part in a group without a weight, or
            more tokens than `max_epochs` allow.
    """
    seen = dict.fromkeys((part.dir for part in parts), 0.0)
    plan = {}
    for stage in stages:
        plan[stage.name] = _shares(parts, stage, seen)
        for share in plan[stage.name]:
            seen[share.part.dir] += share.tokens
    return plan


def mix(parts: Sequence[Part], mixture: Mixture, tokens: int) -> list[Share]:
    """The shares of a run of one stage."""
    return curriculum(parts, [Stage("all", tokens, mixture)])["all"]


def blend(shares: Sequence[Share]) -> tuple[BlendPart, ...]:
    """What `data.blend` takes: six decimals, none of them 0."""
    return tuple(BlendPart(s.part.dir, max(round(s.weight, 6), 1e-6)) for s in shares if s.tokens)


def _shares(parts: Sequence[Part], stage: Stage, seen: Mapping[str, float]) -> list[Share]:
    mixture = stage.mixture
    groups: dict[str, list[Part]] = {}
    for part in parts:
        groups.setdefault(getattr(part, mixture.by), []).append(part)
    room = {part.dir: mixture.max_epochs * part.tokens - seen[part.dir] for part in parts}
    room = {name: max(tokens, 0.0) for name, tokens in room.items()}
    _check(stage, groups, sum(room.values()), sum(part.tokens for part in parts))
    size = {part.dir: part.tokens ** (1 / mixture.temperature) for part in parts}
    weights = mixture.weights or {
        name: sum(part.tokens for part in group) ** (1 / mixture.temperature)
        for name, group in groups.items()
    }
    names = list(groups)
    rooms = [sum(room[part.dir] for part in groups[name]) for name in names]
    totals = fill([weights[name] for name in names], rooms, stage.tokens)
    shares = []
    for name, total in zip(names, totals, strict=True):
        group = groups[name]
        given = fill([size[p.dir] for p in group], [room[p.dir] for p in group], total)
        stated = weights[name] / sum(weights.values()) / sum(size[part.dir] for part in group)
        for part, tokens in zip(group, given, strict=True):
            asked = stated * size[part.dir]
            shares.append(Share(part, tokens, tokens / stage.tokens, asked))
    return shares


def _check(stage: Stage, groups: Mapping[str, object], room: float, size: int) -> None:
    where, by, weights = f"stage {stage.name}", stage.mixture.by, stage.mixture.weights
    if stage.tokens < 1:
        raise ValueError(f"{where}: tokens={stage.tokens}: must be positive")
    if weights and set(weights) != set(groups):
        odd = sorted(set(weights) ^ set(groups))[0]
        raise ValueError(
            f"{where}: mixture.weights and the {by}s of the parts differ in {odd!r}; "
            f"set a weight for each of {', '.join(sorted(groups))}"
        )
    if stage.tokens > room * (1 + 1e-9):
        least = stage.mixture.max_epochs + (stage.tokens - room) / size
        raise ValueError(
            f"{where}: tokens={stage.tokens}, mixture.max_epochs={stage.mixture.max_epochs:g}: "
            f"only {room:.0f} are left; set max_epochs={math.ceil(least * 100) / 100:g} or more"
        )


def fill(targets: Sequence[float], rooms: Sequence[float], total: float) -> list[float]:
    """Share `total` in the proportions of the targets, none above its room; what does not fit goes
    to the others in their proportions."""
    given = [0.0] * len(targets)
    open_ = set(range(len(targets)))
    while open_:
        scale = (total - sum(given)) / sum(targets[i] for i in open_)
        full = {i for i in open_ if targets[i] * scale >= rooms[i]}
        for i in full or open_:
            given[i] = rooms[i] if full else targets[i] * scale
        open_ = open_ - full if full else set()
    return given
