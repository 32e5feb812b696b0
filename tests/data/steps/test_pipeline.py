from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megafm.config import compose
from megafm.data.config import DataJob, Steps
from megafm.data.document import Document, Drop
from megafm.data.steps import build, domain, registry
from megafm.data.steps.copies import RepeatedRuns, SimHash
from tests.data.helpers import document

HERE = "tests.data.steps.test_pipeline"


@dataclass(frozen=True)
class Upper:
    version: ClassVar[str] = "upper_v1"
    reasons: ClassVar[tuple[str, ...]] = ()

    def __call__(self, document: Document) -> Document:
        return Document(document.id, document.text.upper(), "files", document.path, "MIT")


@dataclass(frozen=True)
class Letters:
    of: str = "A"
    version: ClassVar[str] = "letters_v1"
    names: ClassVar[tuple[str, ...]] = ("count",)

    def __call__(self, document: Document) -> dict[str, float]:
        return {"count": float(document.text.count(self.of))}


@dataclass(frozen=True)
class FewLetters:
    most: int = 2
    skip: tuple[str, ...] = ("code",)
    version: ClassVar[str] = "few_letters_v1"
    reasons: ClassVar[tuple[str, ...]] = ("many_letters",)
    signal: ClassVar[type] = Letters

    def __call__(self, values: Mapping[str, float]) -> str | None:
        return "many_letters" if values["count"] > self.most else None


def of_here(**settings: int) -> Steps:
    return Steps({f"{HERE}:Upper": {}}, {}, {f"{HERE}:FewLetters": dict(settings)})


def test_steps_then_signals_then_rules():
    pipeline = build(of_here())
    assert pipeline.run(document("a.txt", "banana")) == Drop("many_letters")
    kept = pipeline.run(document("a.txt", "bana"))
    assert isinstance(kept, Document) and kept.text == "BANA"
    assert isinstance(pipeline.run(document("a.py", "banana")), Document)


def test_another_threshold_decides_on_values_that_were_written():
    one = document("a.txt", "BANANA")
    values = build(of_here()).measure(one)
    assert build(of_here()).decide(one, values) == "many_letters"
    assert build(of_here(most=3)).decide(one, values) is None


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (Steps({"sise_v1": {}}), "steps.transform.sise_v1: not among size_v1"),
        (Steps({"size_v1": {"max_byte": 1}}), "size_v1: unknown config key 'max_byte'.*max_bytes"),
        (Steps({"size_v1": {"max_bytes": 0}}), "size_v1: max_bytes=0: must be from 1"),
        (Steps({"size_v1": {"max_bytes": "x"}}), "steps.transform.size_v1: max_bytes='x'"),
        (Steps({"no_module:X": {}}), "steps.transform.no_module:X: cannot be imported"),
    ],
)
def test_a_mistake_names_the_step_and_what_works(steps, message):
    with pytest.raises(ValueError, match=message):
        build(steps)


def test_names_are_versions_and_no_two_are_the_same():
    for known in (registry.STEPS, registry.SIGNALS, registry.RULES):
        assert all(one.__doc__ or one.version in ("size_v1", "empty_v1") for one in known.values())
    for rule in registry.RULES.values():
        assert registry.SIGNALS[rule.signal.version] is rule.signal


@pytest.mark.parametrize("group", ["none", "web", "code", "prose", "mixed"])
def test_each_group_builds(group):
    build(compose("data", DataJob, [f"steps={group}"]).steps)


def test_each_reason_is_reached_in_a_test():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    parts = [*registry.STEPS.values(), *registry.RULES.values(), RepeatedRuns, SimHash]
    reasons = {reason for part in parts for reason in part.reasons}
    assert {reason for reason in reasons if f'"{reason}"' not in tests} == set()


OWN = ("counts", "language_score", "notes", "signals", "text", "id", "language", "pii_v1")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.sampled_from(OWN) | st.text(), VALUES).filter(lambda m: "domain" not in m)
)
def test_no_key_of_metadata_is_taken_for_what_the_pipeline_writes(metadata):
    steps = Steps(
        {"pii_v1": {}, "language_v1": {}},
        signals={"gopher_signals_v1": {}},
        rules={"language_rule_v1": {"min_score": 0.1}},
    )
    pipeline = build(steps)
    plain = document("a.txt", "You can write to the people of the house at ann@mail.org today.")
    wanted = pipeline.run(dataclasses.replace(plain, metadata={}))
    found = pipeline.run(dataclasses.replace(plain, metadata=metadata))
    assert isinstance(wanted, Document) and set(wanted.notes) == {"counts", "language_score"}
    assert found == dataclasses.replace(wanted, metadata=metadata)
    assert pipeline.measure(found) == pipeline.measure(wanted)


@pytest.mark.parametrize(
    ("path", "metadata", "expected"),
    [
        ("a/b.PY", {}, "code"),
        ("crawl.jsonl", {}, "text"),  # of each of its records
        ("https://example.org/index.php", {}, "text"),
        ("a.csv", {"domain": "table"}, "table"),
        ("a.py", {"domain": "books"}, "books"),
    ],
)
def test_domain(path, metadata, expected):
    assert domain(Document("id", "text", "files", path, "MIT", metadata=metadata)) == expected
