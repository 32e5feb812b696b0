"""The pipeline from sources to shuffled documents, in stages that any number of processes share:

read, score, decide, exact, sign, match, sets, verify, resolve, scatter, gather.

`keys_N`, `repeated_N` and `compared_N`, between `read` and `score`, are there for each corpus step.
`exact`, `match`, `verify`, `gather` and `repeated_N` have a unit per range of hashes, whose number
depends on the size of the input alone; `resolve` is one unit; the others have one per input shard.
"""

from __future__ import annotations

from megafm.data import inputs, steps
from megafm.data.config import DataJob
from megafm.data.stages.cleaning import Decide, Read, Score
from megafm.data.stages.compare import Compared, Keys, Repeated
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
    for number in range(1, len(cleaned.pipeline.corpus) + 1):
        keys = Keys(root, read, number, num_ranges)
        repeated = Repeated(root, keys)
        read = Compared(root, cleaned.pipeline, repeated)
        comparing += [keys, repeated, read]
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
