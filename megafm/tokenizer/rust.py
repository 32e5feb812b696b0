"""Training byte-level BPE by rustbpe, faster than tokenizers, where both learn the same.

The two break ties of equally frequent pairs in another order, so ids differ; what must not is the
set of tokens and how they cut a text. That is tried on the first part of the text, which takes as
long as it does, so only texts of many times GATE_BYTES gain. It is good for texts without ties
that matter: of 6 MB of Python in six orders three passed. tokenizers is the default, and what to
set where the gate refuses.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import tokenizers

from megafm.tokenizer.imported import byte_letters, merges_of, spell

GATE_BYTES = 2_000_000
GATE_VOCAB_SIZE = 2048


def train_rustbpe(
    inner: tokenizers.Tokenizer,
    texts: Iterator[str],
    vocab_size: int,
    special: list[str],
    pattern: str,
    reference: Callable[[Iterator[str], int], None],
) -> tokenizers.Tokenizer:
    """`inner` with what rustbpe learns from the texts.

    Args:
        pattern: of a word.
        reference: trains `inner` by tokenizers, from texts and a vocabulary size.

    Raises:
        ValueError: rustbpe is missing, or learns something else than tokenizers.
    """
    first, size = [], 0
    for text in texts:
        first.append(text)
        size += len(text.encode())
        if size >= GATE_BYTES:
            break
    small = min(vocab_size, GATE_VOCAB_SIZE)
    reference(iter(first), small)
    wanted = json.loads(inner.to_str())
    small = len(wanted["model"]["vocab"])  # the first part may not hold more
    check_same(wanted, _learn(iter(first), small, special, pattern, wanted), first)
    learnt = _learn(chain(first, texts), vocab_size, special, pattern, wanted)
    return tokenizers.Tokenizer.from_str(json.dumps(learnt))


def check_same(wanted: dict[str, Any], found: dict[str, Any], texts: list[str]) -> None:
    """
    Raises:
        ValueError: the two have other tokens, or cut one of the texts in another way.
    """
    remedy = "set tokenizer.trainer=tokenizers"
    other = set(wanted["model"]["vocab"]) ^ set(found["model"]["vocab"])
    if other:
        raise ValueError(
            f"tokenizer.trainer=rustbpe: {len(other)} tokens differ from those of tokenizers, "
            f"such as {min(other)!r}; {remedy}"
        )
    vocab = found["model"]["vocab"]
    theirs = {index: vocab[token] for token, index in wanted["model"]["vocab"].items()}
    for text, cut, other_cut in zip(texts, _ids(wanted, texts), _ids(found, texts), strict=True):
        if [theirs[index] for index in cut] != other_cut:
            raise ValueError(
                f"tokenizer.trainer=rustbpe: {text[:40]!r} is cut into other tokens than by "
                f"tokenizers; {remedy}"
            )


def _ids(tokenizer: dict[str, Any], texts: list[str]) -> list[list[int]]:
    inner = tokenizers.Tokenizer.from_str(json.dumps(tokenizer))
    return [encoding.ids for encoding in inner.encode_batch_fast(texts)]


def _learn(
    texts: Iterator[str],
    vocab_size: int,
    special: list[str],
    pattern: str,
    like: dict[str, Any],
) -> dict[str, Any]:
    try:
        library = importlib.import_module("rustbpe")
    except ImportError as error:
        raise ValueError(
            f"tokenizer.trainer=rustbpe: {error}; pip install 'megafm[tokenizers]', or set "
            "tokenizer.trainer=tokenizers"
        ) from error
    trainer = library.Tokenizer()
    trainer.train_from_iterator(texts, vocab_size - len(special), pattern=pattern)
    ranks = {bytes(token): rank for token, rank in trainer.get_mergeable_ranks()}
    letters = byte_letters()
    vocab = {token: number for number, token in enumerate(special)}
    vocab |= {spell(token, letters): len(special) + rank for token, rank in ranks.items()}
    added = [
        {"id": number, "content": token, "special": True} for number, token in enumerate(special)
    ]
    model = like["model"] | {"vocab": vocab, "merges": merges_of(ranks)}
    return like | {"model": model, "added_tokens": [like["added_tokens"][0] | one for one in added]}
