"""Quality, importance and toxicity: what is learnt from two folders, and lists of words."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest

from megafm.data.config import Steps
from megafm.data.document import Drop
from megafm.data.steps import build, importance, quality
from megafm.data.steps.importance import Importance, ImportanceSignal, log_weight, resample
from megafm.data.steps.linear import LinearModel, load
from megafm.data.steps.quality import Quality, QualitySignal, score, train
from megafm.data.steps.step import describe
from megafm.data.steps.toxicity import Toxicity, ToxicitySignal
from megafm.data.steps.words import hashes, runs
from megafm.data.text_models import Folder
from tests.data.helpers import document

GOOD = ["theorem", "proof", "lemma", "integral", "measure", "bounded", "space", "metric"]
BAD = ["buy", "cheap", "now", "click", "offer", "deal", "free", "winner", "casino", "bonus"]
BOTH = ["the", "of", "and", "to", "a", "in", "is", "that", "for", "it"]


def texts(own: list[str], seed: int, count: int = 30) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(own + 2 * BOTH, k=40)) for _ in range(count)]


def test_quality_learns_two_folders(tmp_path):
    for name, own in (("good", GOOD), ("other", BAD)):
        (tmp_path / name).mkdir()
        for i, text in enumerate(texts(own, seed=i) for i in range(2)):
            (tmp_path / name / f"{i}.txt").write_text("\n".join(text))
        for i, text in enumerate(texts(own, seed=9)):
            (tmp_path / name / f"single{i}.txt").write_text(text)
    good, other = (Folder(name, str(tmp_path / name)) for name in ("good", "other"))
    model = train(good.texts(), other.texts())
    assert all(score(model, text) > 0.7 for text in texts(GOOD, seed=1000))
    assert all(score(model, text) < 0.3 for text in texts(BAD, seed=1000))

    model.save(tmp_path / "model")
    steps = Steps(signals={"quality_signals_v1": {"model": str(tmp_path / "model")}})
    pipeline = build(Steps(rules={"quality_v1": {"min_score": 0.6}}, signals=steps.signals))
    good, bad = (document("a.txt", texts(own, seed=5)[0]) for own in (GOOD, BAD))
    assert pipeline.run(good) is good and pipeline.run(bad) == Drop("low_quality")
    assert pipeline.measure(good)["quality_signals_v1.score"] == score(model, good.text)


def test_training_finds_the_minimum_and_is_the_same_each_time():
    good, other = texts(GOOD, 0, 8), texts(BAD, 0, 5)
    model, again = train(good, other, l2=0.05), train(good, other, l2=0.05)
    assert np.array_equal(model.weights, again.weights) and model.bias == again.bias

    def loss(weights, bias):
        """Mean over classes of the mean log loss, plus l2 / 2 |w|^2, the bias too."""
        total = 0.05 / 2 * (weights @ weights + bias * bias)
        for own, sign in ((good, 1), (other, -1)):
            for text in own:
                of, values = quality._vector(text)
                margin = sign * (values @ weights[of] + bias)
                total += 0.5 / len(own) * math.log1p(math.exp(-margin))
        return total

    weights = model.weights.astype(np.float64)
    least = loss(weights, model.bias)
    rng = np.random.default_rng(0)
    for _ in range(5):
        step = np.where(weights != 0, rng.normal(size=len(weights)), 0)
        step *= 0.05 * np.linalg.norm(weights) / np.linalg.norm(step)
        assert loss(weights + step, model.bias) > least
        assert loss(weights - step, model.bias) > least


def test_both_classes_are_needed():
    with pytest.raises(ValueError, match="0 good and 1 other texts: need both"):
        train([], ["text"])


def test_a_log_ratio_by_hand(monkeypatch):
    """Two buckets in place of 10,000, and single words: counts 3 + 1 and 1 + 1 of target, of 6;
    1 + 1 and 2 + 1 of the corpus, of 5."""
    monkeypatch.setattr(importance, "BUCKETS", 2)
    monkeypatch.setattr(importance, "MAX_RUN", 1)
    parity = {word: int(runs(hashes([word]), 1)[0] % 2) for word in GOOD + BAD}
    even, odd = (next(word for word in parity if parity[word] == side) for side in (0, 1))
    model = importance.fit([f"{even} {even} {odd}", even], [f"{even} {odd}", odd])
    expected = [math.log(4 / 6 / (2 / 5)), math.log(2 / 6 / (3 / 5))]
    assert model.weights == pytest.approx(expected)
    assert log_weight(model, f"{even} {even} {odd}") == pytest.approx(2 * expected[0] + expected[1])


def test_importance_as_a_rule(tmp_path):
    importance.fit(texts(GOOD, 0), texts(GOOD, 1) + texts(BAD, 1)).save(tmp_path)
    signal = ImportanceSignal(str(tmp_path))
    assert Importance()(signal(document("a", texts(GOOD, 7)[0]))) is None
    assert Importance()(signal(document("a", texts(BAD, 7)[0]))) == "unlike_target"
    with pytest.raises(ValueError, match="is of importance; set one that is of quality"):
        QualitySignal(str(tmp_path))(document("a", ""))
    with pytest.raises(ValueError, match="no model"):
        load(str(tmp_path / "none"), "quality")
    with pytest.raises(ValueError, match="set .steps.signals.quality_signals_v1.model=DIR"):
        build(Steps(rules={"quality_v1": {}}))


def test_resampling_is_in_proportion_and_does_not_depend_on_order():
    weights = {"a": math.log(6), "b": math.log(3), "c": math.log(1)}
    first = Counter(resample(weights, 1, seed)[0] for seed in range(4000))
    assert [first[name] / 4000 for name in "abc"] == pytest.approx([0.6, 0.3, 0.1], abs=0.03)
    assert resample(weights, 2, 7) == resample(dict(reversed(weights.items())), 2, 7)


def test_a_model_is_stored_without_pickle(tmp_path):
    weights = np.arange(4, dtype=np.float32)
    LinearModel("quality", weights, 0.5, 1).save(tmp_path)
    found = load(str(tmp_path), "quality")
    assert np.array_equal(found.weights, weights) and (found.bias, found.max_run) == (0.5, 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_a_model_that_is_trained_again_is_read_again(tmp_path):
    """And one that is only written again is not."""
    good, other = texts(GOOD, 0), texts(BAD, 0)
    signal, found = QualitySignal(str(tmp_path)), document("a", texts(GOOD, 7)[0])
    train(good, other).save(tmp_path)
    before, model = signal(found)["score"], load(str(tmp_path), "quality")
    train(good, other).save(tmp_path)
    assert load(str(tmp_path), "quality") is model
    train(other, good).save(tmp_path)
    assert signal(found)["score"] == pytest.approx(1 - before)


def test_a_list_of_words_that_changes_is_read_again(tmp_path):
    path = tmp_path / "words.txt"
    signal = ToxicitySignal(words=str(path))
    path.write_text("rainbow\n")
    assert signal(document("a", "rainbow"))["different"] == 1
    path.write_text("storm\n")
    assert signal(document("a", "rainbow"))["different"] == 0


def angry(text: str) -> float:
    return float("!" in text)


def test_toxicity():
    rule, signal = Toxicity(), ToxicitySignal()
    few = "shit " + "word " * 20
    assert rule(signal(document("a", few))) is None  # one word
    many = "shit fuck porn " + "word " * 20
    assert rule(signal(document("a", many))) == "toxic_words"
    assert rule(signal(document("a", many + "word " * 400))) is None  # 3 of 423
    assert rule(signal(document("a", "Essex, Scunthorpe and cocktails"))) is None


def test_a_classifier_and_a_list_of_ones_own(tmp_path):
    hook = ToxicitySignal(classifier="tests.data.steps.test_models:angry")
    assert Toxicity()(hook(document("a", "no!"))) == "toxic_score"
    assert Toxicity()(hook(document("a", "no"))) is None
    with pytest.raises(ValueError, match="classifier=no.such:f: .*set MODULE:FUNCTION"):
        ToxicitySignal(classifier="no.such:f")(document("a", ""))
    (tmp_path / "words.txt").write_text("# mine\nspam\n")
    assert ToxicitySignal(str(tmp_path / "words.txt"))(document("a", "Spam spam"))["share"] == 1


def test_quality_does_not_judge_code():
    assert "code" in Quality().skip and Quality()({"score": 0.4}) == "low_quality"


def test_the_contents_of_a_file_describe_a_step_and_its_place_does_not(tmp_path):
    paths = [tmp_path / name for name in ("a.txt", "b.txt")]
    for path in paths:
        path.write_text("spam\n")
    first, second = (describe(ToxicitySignal(str(path))) for path in paths)
    assert first == second
    paths[1].write_text("eggs\n")
    assert describe(ToxicitySignal(str(paths[1]))) != first
    with pytest.raises(ValueError, match="toxicity_signals_v1: .*none.txt: No such file"):
        describe(ToxicitySignal(str(tmp_path / "none.txt")))
