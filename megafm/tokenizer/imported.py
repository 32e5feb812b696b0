"""Tokenizers of other libraries as ours: folders of tokenizer.json, tiktoken's ranks, SentencePiece
models. Each gives the ids of the original, and is refused where that can be seen to fail."""

from __future__ import annotations

import base64
import binascii
import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from megafm.tokenizer.tokenizer import END_OF_DOCUMENT, PROBE, Tokenizer
from megafm.tokenizer.words import PATTERNS

UNIGRAM, BPE = 1, 2  # types of SentencePiece's models
UNSEEN = -1e6  # a score that the best path through a text never takes
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # types of SentencePiece's pieces


def import_tokenizer(source: str | Path, pattern: str = "cl100k_base") -> Tokenizer:
    """The tokenizer of a folder with tokenizer.json, a .tiktoken file or a .model file.

    Args:
        pattern: what a .tiktoken file cuts text by: a name of PATTERNS or a regular expression.

    Raises:
        ValueError: it is none of them, or cannot be had with the same ids.
    """
    path = Path(source)
    if path.is_dir():
        return Tokenizer.load(path)
    if path.suffix == ".tiktoken" and path.is_file():
        return from_ranks(read_ranks(path), PATTERNS.get(pattern) or oniguruma(pattern))
    if path.suffix == ".model" and path.is_file():
        return from_sentencepiece(path)
    raise ValueError(
        f"tokenizer.source={source}: set a folder of tokenizer.json, a .tiktoken file of ranks or "
        "a SentencePiece .model"
    )


def read_ranks(path: str | Path) -> dict[bytes, int]:
    """Lines of a token in base64 and its rank, which is its id."""
    ranks = {}
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            if line:
                token, rank = line.split()
                ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise ValueError(f"{path}, line {number}: not a token and its rank ({error})") from None
    return ranks


def from_ranks(
    ranks: dict[bytes, int], pattern: str, special: dict[str, int] | None = None
) -> Tokenizer:
    """Byte-level BPE in which the pair goes first whose union has the lowest rank.

    Args:
        pattern: of a word, for Oniguruma.
        special: ids of special tokens; by default END_OF_DOCUMENT after the last rank.
    """
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise ValueError(f"ranks: no token of the byte {missing[0]}; every byte must have one")
    letters = byte_letters()
    vocab = {spell(token, letters): rank for token, rank in ranks.items()}
    inner = tokenizers.Tokenizer(
        models.BPE(vocab=vocab, merges=merges_of(ranks), ignore_merges=True)
    )
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    _add_special(inner, special or {END_OF_DOCUMENT: 1 + max(ranks.values())})
    return Tokenizer(inner)


def merges_of(ranks: dict[bytes, int]) -> list[tuple[str, str]]:
    """Every way of cutting a token in two is a merge, in the order of the ranks: that is what
    tiktoken does, which knows no merges."""
    letters = byte_letters()
    merges = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
        known = [(a, b) for a, b in cuts if a in ranks and b in ranks]
        known.sort(key=lambda pair: (ranks[pair[0]], ranks[pair[1]]))
        merges += [(spell(a, letters), spell(b, letters)) for a, b in known]
    return merges


def oniguruma(pattern: str) -> str:
    r"""A regular expression of Rust or Python for Oniguruma, in which `$` ends lines and `{1,3}+`
    repeats a repetition."""
    atom = r"(\\p\{\w+\}|\\.|\[(?:\\.|[^\]\\])*\]|[^\\\[\]])"
    possessive = re.sub(atom + r"\{(\d+),(\d+)\}\+", r"(?>\1{\2,\3})", pattern)
    outside = r"(\\.|\[(?:\\.|[^\]\\])*\])|\$"
    return re.sub(outside, lambda found: found[1] or r"\z", possessive)


def from_sentencepiece(path: str | Path) -> Tokenizer:
    """A Unigram or BPE model of SentencePiece, with its normalisation.

    Where two paths of a Unigram model have the same score ("=" "==" or "==" "="), SentencePiece
    takes the one that its float32 sums prefer, and tokenizers that of its float64 sums.

    Raises:
        ValueError: sentencepiece is missing, or the ids of a text of all sorts differ.
    """
    library = _sentencepiece()
    proto = importlib.import_module("sentencepiece.sentencepiece_model_pb2").ModelProto()
    proto.ParseFromString(Path(path).read_bytes())
    pieces = [(piece.piece, piece.score, piece.type) for piece in proto.pieces]
    spec, how = proto.trainer_spec, proto.normalizer_spec
    kinds = {UNIGRAM: _unigram, BPE: _bpe}
    if spec.model_type not in kinds:
        raise ValueError(f"{path}: neither Unigram nor BPE; set tokenizer.source to another model")
    inner = tokenizers.Tokenizer(kinds[spec.model_type](pieces, spec.byte_fallback))
    inner.normalizer = _normalizer(how)
    strip = [decoders.Strip(" ", 1, 0)] if how.add_dummy_prefix else []
    inner.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    special = [piece for piece, _, kind in pieces if kind in (CONTROL, UNKNOWN)]
    inner.add_special_tokens([AddedToken(one, normalized=False) for one in special])
    defined = [piece for piece, _, kind in pieces if kind == USER_DEFINED]
    unseen = [piece for piece, _, kind in pieces if kind in (CONTROL, UNKNOWN, BYTE)]
    inner.pre_tokenizer = _cuts(defined, unseen if spec.model_type == UNIGRAM else [])
    names = [piece for piece, _, _ in pieces]
    roles = {"bos_token": spec.bos_id, "eos_token": spec.eos_id, "unk_token": spec.unk_id}
    named = {role: names[index] for role, index in roles.items() if 0 <= index < len(names)}
    if END_OF_DOCUMENT not in names and "eos_token" not in named:
        raise ValueError(f"{path}: has no </s> to close documents; train it with eos_id")
    tokenizer = Tokenizer(inner, named)
    theirs = library.SentencePieceProcessor(model_file=str(path))
    check_same_ids(tokenizer, theirs.encode, [PROBE, "x  y", " x", "<s> </s> <0x41> \u2581"], path)
    return tokenizer


