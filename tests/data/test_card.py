from __future__ import annotations

from pathlib import Path

from megafm.data import Manifest
from megafm.data.config import DataJob, Source, Split, Steps
from megafm.data.prepare import prepare
from megafm.data.statistics import Statistics
from megafm.paths import DataDir
from tests.data.stages.helpers import corpus_with_copies


def made(tmp_path: Path) -> Path:
    corpus = corpus_with_copies(tmp_path / "corpus", 20)
    (corpus / "empty.py").touch()
    (corpus / "short.py").write_text("some words here <b>\n")
    rule = {"min_words": 20, "min_alphabetic_words": 0, "min_stop_words": 0, "skip": ["web"]}
    job = DataJob(
        data=DataDir(str(tmp_path / "data")),
        source=Source(kind="files", path=str(corpus), licence="MIT"),
        steps=Steps(rules={"gopher_quality_v1": rule}),
        split=Split(validation_fraction=0.2),
    )
    prepare(job, say=lambda text: None)
    return tmp_path / "data"


def test_statistics_add_up_to_what_is_left(tmp_path: Path) -> None:
    folder = made(tmp_path)
    found, manifest = Statistics.load(folder), Manifest.load(folder)
    left = sum(split.documents for split in manifest.splits.values())
    lost = sum(n for loss in found.funnel if loss.stage != "list" for n in loss.dropped.values())
    assert found.read - lost == left
    assert {loss.stage for loss in found.funnel} >= {"read", "decide", "exact", "resolve"}
    assert found.left[0].documents == found.read
    assert [one.step for one in found.left] == [
        *("source", "size_v1", "empty_v1", "long_line_v1", "generated_v1", "table_v1"),
        *("gopher_quality_v1", "exact_duplicate", "near_duplicate"),
    ]
    size = sum(split.bytes for split in manifest.splits.values())
    assert (found.left[-1].documents, found.left[-1].bytes) == (left, size)
    sizes = [one.bytes for one in found.left]
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 4
    assert sizes[0] - size == sum(n for loss in found.funnel for n in loss.bytes.values())
    assert sum(sum(counts.values()) for counts in found.lengths.values()) == left
    assert sum(count for count, _ in found.languages.values()) == left
    assert {example.reason for example in found.examples} >= {"empty"}
    assert any(example.text == "some words here <b>\n" for example in found.examples)
    copies = [example for example in found.examples if example.reason == "exact_duplicate"]
    assert copies[0].where.startswith("a") and copies[0].text.startswith("def ")
    number = int(copies[0].where.partition(".py: as 0")[0].removeprefix("a"))
    assert copies[0].where == f"a{number}.py: as {number:03}.py"
    assert all(cluster.size == 2 and cluster.removed == 1 for cluster in found.clusters)
    stays, goes = found.clusters[0].texts
    assert goes.removeprefix(stays) == "\nprint('one more line')\n"
    words = found.signals["gopher_signals_v1.words"]
    assert sum(words.values()) == 20 + 5 + 5 + 1


def test_the_card_has_licences_sources_and_what_was_left_out(tmp_path: Path) -> None:
    folder = made(tmp_path)
    text = (folder / "README.md").read_text()
    manifest = Manifest.load(folder)
    assert text.startswith("# files of corpus\n")
    for piece in (
        manifest.snapshot_id,
        f"| train | {manifest.splits['train'].documents:,} |",
        "| MIT | ",
        "| read | empty | 1 |",
        "| exact | exact_duplicate | 5 |",
        "- `near_duplicates/",
    ):
        assert piece in text
