"""The first stages, a unit each per input shard: documents, their signals, and which are kept."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from megafm.data import inputs, sources
from megafm.data.document import Document, Drop
from megafm.data.lines import find_shard, open_shard, shard_path, to_line, write_shard
from megafm.data.stages.exchange import PartWriter, part_of
from megafm.data.stages.stage import Output, Stage, Unit, digest, total
from megafm.data.steps import Pipeline, describe

DROPPED, DROPPED_BYTES = "dropped.", "dropped_bytes."  # before a reason, in counters
LEFT, LEFT_BYTES = "left.", "left_bytes."  # before a step
FROM_SOURCE = "source"  # the step that gives documents
DROPPED_FILE = "dropped.jsonl"
HISTOGRAMS = "histograms.json"
EXAMPLES = 3  # of what a shard loses for a reason
EXAMPLE_CHARS = 400
BEFORE_CHANGE = 80  # characters that are shown before the first that differs
# What is known of a document that the rules keep; `line` is its place in the shard.
KEPT = np.dtype([("line", "<u4"), ("bytes", "<i8"), ("id_hash", "<u8"), ("text_hash", "<u8")])


@dataclass(frozen=True)
class Read(Stage):
    """Input shards to documents that went through the steps: documents.jsonl, dropped.jsonl."""

    pipeline: Pipeline
    kind: ClassVar[str] = "read"

    @property
    def rule(self) -> str:
        return digest("read/7", sources.VERSION, *map(describe, self.pipeline.transform))

    def names(self) -> list[str]:
        return [run.name for run in inputs.load(self.root).runs]

    def steps(self) -> tuple[str, ...]:
        return (FROM_SOURCE, *(step.version for step in self.pipeline.transform))

    def units(self) -> list[Unit]:
        runs = inputs.load(self.root).runs
        return [Unit(run.name, digest(self.rule, run.key)) for run in runs]

    def work(self, unit: str, out: Path) -> Counter[str]:
        counters: Counter[str] = Counter()
        dropped, left = Dropped(counters), Left(counters)
        with write_shard(shard_path(out, "documents")) as lines:
            for found in inputs.load(self.root).read(unit):
                counters["read.documents"] += 1
                result = found
                if isinstance(found, Document):
                    left.add(FROM_SOURCE, found)
                    result = self.pipeline.clean(found, left.add)
                if isinstance(result, Drop):
                    dropped.add(result, found)
                    continue
                lines.write(to_line(dataclasses.asdict(result)))
                counters["documents"] += 1
                counters["bytes"] += result.num_bytes
                for step, counts in result.notes.get("counts", {}).items():
                    counters.update({f"step.{step}.{name}": n for name, n in counts.items()})
        dropped.write(out)
        return counters


@dataclass(frozen=True)
class Score(Stage):
    """The signals of every document, beside it: signals.jsonl, and their histograms."""

    read: Read
    kind: ClassVar[str] = "score"

    @property
    def rule(self) -> str:
        return digest("score/2", *map(describe, self.read.pipeline.signals))

    def names(self) -> list[str]:
        return self.read.names()

    def same(self) -> tuple[Stage, ...]:
        return (self.read,)

    def work(self, unit: str, out: Path) -> Counter[str]:
        histograms: dict[str, Counter[str]] = {}
        pipeline = self.read.pipeline
        with write_shard(shard_path(out, "signals")) as lines:
            for _, document in documents(self.read, unit) if pipeline.signals else ():
                values = pipeline.measure(document)
                lines.write(to_line(values))
                for name, value in values.items():
                    histograms.setdefault(name, Counter())[f"{value:.2g}"] += 1
        (out / HISTOGRAMS).write_text(json.dumps(histograms))
        return Counter()


@dataclass(frozen=True)
class Decide(Stage):
    """Which documents the rules keep, kept.npy, and the hashes of their texts for `exact`."""

    read: Read
    score: Score
    num_ranges: int  # that the hashes are exchanged in
    kind: ClassVar[str] = "decide"

    @property
    def rule(self) -> str:
        return digest(f"decide/2 {self.num_ranges}", *map(describe, self.read.pipeline.rules))

    def names(self) -> list[str]:
        return self.read.names()

    def same(self) -> tuple[Stage, ...]:
        return (self.read, self.score)

    def work(self, unit: str, out: Path) -> Counter[str]:
        counters: Counter[str] = Counter()
        dropped, left = Dropped(counters), Left(counters)
        kept = []
        signals = find_shard(self.score.output(unit).folder, "signals")
        pipeline = self.read.pipeline
        with open_shard(signals) as values, PartWriter(out / "texts.parts") as texts:
            for line, document in documents(self.read, unit):
                own = json.loads(next(values)) if pipeline.signals else {}
                reason = pipeline.decide(document, own, left.add)
                if reason is not None:
                    dropped.add(Drop(reason, document.id), document)
                    continue
                text_hash = int(document.sha256[:16], 16)
                kept.append((line, document.num_bytes, hash_id(document.id), text_hash))
                record = to_line([document.sha256, document.id, line, document.num_bytes])
                texts.add(part_of(text_hash, self.num_ranges), record)
        np.save(out / "kept.npy", np.array(kept, KEPT))
        dropped.write(out)
        counters["documents"] = len(kept)
        return counters

    def steps(self) -> tuple[str, ...]:
        return tuple(rule.version for rule in self.read.pipeline.rules)

    def check_not_empty(self) -> None:
        """
        Raises:
            ValueError: no document is left; says where they were looked for and why they went.
        """
        done = [*self.read.outputs(), *self.outputs()]
        if any(output.counters["documents"] for output in self.outputs()):
            return
        listed = inputs.load(self.root)
        raise ValueError(
            f"{listed.where}: no document to learn from; left out"
            f"{reasons(Counter(listed.dropped) + dropped(done))}; "
            "set source.path or source.pattern to text files"
        )


def dropped(outputs: Iterable[Output]) -> Counter[str]:
    """How many documents were left out, by reason."""
    return counted(total(outputs), DROPPED)


def counted(counters: Counter[str], prefix: str) -> Counter[str]:
    """Of all counters those that are named so, by the rest of their names."""
    return Counter(
        {name.removeprefix(prefix): n for name, n in counters.items() if name.startswith(prefix)}
    )


def reasons(counts: Mapping[str, int]) -> str:
    if not counts:
        return " nothing"
    return ": " + ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))


def documents(
    read: Read, unit: str, lines: Collection[int] | None = None
) -> Iterator[tuple[int, Document]]:
    """Documents of a unit of `Read` with the numbers of their lines; None: all of them."""
    for number, line in document_lines(read, unit, lines):
        yield number, Document(**json.loads(line))


def documents_at(read: Read, places: Iterable[tuple[int, int]]) -> dict[tuple[int, int], Document]:
    """Some documents of all units, by the number of the unit and the line."""
    lines: dict[int, set[int]] = {}
    for unit, line in places:
        lines.setdefault(unit, set()).add(line)
    names = read.names()
    return {
        (unit, line): document
        for unit, own in sorted(lines.items())
        for line, document in documents(read, names[unit], own)
    }


def document_lines(
    read: Read, unit: str, lines: Collection[int] | None = None
) -> Iterator[tuple[int, bytes]]:
    """The same, as they are written."""
    wanted = None if lines is None else set(lines)
    with open_shard(find_shard(read.output(unit).folder, "documents")) as found:
        for number, line in enumerate(found):
            if wanted is None or number in wanted:
                yield number, line


def hash_id(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")


class Left:
    """Counts what is left after each step."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters

    def add(self, step: str, document: Document) -> None:
        self._counters[LEFT + step] += 1
        self._counters[LEFT_BYTES + step] += document.num_bytes


