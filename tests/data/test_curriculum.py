"""Curricula: each stage its own blend, and every source goes on where it was left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm.data import TrainingData, check_data, tokenize, training_samples
from megafm.data.blend import parts
from megafm.data.config import BlendPart, TrainingStage
from megafm.data.curriculum import Curriculum, CurriculumStage
from megafm.data.samples import Samples
from tests.data.helpers import data_folder, small_tokenizer
from tests.data.test_blend import Numbered
from tests.data.test_packed import write

NAMES = ("web", "code", "books")
SHARES = st.dictionaries(
    st.sampled_from(NAMES), st.integers(1, 60).map(lambda n: n / 100), min_size=1
)
STAGES = st.lists(st.tuples(SHARES, st.integers(1, 300)), min_size=1, max_size=4)


def curriculum_of(stages: list[tuple[dict[str, float], int]]) -> Curriculum:
    sources: dict[str, Samples] = {name: Numbered(number) for number, name in enumerate(NAMES)}
    return Curriculum(sources, [CurriculumStage("x", shares, size) for shares, size in stages])


@settings(max_examples=60, deadline=None)
@given(STAGES, st.integers(1, 70))
def test_every_source_gives_each_of_its_samples_once_and_in_order(
    stages: list[tuple[dict[str, float], int]], batch_size: int
) -> None:
    curriculum, total = curriculum_of(stages), sum(size for _, size in stages) + 100
    starts = range(0, total, batch_size)
    rows = np.concatenate([curriculum.batch(first, batch_size).tokens for first in starts])
    for number in range(len(NAMES)):
        taken = rows[rows[:, 0] == number, 1]
        assert (taken == np.arange(len(taken))).all()
    begin = 0
    for shares, size in stages:
        counts = np.bincount(rows[begin : begin + size, 0], minlength=len(NAMES))
        whole = dict(zip(shares, parts(list(shares.values())), strict=True))
        for number, name in enumerate(NAMES):
            asked = whole.get(name, 0) * size
            assert abs(counts[number] * sum(whole.values()) - asked) < sum(whole.values())
        begin += size
    # Any sample alone is the one that it was in its batch: a resumed run sees the same.
    for first in (0, total // 2, total - 1):
        assert (curriculum.batch(first, 1).tokens == rows[first : first + 1]).all()


@pytest.mark.parametrize("world_sizes", [(1, 4), (4, 2), (2, 3)])
def test_nothing_is_lost_or_seen_twice_where_the_world_size_changes(
    world_sizes: tuple[int, int],
) -> None:
    """Ranks take their shares of global batches, and another number of them goes on within a
    stage and over its end."""
    curriculum = curriculum_of([({"web": 0.7, "code": 0.3}, 50), ({"books": 0.5, "code": 0.5}, 40)])
    wanted = curriculum.batch(0, 96).tokens
    seen, done = [], 0
    for world_size, until in zip(world_sizes, (36, 96), strict=True):
        share = 12 // world_size
        while done < until:
            seen += [curriculum.batch(done + r * share, share).tokens for r in range(world_size)]
            done += 12
    assert (np.concatenate(seen) == wanted).all()


def test_a_trillion_tokens_of_stages_do_not_overflow() -> None:
    size = 10**12 // 2048
    curriculum = curriculum_of([({"web": 0.45, "code": 0.55}, 9 * size), ({"code": 1.0}, size)])
    last = curriculum.batch(10 * size - 1, 1).tokens[0]
    code = 9 * size * 55 // 100 + size  # a source is within one sample of its share
    assert last[0] == 1 and abs(int(last[1]) + 1 - code) <= 1
    across = curriculum.batch(9 * size - 5, 10).tokens
    assert (across[5:, 0] == 1).all()


@pytest.mark.parametrize("packing", ["stream", "best_fit"])
def test_stages_are_read_from_their_folders(tmp_path: Path, packing: str) -> None:
    for name in ("web", "code"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "train", [40, 9, 17])
    web, code = str(tmp_path / "web"), str(tmp_path / "code")
    anneal = TrainingStage(80, (BlendPart(web, 1), BlendPart(code, 1)), "anneal")
    data = TrainingData(web, stages=(TrainingStage(30), anneal), packing=packing)  # type: ignore[arg-type]
    assert data.folders == [web, code]
    samples = training_samples(data, 8, 1)
    alone = [training_samples(TrainingData(d, packing=packing), 8, 1) for d in (web, code)]  # type: ignore[arg-type]
    # 30 tokens are 4 samples; then the two take turns.
    got = samples.batch(0, 8).tokens
    assert (got[:4] == alone[0].batch(0, 4).tokens).all()
    of_web = [row for row in got[4:].tolist() if row in alone[0].batch(4, 2).tokens.tolist()]
    of_code = [row for row in got[4:].tolist() if row in alone[1].batch(0, 2).tokens.tolist()]
    assert len(of_web) >= 2 and len(of_code) >= 2
    shown = samples.epochs(6)
    assert "stage 0 from sample 0, 4 samples: 100.00% of samples" in shown
    assert "stage anneal from sample 4, 2 samples: 50.00% of samples" in shown
    assert "stage anneal from sample 4, 0 samples: not reached" in samples.epochs(4)


def test_stages_to_come_may_be_changed_and_those_begun_may_not(tmp_path: Path) -> None:
    tokenizer = small_tokenizer()
    folder = str(data_folder(tmp_path))
    tokenize(folder, tokenizer, say=lambda text: None)
    blend = (BlendPart(folder, 1.0),)

    def identity(*stages: TrainingStage, after: int) -> str:
        return check_data(TrainingData(folder, stages=stages), tokenizer).snapshot_id(after)

    plain = check_data(TrainingData(folder), tokenizer)
    assert plain.folders == {folder: plain.snapshot_id(10**9)}
    main = TrainingStage(1000)
    for second in (TrainingStage(50, blend), TrainingStage(70)):
        assert identity(main, second, after=1000) == plain.snapshot_id(0)
        assert identity(main, second, after=1001) != plain.snapshot_id(0)
    begun = identity(main, TrainingStage(50, blend), after=1001)
    assert identity(main, TrainingStage(90, blend), after=1001) == begun  # a longer last stage
    assert identity(TrainingStage(900), TrainingStage(50, blend), after=1001) != begun


def test_mistakes_name_the_setting(tmp_path: Path) -> None:
    blend = (BlendPart("a", 1),)
    with pytest.raises(ValueError, match="data.blend, data.stages: both are set"):
        TrainingData("a", blend=blend, stages=(TrainingStage(5),))
    with pytest.raises(ValueError, match="data.stages: tokens=0 of stage 'last': must be positive"):
        TrainingStage(0, blend, "last")
    with pytest.raises(ValueError, match="data.stages: a stands twice in stage 1"):
        TrainingData("a", stages=(TrainingStage(5), TrainingStage(5, blend * 2)))
    write(tmp_path / "train", [40, 9, 17])
    short = TrainingData(str(tmp_path), stages=tuple(map(TrainingStage, (17, 3))))
    with pytest.raises(ValueError, match="tokens=3 of stage 1: not one sample.*set tokens=8 or"):
        training_samples(short, 8, 1)
