"""action=train_quality and fit_importance: linear models of text, from folders of files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from megafm.data.config import ImportanceModel, QualityModel
from megafm.data.document import Document
from megafm.data.sources import Source, list_shards, read_shard
from megafm.data.steps import importance, quality

Say = Callable[[str], None]


MAX_TEXT_BYTES = 100_000_000  # a book in one file is one text, as with source=files


@dataclass
class Folder:
    """The texts of any files that source=files reads, to be gone through more than once.

    Attributes:
        setting: that names the folder.
        unread: what could not be read the last time, by reason.
    """

    setting: str
    path: str | None
    unread: Counter[str] = field(default_factory=Counter)

    def texts(self) -> Iterator[str]:
        """
        Raises:
            ValueError: it is not set, is not there, or holds no text.
        """
        if self.path is None:
            raise ValueError(f"{self.setting}=null: set {self.setting}=DIR, a folder of texts")
        if "://" not in self.path and not Path(self.path).exists():
            raise ValueError(f"{self.setting}={self.path}: not there; set a folder of texts")
        source = Source(kind="files", path=self.path, max_document_bytes=MAX_TEXT_BYTES)
        self.unread.clear()
        count = 0
        for shard in list_shards(source).shards:
            for found in read_shard(source, shard):
                if isinstance(found, Document):
                    count += 1
                    yield found.text
                else:
                    self.unread[found.reason] += 1
        if not count:
            raise ValueError(
                f"{self.setting}={self.path}: no text there that could be read"
                f"{_unread(self)}; set a folder of texts"
            )


def train_quality(config: QualityModel, say: Say = print) -> None:
    """Train on nine texts of ten, and say how many of the others are told right.

    Raises:
        ValueError: a setting is missing, or a folder holds no text.
    """
    out = _out("quality.out", config.out)
    good, other = Folder("quality.good", config.good), Folder("quality.other", config.other)
    model = quality.train(
        (text for text in good.texts() if not held_out(text)),
        (text for text in other.texts() if not held_out(text)),
    )
    for folder, is_good in ((good, True), (other, False)):
        scores = [quality.score(model, text) for text in folder.texts() if held_out(text)]
        right = sum((score >= 0.5) == is_good for score in scores)
        told = f"{right} of {len(scores)} held out are told right" if scores else "none held out"
        say(f"{folder.setting}={folder.path}: {told}{_unread(folder)}")
    model.save(out)
    say(f"{out}: steps.signals.quality_signals_v1.model={out}, steps.rules.quality_v1.min_score")


def fit_importance(config: ImportanceModel, say: Say = print) -> None:
    """Fit, and say how likely the words of both folders are in the target.

    Raises:
        ValueError: a setting is missing, or a folder holds no text.
    """
    out = _out("importance.out", config.out)
    target = Folder("importance.target", config.target)
    corpus = Folder("importance.corpus", config.corpus)
    model = importance.fit(target.texts(), corpus.texts())
    model.save(out)
    signal = importance.ImportanceSignal(out)
    for folder in (target, corpus):
        document = (Document("", text, "", "", "") for text in folder.texts())
        means = [signal(one)["mean"] for one in document]
        say(
            f"{folder.setting}={folder.path}: {len(means)} texts, mean log weight of a word "
            f"{np.mean(means):+.3f}{_unread(folder)}"
        )
    say(f"{out}: steps.signals.importance_signals_v1.model={out}, steps.rules.importance_v1")


def held_out(text: str) -> bool:
    """Of one text in ten, the same in every run and on both sides of a copy."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % 10 == 0


def _out(setting: str, folder: str | None) -> str:
    if folder is None:
        raise ValueError(f"{setting}=null: set {setting}=DIR, where the model is to be written")
    return folder


def _unread(folder: Folder) -> str:
    left = ", ".join(f"{count} {reason}" for reason, count in sorted(folder.unread.items()))
    return f"; not read: {left}" if left else ""
