"""The pipeline from sources to shuffled documents, in stages that any number of processes share:

read, score, decide, exact, sign, match, sets, verify, resolve, scatter, gather.

`compare` and `compared`, between `read` and `score`, are there where corpus steps are. `read` to
`decide`, `sign`, `sets` and `scatter` have a unit per input shard; `exact`, `match`, `verify` and
`gather` one per range of hashes, whose number depends on the size of the input alone; `compare` and
`resolve` are one unit.
"""

from __future__ import annotations

from megafm.data import inputs, steps
from megafm.data.config import DataJob
from megafm.data.stages.cleaning import Decide, Read, Score
from megafm.data.stages.compare import Compare, Compared
from megafm.data.stages.exact import Exact
from megafm.data.stages.near import Match, Sets, Sign, Verify
from megafm.data.stages.resolve import Resolve
from megafm.data.stages.shuffle import Gather, Scatter
from megafm.data.stages.stage import Stage, stages_folder

__all__ = ["pipeline"]


def pipeline(job: DataJob) -> tuple[Stage, ...]:
    """The stages in their order; the inputs must have been saved."""
    root = stages_folder(job.data.dir)
    num_ranges = inputs.load(root).num_ranges
    cleaned = Read(root, steps.pipeline(job.source, job.steps))
    read = cleaned
    comparing: list[Stage] = []
    if cleaned.pipeline.corpus:
        compare = Compare(root, cleaned)
        read = Compared(root, cleaned.pipeline, compare)
        comparing = [compare, read]
    score = Score(root, read)
    decide = Decide(root, read, score, num_ranges)
    exact = Exact(root, decide)
    sign = Sign(root, exact, job.near_duplicates)
    match = Match(root, sign)
    sets = Sets(root, match)
    verify = Verify(root, sets)
    resolve = Resolve(root, verify, job.split)
    scatter = Scatter(root, resolve, job.shuffle.seed)
    gather = Gather(root, scatter)
    rest = (score, decide, exact, sign, match, sets, verify, resolve, scatter, gather)
    return cleaned, *comparing, *rest
