"""Pipeline stages: which layers are in each, and which rank of `pp` has it.

A schedule with one stage a rank gives rank r stage r. The interleaved ones go round: rank r has
stages r, r + pp, ... V-shaped ones go there and back: rank r has stages r and 2 pp - 1 - r.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """What a schedule of torch.distributed.pipelining asks for.

    Attributes:
        stages_per_rank: the default, and the only one unless `interleaved`.
        v_shaped: a rank has stages from both ends.
        splits_backward: gradients of inputs are computed first, those of weights later.
    """

    stages_per_rank: int = 2
    interleaved: bool = False
    v_shaped: bool = False
    splits_backward: bool = False

    def fits(self, num_micro_batches: int, pp: int) -> bool:
        """Whether a step of that many microbatches can be scheduled."""
        if self.interleaved:
            return num_micro_batches % pp == 0
        return num_micro_batches >= pp * self.stages_per_rank


SCHEDULES = {
    "1F1B": Schedule(stages_per_rank=1),  # arXiv:2006.09503
    "Interleaved1F1B": Schedule(interleaved=True),  # arXiv:2104.04473
    "InterleavedZeroBubble": Schedule(interleaved=True, splits_backward=True),  # arXiv:2401.10241
    "ZBVZeroBubble": Schedule(v_shaped=True, splits_backward=True),  # arXiv:2401.10241, section 6
    "DualPipeV": Schedule(v_shaped=True, splits_backward=True),  # arXiv:2412.19437
}


@dataclass(frozen=True)
class Stage:
    """
    Attributes:
        rank: along `pp`.
        layers: their numbers in the whole model.
    """

    index: int
    num_stages: int
    rank: int
    layers: range

    @property
    def is_first(self) -> bool:
        """Whether it begins with the embedding."""
        return self.index == 0

    @property
    def is_last(self) -> bool:
        """Whether it ends with norm, head and loss."""
        return self.index == self.num_stages - 1


def cut_into_stages(
    schedule: str, pp: int, stages_per_rank: int, costs: Sequence[int], head_cost: int
) -> list[Stage]:
    """All stages of a model, in order.

    Args:
        costs: the work of each layer.
        head_cost: that of the head and the loss, in the same unit.
    """
    num_stages = pp * stages_per_rank
    ranks = list(range(pp)) * stages_per_rank
    if SCHEDULES[schedule].v_shaped:
        ranks[pp:] = reversed(range(pp))
    layers = balanced_split(costs, num_stages, head_cost)
    return [Stage(i, num_stages, ranks[i], layers[i]) for i in range(num_stages)]


def balanced_split(costs: Sequence[int], num_stages: int, head_cost: int) -> list[range]:
    """The layers of each stage, at least one, so that the squares of the stages' costs sum to the
    least: all wait for the most costly one.

    The embedding counts as no work: it multiplies nothing. It is memory, as are the activations of
    more microbatches on early stages, so where there is a choice late stages get more layers.
    """
    assert 1 <= num_stages <= len(costs)
    before = [0, *itertools.accumulate(costs)]
    # by number of layers: (sum of squares, split) of as many stages as were gone through
    best: dict[int, tuple[int, list[range]]] = {0: (0, [])}
    for index in range(num_stages):
        last = index == num_stages - 1
        longer: dict[int, tuple[int, list[range]]] = {}
        for end in [len(costs)] if last else range(index + 1, len(costs)):
            for start in sorted(best):
                if start < end:
                    cost = before[end] - before[start] + head_cost * last
                    total = best[start][0] + cost * cost
                    if end not in longer or total < longer[end][0]:
                        longer[end] = (total, [*best[start][1], range(start, end)])
        best = longer
    return best[len(costs)][1]
