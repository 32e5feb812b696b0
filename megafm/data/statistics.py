"""statistics.json: what became of the documents on the way, beside the manifest of what is left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megafm.config import from_dict, to_dict
from megafm.data.inputs import Inputs
from megafm.data.stages import clusters
from megafm.data.stages.cleaning import (
    DROPPED,
    DROPPED_BYTES,
    DROPPED_FILE,
    HISTOGRAMS,
    LEFT,
    LEFT_BYTES,
    counted,
)
from megafm.data.stages.stage import Output, Stage, total
from megafm.data.stages.summary import Summary
from megafm.files import write_text

FILE_NAME = "statistics.json"
EXAMPLES = 3  # of each reason


@dataclass(frozen=True)
class Loss:
    """How many documents a stage left out, and why; `bytes` where they had been read."""

    stage: str
    dropped: dict[str, int]
    bytes: dict[str, int]


@dataclass(frozen=True)
class Left:
    """What is left after a step of a stage."""

    stage: str
    step: str
    documents: int
    bytes: int


@dataclass(frozen=True)
class Example:
    """A document that was left out, or how it begins; of one that was changed, where it was, and
    `kept` what is there now."""

    reason: str
    where: str
    text: str
    kept: str


@dataclass(frozen=True)
class Cluster:
    """Near-duplicates of one another: how many, how many of them removed, the first ids; where the
    first, which stays, and the next that is removed differ."""

    size: int
    removed: int
    ids: tuple[str, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Statistics:
    """
    Attributes:
        read: documents, and refusals in their place, that the source gave.
        funnel: the stages that left something out, in their order.
        left: after every step, in their order.
        steps: what the steps did to documents that stay, as STEP.NAME.
        lengths: documents of a split by the number of binary digits of their bytes.
        languages: documents and bytes of each language.
        signals: documents of each signal by its value, rounded to two digits.
    """

    read: int
    funnel: tuple[Loss, ...]
    left: tuple[Left, ...]
    steps: dict[str, int]
    lengths: dict[str, dict[int, int]]
    languages: dict[str, tuple[int, int]]
    signals: dict[str, dict[str, int]]
    examples: tuple[Example, ...]
    clusters: tuple[Cluster, ...]

    @classmethod
    def load(cls, data_dir: str | Path) -> Statistics:
        """
        Raises:
            ValueError: there are none, or they cannot be read.
        """
        path = Path(data_dir) / FILE_NAME
        remedy = f"run: megafm data data.dir={data_dir}"
        if not path.is_file():
            raise ValueError(f"data.dir={data_dir}: no {FILE_NAME} there; {remedy}")
        try:
            return from_dict(cls, json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path}: not statistics ({error}); {remedy}") from error

    @classmethod
    def there(cls, data_dir: str | Path) -> bool:
        """Whether `load` would find them."""
        try:
            cls.load(data_dir)
        except ValueError:
            return False
        return True

    def save(self, data_dir: str | Path) -> None:
        text = json.dumps(to_dict(self), indent=1, ensure_ascii=False)
        write_text(Path(data_dir) / FILE_NAME, text + "\n")


def collect(listed: Inputs, stages: Sequence[Stage], splits: dict[str, Summary]) -> Statistics:
    """From what the stages have left."""
    done = {stage.name: stage.outputs() for stage in stages}
    counted_by = {name: total(outputs) for name, outputs in done.items()}
    losses = [Loss("list", dict(listed.dropped), {})]
    losses += [
        Loss(
            name, *(dict(sorted(counted(found, kind).items())) for kind in (DROPPED, DROPPED_BYTES))
        )
        for name, found in counted_by.items()
    ]
    counters = counted_by["read"]
    (resolved,) = done["resolve"]
    found = json.loads((resolved.folder / clusters.FILE_NAME).read_text(encoding="utf-8"))
    steps = {n.removeprefix("step."): c for n, c in counters.items() if n.startswith("step.")}
    return Statistics(
        read=counters["read.documents"],
        funnel=tuple(loss for loss in losses if loss.dropped),
        left=tuple(_left(stages, counted_by)),
        steps=dict(sorted(steps.items())),
        lengths={name: summary.lengths for name, summary in splits.items()},
        languages=_languages(splits.values()),
        signals=_signals(done["score"]),
        examples=tuple(_examples([output for outputs in done.values() for output in outputs])),
        clusters=tuple(from_dict(Cluster, cluster) for cluster in found),
    )


def _left(stages: Sequence[Stage], counters: dict[str, Counter[str]]) -> Iterator[Left]:
    """What steps that see each document count after themselves; those that see only hashes count
    what they take away."""
    documents = size = 0
    for stage in stages:
        own = counters[stage.name]
        for step in stage.steps():
            if LEFT + step in own:
                documents, size = own[LEFT + step], own[LEFT_BYTES + step]
            else:
                documents, size = documents - own[DROPPED + step], size - own[DROPPED_BYTES + step]
            yield Left(stage.name, step, documents, size)


def _languages(summaries: Iterable[Summary]) -> dict[str, tuple[int, int]]:
    documents: Counter[str] = Counter()
    size: Counter[str] = Counter()
    for summary in summaries:
        for key, count in summary.documents.items():
            language = json.loads(key)[4]
            documents[language] += count
            size[language] += summary.bytes[key]
    return {name: (count, size[name]) for name, count in documents.most_common()}


def _signals(outputs: list[Output]) -> dict[str, dict[str, int]]:
    signals: dict[str, Counter[str]] = {}
    for output in outputs:
        found: dict[str, Any] = json.loads((output.folder / HISTOGRAMS).read_text())
        for name, counts in found.items():
            signals.setdefault(name, Counter()).update(counts)
    return {
        name: dict(sorted(counts.items(), key=lambda item: float(item[0])))
        for name, counts in sorted(signals.items())
    }


def _examples(outputs: list[Output]) -> list[Example]:
    """The first of each reason."""
    seen: Counter[str] = Counter()
    examples = []
    for output in outputs:
        if DROPPED_FILE not in output.files:
            continue
        with (output.folder / DROPPED_FILE).open(encoding="utf-8") as lines:
            for line in lines:
                example = from_dict(Example, json.loads(line))
                seen[example.reason] += 1
                if seen[example.reason] <= EXAMPLES:
                    examples.append(example)
    return sorted(examples, key=lambda example: example.reason)
