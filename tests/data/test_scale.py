"""Index arithmetic of corpora that no test can hold: a trillion tokens, ten million samples."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from megafm.data import TrainingData, windows
from megafm.data.config import TrainingStage
from megafm.data.curriculum import Curriculum
from megafm.data.loader import training_samples
from megafm.data.token_files import FileTokens
from megafm.data.windows import TokenWindows
from tests.data.test_blend import blend_of
from tests.data.test_curriculum import NAMES, curriculum_of
from tests.data.test_packed import write

TRILLION = 10**12


@dataclass
class Paper:
    """A stream in which token i is i modulo 65,521, and which remembers what was asked for."""

    num_tokens: int
    path: Path = Path("paper")

    def gather(self, starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.starts = starts
        pieces = [np.arange(s, s + n) % 65_521 for s, n in zip(starts, counts, strict=True)]
        return np.concatenate(pieces), np.concatenate(([0], np.cumsum(counts)[:-1]))


def test_samples_of_a_trillion_tokens_take_no_memory_and_do_not_overflow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    paper = Paper(TRILLION + 1)
    monkeypatch.setattr(windows, "open_tokens", lambda prefix, headerless: paper)
    tracemalloc.start()
    samples = TokenWindows("paper", 2048, 1)
    n = samples.windows_per_epoch
    assert n == TRILLION // 2048
    for first in (0, n - 8, 3 * n - 4, 10**6 * n):
        batch = samples.batch(first, 8)
        assert (paper.starts % 2048 == 0).all()
        assert (paper.starts >= 0).all() and (paper.starts + 2048 < paper.num_tokens).all()
        assert len(set(paper.starts.tolist())) == 8
        assert (batch.tokens == (paper.starts[:, None] + np.arange(2048)) % 65_521).all()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10e6


def test_segments_far_beyond_two_billion_tokens_are_found() -> None:
    """Files of 2**33 bytes on paper: only the tokens asked for would be read."""
    file = np.lib.stride_tricks.as_strided(np.array([7], np.uint8), (2**33,), (0,), writeable=False)
    counts = np.full(300, 2**32)
    numbers, firsts = np.arange(300), np.zeros(300, np.int64)
    tokens = FileTokens(Path("paper"), [file] * 300, (numbers, firsts, counts), np.dtype("<u1"))
    assert tokens.num_tokens == 300 * 2**32 > TRILLION
    data, places = tokens.gather(np.array([299 * 2**32 - 2, 5]), np.array([4, 1]))
    assert places.tolist() == [0, 4] and data.tolist() == [7] * 5
    assert tokens.document_edges[-1] == 300 * 2**32


def test_a_blend_is_exact_to_a_sample_at_every_one_of_ten_million() -> None:
    weights = (0.45, 0.2, 0.1, 0.1, 0.1, 0.05)
    blend = blend_of(list(weights))
    counts = np.zeros(len(weights))
    worst = 0.0
    for first in range(0, 10_000_000, 1_000_000):
        source, _ = blend.places(first, 1_000_000)
        index = np.arange(first + 1, first + 1_000_001)
        for number, weight in enumerate(weights):
            running = counts[number] + np.cumsum(source == number)
            worst = max(worst, float(np.abs(running - index * weight).max()))
            counts[number] = running[-1]
    assert worst <= 1 + 1e-6
    assert counts.tolist() == [4_500_000, 2_000_000, 1_000_000, 1_000_000, 1_000_000, 500_000]


def test_the_blends_of_a_curriculum_are_exact_to_a_sample_over_ten_million() -> None:
    """Within each stage, and over the end of the first, where every source goes on."""
    stages = [({"web": 0.47, "code": 0.33, "books": 0.2}, 8_999_999), ({"books": 1.0}, 500_001)]
    stages.append(({"code": 0.6, "web": 0.4}, 500_000))
    curriculum = curriculum_of(stages)
    given, begin = np.zeros(len(NAMES), np.int64), 0
    for weights, size in stages:
        before = given.copy()
        for first in range(0, size, 1_000_000):
            count = min(size - first, 1_000_000)
            source, sample = curriculum.batch(begin + first, count).tokens.T
            index = np.arange(first + 1, first + count + 1)
            for number, name in enumerate(NAMES):
                own = source == number
                running = given[number] + np.cumsum(own)
                assert (sample[own] == running[own] - 1).all()
                error = running - before[number] - index * weights.get(name, 0.0)
                assert np.abs(error).max() <= 1 + 1e-6
                given[number] = running[-1]
        begin += size
    assert begin == given.sum() == 10_000_000


@pytest.mark.parametrize("tokens", [400_000_001, 2**32 + 1, 10**12 + 7, 2**53 + 1])
def test_the_samples_of_a_stage_are_counted_exactly(tmp_path: Path, tokens: int) -> None:
    """A 32-bit float loses one at 400 million tokens, a 64-bit one at 2**53."""
    write(tmp_path / "train", [40, 9, 17])
    stages = TrainingStage(tokens), TrainingStage(tokens)
    samples = training_samples(TrainingData(str(tmp_path), stages=stages), 8, 1)
    assert isinstance(samples, Curriculum)
    first, second = (stage.num_samples for stage in samples.stages)
    assert (first - 1) * 8 < tokens <= first * 8
    assert (first + second - 1) * 8 < 2 * tokens <= (first + second) * 8
    assert samples.batch(first + second - 1, 1).tokens.shape == (1, 8)
