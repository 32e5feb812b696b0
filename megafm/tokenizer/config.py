"""The settings of the tokenizer job."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from megafm.paths import DataDir

Kind = Literal["bpe", "unigram", "sentencepiece_bpe", "sentencepiece_unigram", "wordpiece"]


@dataclass(frozen=True)
class Recipe:
    """What is learnt, and how text is cut before it.

    Attributes:
        kind: bpe, unigram and wordpiece work on bytes, the sentencepiece kinds on characters, with
            blanks as U+2581 and bytes for characters that they do not know.
        cut: of text into words: our own (words.py), or that of an encoding of tiktoken, by which
            tokenizer.encoder=gigatoken of `megafm data action=tokenize` can encode kind=bpe.
        digits: how runs of digits are cut.
        keep_indentation: a line break and the blanks after it make one word.
        whole: terms that are one token wherever they stand as words of their own; of `whole_file`
            too, a line each.
        special_tokens: beside <|endoftext|>, never found in text; `reserved` more go by
            <|reserved_0|>, to be named later.
        pad_to_multiple_of: reserved tokens fill the vocabulary up to a multiple of this.
        temperature: languages, as documents state them, take part in proportion to their bytes to
            the power of 1 / temperature: 1 as they come, 3 is common, a large one the same of each.
        trainer: rustbpe learns kind=bpe of a large text faster; it is refused where it learns other
            tokens than tokenizers, as ties of equally frequent pairs often make it.
    """

    kind: Kind = "bpe"
    cut: Literal["own", "gpt2", "cl100k_base", "o200k_base"] = "own"
    digits: Literal["single", "groups_of_3", "none"] = "groups_of_3"
    keep_indentation: bool = True
    whole: tuple[str, ...] = ()
    whole_file: str = ""
    special_tokens: tuple[str, ...] = ()
    reserved: int = 0
    pad_to_multiple_of: int = 1
    temperature: float = 1.0
    trainer: Literal["tokenizers", "rustbpe"] = "tokenizers"

    def __post_init__(self) -> None:
        for name, least in (("reserved", 0), ("pad_to_multiple_of", 1), ("temperature", 1)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"tokenizer.{name}={getattr(self, name)}: must be at least {least}; "
                    f"set tokenizer.{name}={least}"
                )
        if self.trainer == "rustbpe" and self.kind != "bpe":
            raise ValueError(
                f"tokenizer.trainer=rustbpe: learns tokenizer.kind=bpe alone, not {self.kind}; "
                "set tokenizer.trainer=tokenizers"
            )
        if self.cut != "own" and (self.digits != "groups_of_3" or not self.keep_indentation):
            warnings.warn(
                "tokenizer.digits, tokenizer.keep_indentation: no effect with tokenizer.cut="
                f"{self.cut}",
                stacklevel=2,
            )
        for token in (*self.whole, *self.special_tokens):
            if not token or token.strip() != token:
                raise ValueError(
                    f"tokenizer.whole, tokenizer.special_tokens: {token!r}: must have characters, "
                    "and no blank at its ends; leave it out"
                )

    def terms(self) -> list[str]:
        """The terms kept whole, longest first.

        Raises:
            OSError: there is no `whole_file`.
        """
        terms = set(self.whole)
        if self.whole_file:
            terms |= set(read_terms(self.whole_file))
        return sorted(terms, key=lambda term: (-len(term), term))


@dataclass(frozen=True)
class TokenizerTraining(Recipe):
    """
    Attributes:
        max_bytes: of training text: whole documents, picked evenly by hash.
        chat_template: a Jinja file, or chatml; "" for none.
        source: of action=import: a folder of tokenizer.json, a .tiktoken file of ranks, a
            SentencePiece .model.
        pattern: of action=import: what a .tiktoken file cuts text by; a regular expression, or
            gpt2, cl100k_base or o200k_base.
        others: of action=inflation: folders of tokenizers to compare with.
        sizes: of action=study.
    """

    dir: str = "runs/quickstart/tokenizer"
    vocab_size: int = 4096
    max_bytes: int = 20_000_000
    chat_template: str = ""
    source: str = ""
    pattern: str = "cl100k_base"
    others: tuple[str, ...] = ()
    sizes: tuple[int, ...] = (1024, 2048, 4096, 8192)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_bytes < 1:
            raise ValueError(
                f"tokenizer.max_bytes={self.max_bytes}: must be positive; "
                "set tokenizer.max_bytes=20000000"
            )


@dataclass(frozen=True)
class TokenizerJob:
    """`dim` and `num_layers` are of the model that action=study counts for; `terms` is a file of
    action=inflation, a term a line."""

    what: str = "train a tokenizer on the documents of a data folder; study, compare, import one"
    action: Literal["train", "study", "inflation", "import", "inspect"] = "train"
    data: DataDir = field(default_factory=DataDir)
    tokenizer: TokenizerTraining = field(default_factory=TokenizerTraining)
    terms: str = ""
    dim: int = 768
    num_layers: int = 12


def read_terms(path: str | Path) -> list[str]:
    """The lines of a file that are not empty."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip()]
