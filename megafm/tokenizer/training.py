"""Learning a tokenizer: byte-level BPE and Unigram, the SentencePiece kinds, WordPiece."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, trainers

from megafm.tokenizer.chat import TEMPLATES
from megafm.tokenizer.config import Recipe
from megafm.tokenizer.rust import train_rustbpe
from megafm.tokenizer.tokenizer import END_OF_DOCUMENT, Tokenizer
from megafm.tokenizer.words import words

BLANK = "\u2581"  # how SentencePiece spells one
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")
COVERAGE = 0.9995  # of the characters of the text have pieces of their own; the rest goes by bytes
CONTINUES = "\u2581"  # before a piece inside a word; no byte is spelt so, but "##" may be text
ESCAPE = "\ufdd0"  # a noncharacter: no text of the world has it, but any text may
IN_BYTES = ("bpe", "unigram", "wordpiece")
LONGEST_WORD = 100  # bytes of a word for WordPiece, whose search is quadratic in them
UNSEEN = -1e6  # a score that the best path through a text never takes


def train(
    texts: Iterable[str], vocab_size: int, recipe: Recipe | None = None, chat_template: str = ""
) -> Tokenizer:
    """Learn a tokenizer of `vocab_size` ids, rounded up to a multiple where the recipe says so.

    Ids are those of END_OF_DOCUMENT, the special tokens, the reserved ones, the bytes or
    characters, and what is learnt; terms kept whole and what fills up the vocabulary come last.
    BPE merges pairs seen at least twice; its outcome depends on the texts alone, not on their
    order or the number of threads.

    Raises:
        ValueError: `vocab_size` is too small for the bytes or characters, or the texts do not
            hold that many tokens; names one that works.
    """
    recipe = recipe or Recipe()
    terms = recipe.terms()
    special = special_tokens(recipe, chat_template)
    in_bytes = recipe.kind in IN_BYTES  # terms are entries of the model itself
    for_terms = (2 if in_bytes else 1) * len(terms)
    least = len(special) + (512 if recipe.kind == "wordpiece" else 256) + for_terms
    if vocab_size < least:
        raise ValueError(
            f"tokenizer.vocab_size={vocab_size}: too small for every byte and the end of a "
            f"document; set tokenizer.vocab_size={least} or more"
        )
    room = vocab_size - for_terms
    inner = _untrained(recipe, terms if in_bytes else [])
    if recipe.trainer == "rustbpe":
        learn = functools.partial(_learn, inner, recipe=recipe, special=special)
        pattern = words(recipe, terms)
        inner = train_rustbpe(inner, iter(texts), room, special, pattern, learn)
    else:
        _learn(inner, texts, room, recipe, special)
    reached = inner.get_vocab_size()
    if reached != room:
        problem = "supports" if reached < room else "has characters for"
        bound = "less, or raise tokenizer.max_bytes" if reached < room else "more"
        raise ValueError(
            f"tokenizer.vocab_size={vocab_size}: the training text {problem} "
            f"{reached + for_terms}; set tokenizer.vocab_size={reached + for_terms} or {bound}"
        )
    if recipe.kind != "bpe" or terms:
        inner = _completed(inner, recipe.kind, len(special), terms if in_bytes else [])
    if not in_bytes:
        inner.add_tokens([AddedToken(term, single_word=True, normalized=False) for term in terms])
    pad(inner, vocab_size, recipe.pad_to_multiple_of)
    return Tokenizer(inner, chat_template=chat_template or None)


def special_tokens(recipe: Recipe, chat_template: str) -> list[str]:
    """END_OF_DOCUMENT, those of our own chat template where it is used, the recipe's."""
    tokens = [END_OF_DOCUMENT, *recipe.special_tokens]
    if chat_template == (TEMPLATES / "chatml.jinja").read_text(encoding="utf-8"):
        tokens += CHATML_TOKENS
    tokens += [f"<|reserved_{number}|>" for number in range(recipe.reserved)]
    return list(dict.fromkeys(tokens))


