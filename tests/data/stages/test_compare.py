"""Corpus steps in the pipeline: all documents are compared, across shards and workers."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from megafm.data import Manifest, read_documents
from megafm.data.config import DataJob, Executor, Steps
from megafm.data.document import Document
from megafm.data.prepare import prepare
from megafm.data.stages import pipeline
from megafm.data.stages.cleaning import Read, documents
from megafm.data.statistics import Statistics
from megafm.data.steps import build
from megafm.data.steps.pipeline import compare
from megafm.report.corpus import write_data_report
from tests.data.helpers import files_job, program
from tests.data.stages.helpers import cut_small, digests, made

HEAD = " ".join(f"header{i}" for i in range(12))


def silent(text: str) -> None:
    pass


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataJob:
    """Programs of which every third has one and the same head, and one is nothing else."""
    cut_small(monkeypatch)
    (tmp_path / "corpus").mkdir()
    for number in range(18):
        text = program(number) if number % 3 else f"{HEAD}\n{program(number)}"
        (tmp_path / "corpus" / f"{number:03}.py").write_text(text)
    (tmp_path / "corpus" / "zzz.py").write_text(HEAD)
    steps = Steps(corpus={"repeated_runs_v1": {"min_length": 12}})
    return dataclasses.replace(files_job(tmp_path / "corpus", tmp_path / "data"), steps=steps)


def test_the_first_copy_stays_in_one_document_of_the_corpus(job: DataJob) -> None:
    manifest = prepare(job, silent)
    assert manifest is not None and manifest.dropped == {"repeated": 1}
    found = everything(job)
    assert len(found) == 18
    with_head = [document for document in found if "header1 " in document.text]
    assert [document.id for document in with_head] == [min(d.id for d in found)]
    cut = [document for document in found if "counts" in document.notes]
    assert {document.id[-6:] for document in cut} == {f"{n:03}.py" for n in range(3, 18, 3)}
    for document in cut:  # "def" comes after every head
        assert document.text == program(int(document.id[-6:-3])).removeprefix("def ")


def test_the_report_counts_the_step_and_shows_what_it_cut(job: DataJob) -> None:
    prepare(job, silent)
    found = Statistics.load(job.data.dir)
    (after,) = (left for left in found.left if left.stage == "compared_1")
    (before,) = (left for left in found.left if left.step == "table_v1")
    assert (after.step, before.documents - after.documents) == ("repeated_runs_v1", 1)
    cut = len(f"{HEAD}\n") * 5 + len("def ") * 5 + len(HEAD)
    assert before.bytes - after.bytes == cut
    examples = {example.where[-6:]: example for example in found.examples}
    assert examples["zzz.py"].reason == "repeated" and examples["zzz.py"].text == HEAD
    changed = [example for example in found.examples if example.reason == "changed"]
    assert len(changed) == 3
    for example in changed:
        assert example.text.startswith(f"{HEAD}\ndef ") and not example.kept.startswith(HEAD)
        assert example.kept in program(int(example.where[-6:-3]))
    page = write_data_report(job.data.dir).read_text()
    assert "repeated_runs_v1" in page and changed[0].kept[:20] in page


def test_workers_change_nothing_and_a_rerun_makes_nothing_again(
    job: DataJob, tmp_path: Path
) -> None:
    prepare(job, silent)
    expected, before = digests(tmp_path / "data"), made(tmp_path / "data")
    stages = {name.partition("/")[0] for name in before}
    assert {"keys_1", "repeated_1", "compared_1"} <= stages
    prepare(job, silent)
    assert made(tmp_path / "data") == before
    two = files_job(tmp_path / "corpus", tmp_path / "two")
    prepare(dataclasses.replace(two, steps=job.steps, executor=Executor(workers=2)), silent)
    assert digests(tmp_path / "two") == expected


def test_stages_make_what_the_steps_make_of_all_documents_together(
    job: DataJob, tmp_path: Path
) -> None:
    """Steps one after the other, of pieces in many ranges and of fingerprints in one."""
    (tmp_path / "corpus" / "lib").mkdir()
    for number in range(6):  # nearly the same programs, and a line of all of them
        text = f"# a licence\n{program(100 + number % 3)}\nprint({number})\n"
        (tmp_path / "corpus" / "lib" / f"near{number}.py").write_text(text)
    steps: dict[str, dict[str, Any]] = {
        "simhash_v1": {"max_bits": 9},
        "repeated_runs_v1": {"min_length": 12},
        "repeated_lines_v1": {"min_documents": 3},
    }
    job = dataclasses.replace(job, steps=Steps(corpus=steps))
    prepare(job, silent)
    read, *_, third = [stage for stage in pipeline(job) if isinstance(stage, Read)]
    left = of_stage(read)
    for step in build(job.steps).corpus:
        left = [one for one in compare(step, left) if isinstance(one, Document)]
    assert of_stage(third) == left
    counts = Counter(step for one in left for step in one.notes.get("counts", {}))
    assert counts == {"repeated_runs_v1": 5, "repeated_lines_v1": 3}
    assert Manifest.load(job.data.dir).dropped == {"near_duplicate": 3, "repeated": 1}
    units = Counter(name.partition("/")[0] for name in made(tmp_path / "data"))
    assert units["repeated_1"] == 1 and units["repeated_2"] == units["repeated_3"] >= 16


def of_stage(stage: Read) -> list[Document]:
    return [document for name in stage.names() for _, document in documents(stage, name)]


def everything(job: DataJob) -> list[Document]:
    return [one for split in ("train", "validation") for one in read_documents(job.data.dir, split)]


def test_another_setting_compares_again_and_reads_nothing(job: DataJob, tmp_path: Path) -> None:
    prepare(job, silent)
    before = made(tmp_path / "data")
    longer = Steps(corpus={"repeated_runs_v1": {"min_length": 13}})
    prepare(dataclasses.replace(job, steps=longer), silent)
    after = made(tmp_path / "data")
    keys = [unit for unit in before if unit.startswith("keys_1/")]
    assert all(after[unit] != before[unit] for unit in keys)
    assert all(after[unit] == before[unit] for unit in before if unit.startswith("read/"))
