from __future__ import annotations

import pytest

from megafm.report.series import loss_ceiling, si, smooth, thin, ticks


def test_smoothing_keeps_straight_lines_straight() -> None:
    line = [0.5 * i for i in range(200)]
    assert smooth(line, share=0.1) == pytest.approx(line)


def test_smoothing_evens_out_noise() -> None:
    noise = [(-1.0) ** i for i in range(100)]
    assert max(abs(value) for value in smooth(noise, share=0.2)[10:-10]) < 0.1


@pytest.mark.parametrize("count", [0, 1, 599, 600, 601, 5000])
def test_thinning_keeps_the_last_point_and_the_limit(count: int) -> None:
    points = [(float(i), 0.0) for i in range(count)]
    kept = thin(points, limit=600)
    assert len(kept) <= 600
    assert kept[-1:] == points[-1:]


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (1.9, 4.1, [2, 2.5, 3, 3.5, 4]),
        (0, 1.2e7, [0, 2e6, 4e6, 6e6, 8e6, 1e7, 1.2e7]),
        (3, 3, [3]),
    ],
)
def test_ticks_are_round_and_inside(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (999, "999"), (1234, "1.23k"), (2.6e6, "2.6M"), (989e12, "989T")]
)
def test_large_numbers_are_short(value: float, text: str) -> None:
    assert si(value) == text


def test_the_fall_of_the_first_steps_is_left_above_the_chart() -> None:
    assert loss_ceiling([9.0] * 4 + [3.0] * 96) == 3.0
    assert loss_ceiling([2.0]) == 2.0