def pad(inner: tokenizers.Tokenizer, size: int, multiple: int) -> None:
    """Add reserved tokens until there are `size` ids, or the next multiple."""
    missing = -(-size // multiple) * multiple - inner.get_vocab_size()
    if not missing:
        return
    taken = inner.get_vocab()
    free = (name for n in range(10**9) if (name := f"<|reserved_{n}|>") not in taken)
    inner.add_special_tokens(
        [AddedToken(next(free), special=True, normalized=False) for _ in range(missing)]
    )


def _untrained(recipe: Recipe, terms: list[str]) -> tokenizers.Tokenizer:
    cut = pre_tokenizers.Split(Regex(words(recipe, terms)), "isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    model: Any = models.BPE() if recipe.kind.endswith("bpe") else models.Unigram()
    if recipe.kind == "wordpiece":
        model = models.WordPiece(unk_token=END_OF_DOCUMENT, max_input_chars_per_word=LONGEST_WORD)
        model.continuing_subword_prefix = CONTINUES
    inner = tokenizers.Tokenizer(model)
    if recipe.kind == "wordpiece":
        short = pre_tokenizers.FixedLength(LONGEST_WORD)
        inner.pre_tokenizer = pre_tokenizers.Sequence([cut, in_bytes, short])
        inner.decoder = decoders.Sequence([decoders.Replace(CONTINUES, ""), decoders.ByteLevel()])
    elif recipe.kind in IN_BYTES:
        inner.pre_tokenizer = pre_tokenizers.Sequence([cut, in_bytes])
        inner.decoder = decoders.ByteLevel()
    else:
        # U+2581 is a blank to the model, so that of a text becomes ESCAPE and "_".
        escape = [(ESCAPE, f"{ESCAPE}."), (BLANK, f"{ESCAPE}_")]
        inner.normalizer = normalizers.Sequence([normalizers.Replace(*pair) for pair in escape])
        # Half of one, as a stream of tokens has it, is no character yet.
        unescape = [decoders.Replace(Regex(f"{ESCAPE}(?![._])"), "\ufffd")]
        unescape += [decoders.Replace(new, old) for old, new in reversed(escape)]
        blanks = pre_tokenizers.Metaspace(BLANK, prepend_scheme="never", split=False)
        inner.pre_tokenizer = pre_tokenizers.Sequence([cut, blanks])
        inner.decoder = decoders.Sequence(
            [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse(), *unescape]
        )
    return inner


def _learn(
    inner: tokenizers.Tokenizer,
    texts: Iterable[str],
    vocab_size: int,
    recipe: Recipe,
    special: list[str],
) -> None:
    """Train `inner`."""
    by_bytes = recipe.kind.startswith("sentencepiece")
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    first = [*special, *(BYTES if by_bytes else ())]
    if recipe.kind == "wordpiece":
        first += [CONTINUES + letter for letter in sorted(alphabet)]
    settings: dict[str, Any] = {
        "vocab_size": vocab_size,
        "show_progress": False,
        "special_tokens": [AddedToken(token, special=True, normalized=False) for token in first],
    }
    if recipe.kind in IN_BYTES:
        settings["initial_alphabet"] = alphabet
    if by_bytes:
        texts = covered(list(texts), COVERAGE)
    if recipe.kind == "wordpiece":
        settings["continuing_subword_prefix"] = CONTINUES
        trainer: Any = trainers.WordPieceTrainer(min_frequency=2, **settings)
    elif recipe.kind.endswith("bpe"):
        trainer = trainers.BpeTrainer(min_frequency=2, **settings)
    else:
        trainer = trainers.UnigramTrainer(unk_token=special[0], **settings)
    inner.train_from_iterator(texts, trainer)


def _completed(
    inner: tokenizers.Tokenizer, kind: str, num_special: int, terms: list[str]
) -> tokenizers.Tokenizer:
    """With what the trainers of tokenizers have no setting for."""
    trained: dict[str, Any] = json.loads(inner.to_str())
    # Bytes are pieces, but not found in text by their names.
    bytes_ = [one for one in trained["added_tokens"] if one["id"] >= num_special]
    trained["added_tokens"] = trained["added_tokens"][:num_special]
    model = trained["model"]
    if kind.startswith("sentencepiece"):
        model["byte_fallback"] = True
    if model["type"] == "Unigram":
        for entry in model["vocab"][: num_special + len(bytes_)]:
            entry[1] = UNSEEN
    _add_terms(model, terms)
    return tokenizers.Tokenizer.from_str(json.dumps(trained))


def covered(texts: list[str], share: float) -> Iterator[str]:
    """The texts without their rarest characters, of which at most 1 - `share` of all are."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    allowed = int(counts.total() * (1 - share))
    rare = {}
    for character, count in sorted(counts.items(), key=lambda item: (item[1], item[0])):
        allowed -= count
        if allowed < 0:
            break
        rare[ord(character)] = "\n"  # not a word's part
    return (text.translate(rare) for text in texts)


def _add_terms(model: dict[str, Any], terms: list[str]) -> None:
    """Each term, alone and behind a blank, as an entry that its word becomes at once."""
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for text in (text for term in terms for text in (term, f" {term}")):
        (entry, _), *_ = in_bytes.pre_tokenize_str(text)
        if model["type"] == "Unigram":
            scores = dict(model["vocab"])
            scores[entry] = 0.0  # better than any pieces together
            model["vocab"] = [list(one) for one in scores.items()]
        else:
            model["vocab"].setdefault(entry, len(model["vocab"]))
            if model["type"] == "BPE":
                model["ignore_merges"] = True
