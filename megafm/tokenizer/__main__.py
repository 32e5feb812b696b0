"""The job `megafm tokenizer`: learn a tokenizer from the training documents of a data folder,
study its size, compare it with others, or import one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from megafm.config import job
from megafm.data.document import read_documents
from megafm.data.manifest import Manifest
from megafm.data.text_sample import sample
from megafm.tokenizer import Tokenizer, train
from megafm.tokenizer.chat import read_template
from megafm.tokenizer.config import TokenizerJob, read_terms
from megafm.tokenizer.imported import import_tokenizer
from megafm.tokenizer.inflation import inflation, write_inflation
from megafm.tokenizer.study import row, write_study

NUM_SHOWN = 20


def train_tokenizer(config: TokenizerJob, say: Callable[[str], None] = print) -> Tokenizer:
    """Train on the training split, save, and say how well the validation split is packed."""
    started = time.monotonic()
    settings = config.tokenizer
    tokenizer = _train(config, settings.vocab_size)
    tokenizer.save(settings.dir)
    texts = _validation(config)
    tokens = sum(map(len, tokenizer.encode_batch(texts)))
    packed = sum(len(text.encode()) for text in texts) / max(tokens, 1)
    say(
        f"{settings.dir}: {tokenizer.vocab_size} tokens, {packed:.3f} bytes/token on validation, "
        f"hash {tokenizer.hash[:12]}, {time.monotonic() - started:.1f} s"
    )
    return tokenizer


def study_sizes(config: TokenizerJob) -> None:
    texts = _validation(config)
    rows = [
        row(_train(config, size), texts, config.dim, config.num_layers)
        for size in sorted(config.tokenizer.sizes)
    ]
    write_study(rows, config.tokenizer.dir, config.dim, config.num_layers)


def compare(config: TokenizerJob) -> None:
    """
    Raises:
        ValueError: `terms` names no file of terms.
    """
    if not Path(config.terms).is_file():
        raise ValueError(f"terms={config.terms}: set a file of domain terms, one a line")
    folders = (config.tokenizer.dir, *config.tokenizer.others)
    others = {folder: import_tokenizer(folder) for folder in folders}
    write_inflation(inflation(others, read_terms(config.terms)), config.tokenizer.dir)


def import_other(config: TokenizerJob, say: Callable[[str], None] = print) -> Tokenizer:
    settings = config.tokenizer
    tokenizer = import_tokenizer(settings.source, settings.pattern)
    if settings.chat_template:
        tokenizer = tokenizer.with_chat_template(read_template(settings.chat_template))
    tokenizer.save(settings.dir)
    say(
        f"{settings.dir}: {tokenizer.vocab_size} tokens of {settings.source}, hash "
        f"{tokenizer.hash[:12]}; set model.vocab_size={tokenizer.vocab_size} or more"
    )
    if not tokenizer.lossless:
        say(f"{settings.source}: text does not decode to itself; not for pretraining")
    return tokenizer


def inspect(config: TokenizerJob, say: Callable[[str], None] = print) -> None:
    tokenizer = Tokenizer.load(config.tokenizer.dir)
    sizes = tokenizer.token_bytes()
    say(f"{config.tokenizer.dir}: {tokenizer.vocab_size} tokens, hash {tokenizer.hash}")
    say(f"documents end with {tokenizer.eod_id}, {tokenizer.decode([tokenizer.eod_id])}")
    say(f"text decodes to itself: {'yes' if tokenizer.lossless else 'no'}")
    say(f"chat template: {'yes' if tokenizer.chat else 'none'}")
    longest = sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))[:NUM_SHOWN]
    say(f"longest tokens: {', '.join(repr(tokenizer.decode([index])) for index in longest)}")


def _train(config: TokenizerJob, vocab_size: int) -> Tokenizer:
    settings = config.tokenizer
    total = Manifest.load(config.data.dir).splits["train"].bytes
    texts = sample(config.data.dir, total, settings.max_bytes, settings.temperature)
    template = read_template(settings.chat_template) if settings.chat_template else ""
    return train(texts, vocab_size, settings, template)


def _validation(config: TokenizerJob) -> list[str]:
    return [document.text for document in read_documents(config.data.dir, "validation")]


@job("tokenizer")
def main(config: TokenizerJob) -> None:
    actions: dict[str, Callable[[TokenizerJob], object]] = {
        "train": train_tokenizer,
        "study": study_sizes,
        "inflation": compare,
        "import": import_other,
        "inspect": inspect,
    }
    actions[config.action](config)


if __name__ == "__main__":
    main()
