"""The job `megafm tokenizer`: learn a tokenizer from the training documents of a data folder."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from megafm.config import job
from megafm.data.document import read_documents
from megafm.data.manifest import Manifest
from megafm.paths import DataDir
from megafm.tokenizer import Tokenizer, train


@dataclass(frozen=True)
class TokenizerTraining:
    dir: str = "runs/quickstart/tokenizer"
    vocab_size: int = 4096
    max_bytes: int = 20_000_000  # of training text: whole documents, picked evenly by hash

    def __post_init__(self) -> None:
        if self.max_bytes < 1:
            raise ValueError(
                f"tokenizer.max_bytes={self.max_bytes}: must be positive; "
                "set tokenizer.max_bytes=20000000"
            )


@dataclass(frozen=True)
class TokenizerJob:
    what: str = "train a tokenizer on the documents of a data folder"
    data: DataDir = field(default_factory=DataDir)
    tokenizer: TokenizerTraining = field(default_factory=TokenizerTraining)


def train_tokenizer(config: TokenizerJob, say: Callable[[str], None] = print) -> Tokenizer:
    """Train on the training split, save, and say how well the validation split is packed."""
    started = time.monotonic()
    settings = config.tokenizer
    manifest = Manifest.load(config.data.dir)
    texts = sample(config.data.dir, manifest.splits["train"].bytes, settings.max_bytes)
    tokenizer = train(texts, settings.vocab_size)
    tokenizer.save(settings.dir)
    documents = list(read_documents(config.data.dir, "validation"))
    tokens = sum(map(len, tokenizer.encode_batch([document.text for document in documents])))
    packed = sum(document.num_bytes for document in documents) / max(tokens, 1)
    say(
        f"{settings.dir}: {tokenizer.vocab_size} tokens, {packed:.3f} bytes/token on validation, "
        f"hash {tokenizer.hash[:12]}, {time.monotonic() - started:.1f} s"
    )
    return tokenizer


def sample(data_dir: str, total_bytes: int, max_bytes: int) -> Iterator[str]:
    """Training documents chosen by the hash of their ids, about `max_bytes` of `total_bytes`."""
    share = max_bytes / max(total_bytes, 1)
    for document in read_documents(data_dir, "train"):
        digest = hashlib.sha256(document.id.encode()).digest()
        if int.from_bytes(digest[:8], "big") < share * 2**64:
            yield document.text


@job("tokenizer")
def main(config: TokenizerJob) -> None:
    train_tokenizer(config)


if __name__ == "__main__":
    main()