class Dropped:
    """Counts what is dropped and keeps the first of each reason as examples; of those whose step
    says where in the document it looked, all, without their texts."""

    def __init__(self, counters: Counter[str]) -> None:
        self._counters = counters
        self._shown: Counter[str] = Counter()
        self._examples: list[dict[str, str]] = []

    def add(self, drop: Drop, document: Document | Drop) -> None:
        self._counters[DROPPED + drop.reason] += 1
        if isinstance(document, Drop):
            self.show(drop.reason, drop.where, "")
        else:
            self._counters[DROPPED_BYTES + drop.reason] += document.num_bytes
            self.show(drop.reason, drop.where or document.id, document.text)
            if self._shown[drop.reason] > EXAMPLES and drop.where not in ("", document.id):
                self._examples.append(_example(drop.reason, drop.where))

    def show(self, reason: str, where: str, text: str, kept: str = "") -> None:
        """An example, if it is among the first: a text, and what is kept of it or in its place."""
        self._shown[reason] += 1
        if self._shown[reason] <= EXAMPLES:
            text, kept = heads(text, kept)
            self._examples.append(_example(reason, where, text, kept))

    def write(self, out: Path) -> None:
        lines = b"".join(map(to_line, self._examples))
        (out / DROPPED_FILE).write_bytes(lines)


def _example(reason: str, where: str, text: str = "", kept: str = "") -> dict[str, str]:
    return {"reason": reason, "where": where, "text": text, "kept": kept}


def heads(one: str, other: str) -> tuple[str, str]:
    """How two texts begin, or, where they begin alike, go on from shortly before they differ."""
    differ = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    begin = max(0, next(differ, min(len(one), len(other))) - BEFORE_CHANGE)
    return one[begin : begin + EXAMPLE_CHARS], other[begin : begin + EXAMPLE_CHARS]
