"""From the config group `steps` to what runs: steps, what compares documents, signals, rules.

A folder of documents goes through `clean`, its values (`measure`) are written beside it, and
`decide` reads both. Only `decide` has to run again for another threshold.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from megafm.config import from_dict
from megafm.data.config import Steps
from megafm.data.document import Document, Drop
from megafm.data.steps import registry
from megafm.data.steps.step import CorpusStep, Rule, Signal, Step, Values, describe, domain

T = TypeVar("T")
Seen = Callable[[str, Document], None]  # told of a step and a document that it leaves in


def _unseen(step: str, document: Document) -> None:
    pass


@dataclass(frozen=True)
class Pipeline:
    """`signals` are those that the rules need and those that are only written."""

    transform: tuple[Step, ...]
    signals: tuple[Signal, ...]
    rules: tuple[Rule, ...]
    corpus: tuple[CorpusStep, ...]

    def clean(self, document: Document, seen: Seen = _unseen) -> Document | Drop:
        """Take a document through the steps, up to the first that drops it."""
        for step in self.transform:
            result = step(document)
            if isinstance(result, Drop):
                return result if result.where else Drop(result.reason, document.id)
            document = result
            seen(step.version, document)
        return document

    def measure(self, document: Document) -> dict[str, float]:
        """The values of all signals, by VERSION.NAME."""
        return {
            f"{signal.version}.{name}": value
            for signal in self.signals
            for name, value in signal(document).items()
        }

    def decide(self, document: Document, values: Values, seen: Seen = _unseen) -> str | None:
        """The reason to leave a document out, or None; `values` are those of `measure`."""
        kind = domain(document)
        for rule in self.rules:
            if kind not in rule.skip:
                prefix = f"{rule.signal.version}."
                own = {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
                reason = rule(own)
                if reason is not None:
                    return reason
            seen(rule.version, document)
        return None

    def run(self, document: Document) -> Document | Drop:
        """All of it at once, where nothing is written in between."""
        result = self.clean(document)
        if isinstance(result, Drop):
            return result
        reason = self.decide(result, self.measure(result)) if self.rules else None
        return result if reason is None else Drop(reason, result.id)

    @property
    def versions(self) -> tuple[str, ...]:
        """What everything is that decides what a document becomes, see `describe`."""
        parts: list[Step | CorpusStep | Signal | Rule] = [*self.transform, *self.corpus]
        parts += [*self.signals, *self.rules]
        return tuple(map(describe, parts))


def repeated_pieces(
    step: CorpusStep, keys: np.ndarray, documents: np.ndarray, places: np.ndarray
) -> np.ndarray:
    """Which pieces, given in any order, a corpus step takes out: their numbers, int64.

    Args:
        keys, places: of `CorpusStep.pieces`.
        documents: the place of each piece's document in the order of ids, int64 (pieces,).
    """
    order = np.lexsort((places, documents, keys))
    return order[step.repeated(keys[order], documents[order])]


def compare(step: CorpusStep, documents: Sequence[Document]) -> list[Document | Drop]:
    """What becomes of documents that are in memory together: `stages.compare` without stages."""
    ranks = np.empty(len(documents), np.int64)
    ranks[sorted(range(len(documents)), key=lambda row: documents[row].id)] = np.arange(len(ranks))
    pieces = [step.pieces(document) for document in documents]
    rows = np.repeat(np.arange(len(documents)), [len(keys) for keys, _ in pieces])
    keys = np.concatenate([np.zeros(0, np.uint64), *(keys for keys, _ in pieces)])
    places = np.concatenate([np.zeros(0, np.int64), *(places for _, places in pieces)])
    cut = repeated_pieces(step, keys, ranks[rows], places)
    left: list[Document | Drop] = list(documents)
    for row in np.unique(rows[cut]).tolist():
        left[row] = step.without(documents[row], np.sort(places[cut[rows[cut] == row]]))
    return left


def build(config: Steps) -> Pipeline:
    """What the config names, in its order.

    Raises:
        ValueError: an unknown name or setting, or one that cannot be.
    """
    transform = [_make("transform", registry.STEPS, *item) for item in config.transform.items()]
    rules = [_make("rules", registry.RULES, *item) for item in config.rules.items()]
    stated = [_make("signals", registry.SIGNALS, *item) for item in config.signals.items()]
    signals = {signal.version: signal for signal in stated}
    for rule in rules:
        if rule.signal.version not in signals:
            signals[rule.signal.version] = rule.signal()
    corpus = [_make("corpus", registry.CORPUS, *item) for item in config.corpus.items()]
    return Pipeline(tuple(transform), tuple(signals.values()), tuple(rules), tuple(corpus))


def _make(kind: str, known: Mapping[str, type[T]], name: str, settings: Mapping[str, Any]) -> T:
    """An object of a class of ours, or of another's by MODULE:CLASS."""
    found = _import(kind, name) if ":" in name else known.get(name)
    if found is None:
        raise ValueError(f"steps.{kind}.{name}: not among {', '.join(known)}; or set MODULE:CLASS")
    try:
        return cast(T, from_dict(found, settings))
    except ValueError as error:
        raise ValueError(f"steps.{kind}.{name}: {error}") from error


def _import(kind: str, name: str) -> type[Any]:
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        message = f"steps.{kind}.{name}: cannot be imported ({error}); set MODULE:CLASS"
        raise ValueError(message) from error
