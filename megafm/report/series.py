"""Small numeric helpers that both the page and the picture draw with."""

from __future__ import annotations

import itertools
import math


def smooth(values: list[float], share: float = 0.02) -> list[float]:
    """Mean over about `share` of the points around each; fewer towards the ends, so that neither
    a steep start nor the last point is pulled to one side."""
    sums = [0.0, *itertools.accumulate(values)]
    widest = round(share * len(values) / 2)
    result = []
    for i in range(len(values)):
        half = min(widest, i, len(values) - 1 - i)
        result.append((sums[i + half + 1] - sums[i - half]) / (2 * half + 1))
    return result


def thin(points: list[tuple[float, float]], limit: int = 600) -> list[tuple[float, float]]:
    """At most about `limit` of the points, evenly, the last one among them."""
    every = max(1, math.ceil(len(points) / limit))
    return points[::-1][::every][::-1]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """About `count` round values (1, 2 or 5 times a power of ten) within [low, high]."""
    span = high - low
    if span <= 0:
        return [low]
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(math.log(s / rough)))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def si(value: float) -> str:
    """1234567 as 1.2M; below a thousand three significant digits."""
    for scale, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= scale:
            return f"{value / scale:.3g}{prefix}"
    return f"{value:.3g}"


def loss_ceiling(losses: list[float]) -> float:
    """Top of a loss axis: the first steps fall from ln(vocab) and would hide all the rest."""
    after_start = losses[len(losses) // 25 :] or losses
    return max(after_start[0], max(after_start[1:], default=0.0))
