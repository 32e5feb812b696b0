"""Encoding by gigatoken, many times faster than tokenizers, where both give the same ids.

gigatoken has no engine of regular expressions but a program for each of the published cuts of text
into words: it reads a byte-level BPE that was trained with tokenizer.cut=gpt2, cl100k_base or
o200k_base and no terms kept whole, and most imported ones. Special tokens in a text are ids of
their own to it, so it is given the tokenizer without them; then they are ordinary text, as
everywhere here.

What holds the ids to those of tokenizers: GATE and other texts that no corpus may have, before
anything is encoded, and every CHECKED_EVERYth text of what is.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

from megafm.tokenizer.tokenizer import PROBE, Tokenizer

CACHE_BYTES = 100_000_000  # of text, after which its memory of words is dropped: it has no bound
CHECKED_EVERY = 100
GATE_BATCH = 10_000  # texts
REMEDY = "set tokenizer.encoder=tokenizers"
GATE = (
    "",
    PROBE,
    "a\r\nb\rc\n\r\n\n d \r\n  e\n\t\tf\t \n",  # line breaks of all systems
    "\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u180e\u2003\u2028\u2029\u202f\u205f\u3000\ufeff x",
    "I'll I'LL don't it\u2019s 'S's'\u017f \u212a'RE x'd'Ve O'Reilly 'a",  # long s, Kelvin
    "0 1 12 123 1234 12345678 1.5e-3 0x1F \u0661\u0662\u0663\u0664 \u00b2\u00bd\u216b",
    "a_b __c__ $d @e #f--g ...h /i//j <k></k> {l:[m]}; !!!\n???\r\n///\n",
    "HTTPServer getHTTPResponse iPhone McX \u01c5a \u02b0\u00aa \u0130i",
    "\u0301a \u0301 e\u0301\u0302x \u0e01\u0e33 \u0915\u094d\u0937 \ud55c\u1112\u1161\u11ab",
    "\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea \u2764\ufe0f \ufffd \uffff \U0010ffff",
    *(unit * 5000 for unit in ("a", "ab ", " ", "\n", " \n", "\t", "7", "!", "'s", "\u4e2d")),
)


class Gigatoken:
    """Encodes as a tokenizer does.

    Raises:
        ValueError: gigatoken is missing, does not know this sort of tokenizer, or gives other ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.forget()
        texts = list(_gate(tokenizer))
        for start in range(0, len(texts), GATE_BATCH):
            batch = texts[start : start + GATE_BATCH]
            self._check(batch, self._fast.encode_batch_list(batch))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text; on all cores, but on one in a process of a pool.

        Raises:
            ValueError: ids differ from those of tokenizers.
        """
        self._room -= sum(map(len, texts))
        if self._room < 0:
            self.forget()
        found: list[list[int]] = self._fast.encode_batch_list(texts)
        self._check(texts[::CHECKED_EVERY], found[::CHECKED_EVERY])
        return found

    def forget(self) -> None:
        """Drop the words that it remembers."""
        self._fast, self._room = _load(self._tokenizer), CACHE_BYTES

    def _check(self, texts: list[str], found: list[list[int]]) -> None:
        wanted = self._tokenizer.encode_batch(texts)
        for text, ours, theirs in zip(texts, wanted, found, strict=True):
            if ours != theirs:
                raise ValueError(
                    f"tokenizer.encoder=gigatoken: {text[:40]!r} becomes other ids than by "
                    f"tokenizers; {REMEDY}"
                )


def _load(tokenizer: Tokenizer) -> Any:
    try:
        library = importlib.import_module("gigatoken")
    except ImportError as error:
        raise ValueError(
            f"tokenizer.encoder=gigatoken: {error}; pip install 'megafm[tokenizers]', or {REMEDY}"
        ) from error
    parts = json.loads(tokenizer.definition)
    parts["added_tokens"] = [one for one in parts["added_tokens"] if not one["special"]]
    try:
        return library.Tokenizer.from_json(json.dumps(parts))
    except RuntimeError as error:
        why = str(error).splitlines()[0]
        raise ValueError(
            f"tokenizer.encoder=gigatoken: it does not know this tokenizer ({why}); {REMEDY}, or "
            "train one with tokenizer.cut=cl100k_base and no tokenizer.whole"
        ) from error


def _gate(tokenizer: Tokenizer) -> Iterator[str]:
    """GATE; each token as text, special ones too; all of U+0000 to U+33FF, which has most scripts,
    and one in 61 of the other characters, each beside letters, digits, signs and blanks."""
    yield from GATE
    for index in range(tokenizer.vocab_size):
        token = tokenizer.decode([index])
        yield from (token, f"a {token}b")
    for number in (*range(0x3400), *range(0x3400, 0x110000, 61)):
        if not 0xD800 <= number < 0xE000:
            one = chr(number)
            yield f"a{one}b {one}1'{one}\n{one}!"