def check_same_ids(tokenizer: Tokenizer, encode: Any, texts: Sequence[str], name: object) -> None:
    """
    Raises:
        ValueError: `encode` of the original gives other ids of a text.
    """
    for text in texts:
        ours, theirs = tokenizer.encode(text), encode(text)
        if ours != theirs:
            at = next(
                (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
                min(len(ours), len(theirs)),
            )
            raise ValueError(
                f"{name}: the ids of {text[:60]!r} differ from the original's at token {at}: "
                f"{ours[at : at + 4]}, original {theirs[at : at + 4]}; it cannot be imported"
            )


def _unigram(pieces: list[tuple[str, float, int]], byte_fallback: bool) -> Any:
    # Special tokens and bytes are not found in a text by their names; see _cuts too.
    unseen = (UNKNOWN, CONTROL, BYTE)
    vocab = [(piece, UNSEEN if kind in unseen else score) for piece, score, kind in pieces]
    unknown = next(number for number, one in enumerate(pieces) if one[2] == UNKNOWN)
    return models.Unigram(vocab, unknown, byte_fallback)


def _bpe(pieces: list[tuple[str, float, int]], byte_fallback: bool) -> Any:
    """The pair goes first whose union has the best score: every cut of a piece is a merge."""
    scores = {piece: score for piece, score, kind in pieces if kind == NORMAL}
    merges = []
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        cuts = [(piece[:at], piece[at:]) for at in range(1, len(piece))]
        merges += [(a, b) for a, b in cuts if a in scores and b in scores]
    vocab = {piece: number for number, (piece, _, _) in enumerate(pieces)}
    unknown = next((piece for piece, _, kind in pieces if kind == UNKNOWN), None)
    return models.BPE(
        vocab=vocab,
        merges=merges,
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=byte_fallback,
        ignore_merges=any(kind == USER_DEFINED for _, _, kind in pieces),
    )


def _cuts(defined: list[str], named: list[str]) -> Any:
    """Symbols of the user are whole wherever they stand, also inside a word. The last letter of a
    name of a special token or byte stands alone, since Unigram would take the name for the token
    where one of its letters is unknown."""
    cuts = []
    if defined:
        longest_first = sorted(defined, key=len, reverse=True)
        cuts.append(Regex("|".join(re.escape(one) for one in longest_first)))
    if named:
        names = "|".join(f"(?<={re.escape(one[:-1])}){re.escape(one[-1])}" for one in named)
        cuts.append(Regex(names))
    splits = [pre_tokenizers.Split(cut, "isolated") for cut in cuts]
    return pre_tokenizers.Sequence(splits) if splits else None


def _normalizer(how: Any) -> Any:
    steps: list[Any] = []
    if how.name.startswith("nmt"):  # tokenizers looks at characters that people see: one of two
        steps.append(normalizers.Replace("\r\n", "\n\n"))
    if how.precompiled_charsmap:
        steps.append(normalizers.Precompiled(how.precompiled_charsmap))
    if how.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex("^ +| +$"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if how.add_dummy_prefix:
        steps.append(normalizers.Prepend(" "))
    steps.append(normalizers.Replace(" ", "\u2581"))
    return normalizers.Sequence(steps)


def _sentencepiece() -> Any:
    try:
        return importlib.import_module("sentencepiece")
    except ImportError as error:
        raise ValueError(
            f"a SentencePiece .model needs sentencepiece ({error}); "
            "pip install 'megafm[tokenizers]'"
        ) from error


def _add_special(inner: tokenizers.Tokenizer, special: dict[str, int]) -> None:
    """Special tokens at their ids: tokenizers gives out the next one, so gaps are filled."""
    for token, index in sorted(special.items(), key=lambda item: item[1]):
        while (free := 1 + max(inner.get_vocab().values())) < index:
            inner.add_special_tokens([AddedToken(f"<|unused_{free}|>", normalized=False)])
        inner.add_special_tokens([AddedToken(token, normalized=False)])


def byte_letters() -> list[str]:
    """The letter by which byte-level vocabularies spell each byte: itself where it is printable,
    the rest from U+0100 on. Source: bytes_to_unicode of GPT-2's encoder."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    letters = {byte: chr(byte) for byte in shown}
    letters |= {byte: chr(256 + number) for number, byte in enumerate(hidden)}
    return [letters[byte] for byte in range(256)]


def spell(token: bytes, letters: list[str]) -> str:
    return "".join(letters[byte] for byte in token)
