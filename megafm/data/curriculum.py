"""Stages of one run, each with its own blend: web text first, say, and the best text at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megafm.data.blend import Blend
from megafm.data.samples import Batch, Samples, concatenate


@dataclass(frozen=True)
class CurriculumStage:
    """
    Attributes:
        sources: names of those that take part, and their weights.
        num_samples: of the stage.
    """

    name: str
    sources: dict[str, float]
    num_samples: int


class Curriculum:
    """Samples of one blend after another. A source goes on where the stage before left it, so that
    none of its samples comes again before all have come; the last stage has no end.

    Args:
        sources: by name, of one kind, and one seq_len.
    """

    def __init__(self, sources: dict[str, Samples], stages: Sequence[CurriculumStage]) -> None:
        self.stages = stages
        self.seq_len = next(iter(sources.values())).seq_len
        given = dict.fromkeys(sources, 0)
        self._blends = []
        for stage in stages:
            taking = [sources[name] for name in stage.sources]
            before = [given[name] for name in stage.sources]
            blend = Blend(taking, list(stage.sources.values()), before)
            self._blends.append(blend)
            counts = blend.counts(stage.num_samples)
            for name, count in zip(stage.sources, counts, strict=True):
                given[name] += count
        sizes = [stage.num_samples for stage in stages]
        self._starts = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
        lengths = [blend.attended_len for blend in self._blends]
        self.attended_len = float(np.average(lengths, weights=sizes))

    def batch(self, first: int, count: int) -> Batch:
        stage = int(np.searchsorted(self._starts, first, side="right")) - 1
        batches = []
        while count:
            begin = int(self._starts[stage])
            last = stage + 1 == len(self._starts)
            share = count if last else min(count, int(self._starts[stage + 1]) - first)
            batches.append(self._blends[stage].batch(first - begin, share))
            first, count, stage = first + share, count - share, stage + 1
        return concatenate(batches)

    def epochs(self, num_samples: int) -> str:
        lines = []
        for number, (stage, begin) in enumerate(zip(self.stages, self._starts, strict=True)):
            last = number + 1 == len(self.stages)
            left = max(num_samples - int(begin), 0)
            count = left if last else min(left, stage.num_samples)
            shares = self._blends[number].epochs(count) if count else "not reached"
            where = f"stage {stage.name} from sample {begin:,}"
            lines.append(f"\n  {where}, {count:,} samples: {shares}")
        return "".join(lines)
