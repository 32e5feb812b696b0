"""Every planted evaluation item is found, with its set, its name and where it stands."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm.data.config import Steps
from megafm.data.document import Drop
from megafm.data.prepare import prepare
from megafm.data.steps.decontaminate import Decontaminate, EvaluationIndex
from megafm.data.steps.step import describe
from megafm.data.steps.words import words
from tests.data.helpers import document, files_job, program

quick = settings(deadline=None, max_examples=60)
RUNS = Decontaminate(("none",), min_similarity=1.0)
BOTH = Decontaminate(("none",))
QUESTION = (
    "A train leaves the station at nine with forty people on board and stops twice before "
    "noon; how many people are on it when it arrives?"
)
ANSWER = "Nobody was left on the train at noon."


def found(config: Decontaminate, text: str, *items: str) -> list[tuple[str, int, int]]:
    index = EvaluationIndex([("set", f"{i}", item) for i, item in enumerate(items)], config)
    return [(match.item, match.begin, match.end) for match in index.matches(text)]


# Words of several scripts, cases and forms; what stands between them does not matter.
WORD = st.one_of(
    st.text("abcdeXYZ", min_size=1, max_size=6),
    st.text("\u00e4\u00df\u0130\u00e9\u0434\u0436", min_size=1, max_size=4),
    st.text("\u4e2d\u6587\u8bc4\u6d4b\u3042\u3044", min_size=1, max_size=4),
    st.integers(0, 999).map(str),
)
ITEM = st.lists(WORD, min_size=8, max_size=30).map(" ".join)
BETWEEN = st.text(" .,;:!?\n\t\"'()-_", min_size=1, max_size=5)


@quick
@given(st.lists(ITEM, min_size=1, max_size=4), st.data())
def test_every_planted_item_is_found(items, data):
    config = data.draw(st.sampled_from([RUNS, BOTH]))
    which = data.draw(st.integers(0, len(items) - 1))
    before, after = data.draw(ITEM), data.draw(ITEM)
    planted = data.draw(BETWEEN).join(items[which].split())
    first, second = data.draw(BETWEEN), data.draw(BETWEEN)
    text = (
        f"{before}{first}{planted.upper() if data.draw(st.booleans()) else planted}{second}{after}"
    )
    if words(planted.upper()) != words(planted):  # one letter becomes two, or loses its dot
        text = f"{before}{first}{planted}{second}{after}"
    begin = len(before) + len(first)
    spans = [(one[1], one[2]) for one in found(config, text, *items) if one[0] == str(which)]
    assert any(b < begin + len(planted) and e > begin for b, e in spans)


def test_a_span_is_what_is_in_common():
    text = f"Before it. {QUESTION} After it."
    begin = text.index("A train")
    end = text.index("?")
    assert found(RUNS, text, QUESTION) == [("0", begin, end)]
    half = " ".join(QUESTION.split()[5:18])
    assert found(RUNS, f"x {half} y", QUESTION) == [("0", 2, 2 + len(half))]
    assert found(RUNS, QUESTION.upper(), QUESTION) == [("0", 0, len(QUESTION) - 1)]
    twelve = " ".join(QUESTION.split()[5:17])
    assert found(RUNS, f"x {twelve} y", QUESTION) == []


def test_short_items_count_whole_and_very_short_ones_not():
    assert found(RUNS, f"It said: {ANSWER} So it was.", ANSWER, "Yes, he did.") == [("0", 9, 45)]
    assert found(RUNS, "Yes, he did. Nobody was left on the train at all.", ANSWER, "Yes.") == []
    assert EvaluationIndex([("set", "1", "Yes, he did.")], RUNS).too_short == 1


def test_a_near_copy_is_found_by_similarity_and_reported_as_such():
    edited = QUESTION.replace("nine", "ten").replace("twice", "once").replace("noon", "two")
    prose = "The committee met on Tuesday to talk about the new bridge over the river. " * 5
    text = f"{prose}\n\n{edited}\n\n{prose}"
    assert found(RUNS, text, QUESTION) == []
    index = EvaluationIndex(
        [("arithmetic", "q7", QUESTION)], Decontaminate(("x",), min_similarity=0.3)
    )
    (match,) = index.matches(text)
    assert (match.evaluation, match.item, match.by) == ("arithmetic", "q7", "similarity")
    assert text[match.begin : match.end] == edited


def test_a_text_in_two_sets_is_reported_for_both():
    index = EvaluationIndex([("a", "1", QUESTION), ("b", "2", QUESTION)], RUNS)
    assert {(match.evaluation, match.item) for match in index.matches(QUESTION)} == {
        ("a", "1"),
        ("b", "2"),
    }


def test_from_files(tmp_path):
    rows = [
        {"id": "q7", "question": QUESTION, "answer": "none"},
        {"question": ANSWER, "answer": ""},
    ]
    path = tmp_path / "arithmetic.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    step = Decontaminate((str(path),), fields=("question",))
    clean = document("a.txt", "Nothing of that sort.")
    assert step(clean) is clean
    before = describe(step)
    assert before.startswith("decontaminate_v1 Decontaminate(fields=")
    drop = step(document("a.txt", f"x {ANSWER}"))
    assert drop == Drop("contaminated") and "a.txt: arithmetic/2[2:38] by run" in drop.where
    with pytest.raises(
        ValueError, match=r"arithmetic.jsonl, line 1: no item \(KeyError\('text'\)\)"
    ):
        Decontaminate((str(path),))(clean)
    packed = tmp_path / "arithmetic.jsonl.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert Decontaminate((str(packed),), ("question",))(document("a.txt", f"x {ANSWER}")) == drop
    path.write_text("")
    assert describe(step) != before  # other files, other documents
    with pytest.raises(ValueError, match="sets=.*set files"):
        Decontaminate()


def test_every_span_is_reported(tmp_path):
    (tmp_path / "set.jsonl").write_text(json.dumps({"text": QUESTION}) + "\n")
    (tmp_path / "texts").mkdir()
    for number in range(9):
        (tmp_path / "texts" / f"{number}.txt").write_text(f"{number}: {QUESTION} No.{number}")
        (tmp_path / "texts" / f"clean_{number}.py").write_text(program(number))
    steps = Steps(transform={"decontaminate_v1": {"sets": [str(tmp_path / "set.jsonl")]}})
    prepare(
        replace(files_job(tmp_path / "texts", tmp_path / "data"), steps=steps), lambda text: None
    )
    files = (tmp_path / "data" / "stages" / "read").glob("*/dropped.jsonl")
    rows = [json.loads(line) for path in files for line in path.read_text().splitlines()]
    end = 3 + len(QUESTION.rstrip(".?"))
    assert sorted(row["where"] for row in rows) == [
        f"{number}.txt: set/1[3:{end}] by run" for number in range(9)
    ]


def test_a_set_that_changes_is_read_again(tmp_path):
    path = tmp_path / "set.jsonl"
    step = Decontaminate((str(path),))
    for item, other in ((QUESTION, ANSWER), (ANSWER + " Not a soul.", QUESTION)):
        path.write_text(json.dumps({"text": item}) + "\n")
        assert isinstance(step(document("a", f"So: {item}")), Drop)
        assert step(document("b", other)) == document("b", other)
