"""Models of text from folders, on the command line: from training to the rule that uses them."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

from megafm.config import compose
from megafm.data import read_documents
from megafm.data.config import DataJob, ImportanceModel, QualityModel
from megafm.data.prepare import prepare
from megafm.data.text_models import Folder, fit_importance, held_out, train_quality

GOOD = ["theorem", "proof", "lemma", "integral", "measure", "bounded", "space", "metric"]
OTHER = ["buy", "cheap", "now", "click", "offer", "deal", "free", "winner", "casino", "bonus"]
BOTH = ["the", "of", "and", "to", "a", "in", "is", "that", "for", "it"]


def run(*overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "megafm.data", *overrides], capture_output=True, text=True
    )


def text(own: list[str], seed: int) -> str:
    return " ".join(random.Random(f"{own[0]}{seed}").choices(own + 2 * BOTH, k=60))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Forty texts of each kind, and a crawl of ten of each that are in neither."""
    for name, own in (("good", GOOD), ("other", OTHER)):
        lines = [json.dumps({"text": text(own, seed)}) + "\n" for seed in range(40)]
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jsonl").write_text("".join(lines))
    (tmp_path / "crawl").mkdir()
    for seed in range(100, 110):
        (tmp_path / "crawl" / f"good{seed}.txt").write_text(text(GOOD, seed))
        (tmp_path / "crawl" / f"other{seed}.txt").write_text(text(OTHER, seed))
    return tmp_path


@pytest.mark.parametrize(
    ("action", "places", "signal", "rule"),
    [
        ("train_quality", ("quality.good", "quality.other"), "quality_signals_v1", "quality_v1"),
        (
            "fit_importance",
            ("importance.target", "importance.corpus"),
            "importance_signals_v1",
            "importance_v1",
        ),
    ],
)
def test_a_model_of_two_folders_chooses_documents(
    folders: Path, action: str, places: tuple[str, str], signal: str, rule: str
) -> None:
    out = folders / "model"
    first, second = places
    trained = run(
        f"action={action}",
        f"{first}={folders}/good",
        f"{second}={folders}/other",
        f"{first.partition('.')[0]}.out={out}",
    )
    assert trained.returncode == 0 and trained.stderr == "", trained.stderr
    assert f"{out}: steps.signals.{signal}.model={out}" in trained.stdout
    settings = [
        f"data.dir={folders}/data",
        "source=files",
        f"source.path={folders}/crawl",
        "split.validation_fraction=0",
        f"+steps.signals.{signal}.model={out}",
        f"+steps.rules.{rule}={{}}",
    ]
    prepare(compose("data", DataJob, settings), lambda text: None)
    kept = sorted(one.id for one in read_documents(folders / "data", "train"))
    assert kept == [f"good{seed}.txt" for seed in range(100, 110)]


def test_what_is_held_out_is_told_and_not_trained_on(folders: Path) -> None:
    (folders / "other" / "b.jsonl").write_text("{\n")
    count = sum(held_out(text(GOOD, seed)) for seed in range(40))
    assert 0 < count < 12
    said: list[str] = []
    config = QualityModel(*(str(folders / name) for name in ("good", "other", "model")))
    train_quality(config, said.append)
    assert f"{count} of {count} held out are told right" in said[0]
    assert said[1].endswith("not read: 1 no_json")


def test_the_words_of_the_target_weigh_more(folders: Path) -> None:
    said: list[str] = []
    config = ImportanceModel(*(str(folders / name) for name in ("good", "other", "model")))
    fit_importance(config, said.append)
    assert "good: 40 texts, mean log weight of a word +" in said[0]
    assert "other: 40 texts, mean log weight of a word -" in said[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "quality.out=null: set quality.out=DIR"),
        ({"out": "x"}, "quality.good=null: set quality.good=DIR"),
        ({"out": "x", "good": "no/such"}, "quality.good=no/such: not there; set a folder"),
        ({"out": "x", "good": "{}/empty"}, "quality.good=.*no text there that could be read"),
        ({"out": "x", "good": "{}/bad"}, "no text there .*not read: 1 no_json; set a folder"),
    ],
)
def test_a_mistake_names_the_setting(
    tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.jsonl").write_text("{\n")
    config = {name: value.format(tmp_path) for name, value in settings.items()}
    with pytest.raises(ValueError, match=message):
        train_quality(QualityModel(**config))


def test_a_book_in_one_file_is_one_text(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("It was the best of times. " * 50_000)
    assert [len(text) for text in Folder("quality.good", str(tmp_path)).texts()] == [1_300_000]
