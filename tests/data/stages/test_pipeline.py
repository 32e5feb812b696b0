from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path

import pytest

from megafm.data import Manifest, inputs, read_documents
from megafm.data.config import DataJob, Executor, Shuffle, Steps
from megafm.data.prepare import prepare
from tests.data.helpers import files_job, program
from tests.data.stages.helpers import corpus_with_copies, cut_small, digests, kill_until_done, made


def silent(text: str) -> None:
    pass


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataJob:
    cut_small(monkeypatch)
    return files_job(corpus_with_copies(tmp_path / "corpus"), tmp_path / "data")


def stages(before: dict[str, int], after: dict[str, int]) -> Counter[str]:
    """How many units of each stage were made anew."""
    return Counter(name.partition("/")[0] for name in after if after[name] != before.get(name))


def documents(data_dir: str) -> dict[str, list[str]]:
    return {s: [d.id for d in read_documents(data_dir, s)] for s in ("train", "validation")}


def test_the_outcome_does_not_depend_on_workers_or_on_the_cut(
    job: DataJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = prepare(job, silent)
    assert manifest.dropped == {"exact_duplicate": 15, "near_duplicate": 15}
    assert len(manifest.files) > 4
    expected = digests(tmp_path / "data")
    two = dataclasses.replace(
        job,
        data=dataclasses.replace(job.data, dir=str(tmp_path / "two")),
        executor=Executor(workers=2),
    )
    prepare(two, silent)
    assert digests(tmp_path / "two") == expected
    monkeypatch.undo()  # everything in one shard and one range
    whole = dataclasses.replace(job, data=dataclasses.replace(job.data, dir=str(tmp_path / "one")))
    assert prepare(whole, silent).snapshot_id == manifest.snapshot_id
    assert documents(whole.data.dir) == documents(job.data.dir)


def test_the_smallest_id_of_the_copies_stays(job: DataJob) -> None:
    prepare(job, silent)
    kept = {name for names in documents(job.data.dir).values() for name in names}
    for number in range(60):
        assert (f"{number:03}.py" in kept) and f"a{number}.py" not in kept
        assert f"b{number}.py" not in kept


def test_texts_without_a_word_are_not_taken_for_each_other(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, text in enumerate(("\u3002\uff01", "\u2026\u2014", "a few words", "another kind")):
        (corpus / f"{number}.txt").write_text(text * 3)
    manifest = prepare(files_job(corpus, tmp_path / "data"), silent)
    assert "near_duplicate" not in manifest.dropped


def test_another_width_of_shingles_is_compared_anew(job: DataJob, tmp_path: Path) -> None:
    """As a run without what earlier settings have left."""
    prepare(job, silent)
    wide = dataclasses.replace(
        job, near_duplicates=dataclasses.replace(job.near_duplicates, width=9)
    )
    prepare(wide, silent)
    fresh = dataclasses.replace(wide, data=dataclasses.replace(job.data, dir=str(tmp_path / "new")))
    prepare(fresh, silent)
    assert documents(wide.data.dir) == documents(fresh.data.dir)


def test_the_order_is_a_function_of_the_seed(job: DataJob) -> None:
    prepare(job, silent)
    first = documents(job.data.dir)
    manifest = Manifest.load(job.data.dir)
    prepare(dataclasses.replace(job, shuffle=Shuffle(seed=5)), silent)
    second = documents(job.data.dir)
    assert second["train"] != first["train"]
    assert sorted(second["train"]) == sorted(first["train"])
    assert Manifest.load(job.data.dir).snapshot_id != manifest.snapshot_id


def test_a_threshold_changes_without_scoring_again(job: DataJob, tmp_path: Path) -> None:
    rule = {"gopher_quality_v1": {"min_words": 10}}
    prepare(dataclasses.replace(job, steps=Steps(rules=rule)), silent)
    before = made(tmp_path / "data")
    rule = {"gopher_quality_v1": {"min_words": 100}}
    manifest = prepare(dataclasses.replace(job, steps=Steps(rules=rule)), silent)
    anew = stages(before, made(tmp_path / "data"))
    assert anew["read"] == anew["score"] == 0
    assert anew["decide"] > 0
    assert manifest.dropped


def test_a_new_file_costs_its_own_shard(job: DataJob, tmp_path: Path) -> None:
    prepare(job, silent)
    before = made(tmp_path / "data")
    (tmp_path / "corpus" / "zzz.py").write_text(program(1000))
    manifest = prepare(job, silent)
    anew = stages(before, made(tmp_path / "data"))
    assert anew["read"] == 1 < sum(name.startswith("read/") for name in before)
    assert sum(s.documents for s in manifest.splits.values()) == 61


def test_killed_at_any_point_it_goes_on(job: DataJob, tmp_path: Path) -> None:
    """The driver, at random moments; its workers end with it."""
    prepare(job, silent)
    data_dir = tmp_path / "killed"
    killed = dataclasses.replace(
        job, data=dataclasses.replace(job.data, dir=str(data_dir)), executor=Executor(workers=2)
    )
    assert kill_until_done(killed, random.Random(0), (10, 60)) >= 2
    assert digests(data_dir) == digests(tmp_path / "data")


def test_shards_are_cut_by_their_names_alone(job: DataJob) -> None:
    runs = inputs.list_inputs(job.source).runs
    assert len(runs) > 5
    assert len({run.name for run in runs}) == len(runs)
    names = [shard.name for run in runs for shard in run.shards]
    assert names == sorted(names) and len(names) == 90


def test_fields_of_records_named_as_our_own_are_kept_apart(tmp_path: Path) -> None:
    texts = [f"{program(number)}\n# ann{number}@mail.org\n" for number in range(4)]
    rows = [{"text": text, "counts": 7, "notes": {"counts": "x"}} for text in texts]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    job = files_job(tmp_path / "a.jsonl", tmp_path / "data")
    fields = dataclasses.replace(job.source.fields, metadata=("counts", "notes"))
    job = dataclasses.replace(
        job,
        source=dataclasses.replace(job.source, fields=fields),
        steps=Steps({"pii_v1": {}}),
    )
    prepare(job, silent)
    splits = ("train", "validation")
    found = [one for split in splits for one in read_documents(tmp_path / "data", split)]
    assert [one.metadata["counts"] for one in found] == [7] * 4
    assert [one.metadata["notes"] for one in found] == [{"counts": "x"}] * 4
    assert [one.notes for one in found] == [{"counts": {"pii_v1": {"EMAIL": 1}}}] * 4
