from __future__ import annotations

import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from megafm.infer.detokenizer import StreamingDetokenizer
from megafm.tokenizer import Recipe, Tokenizer, train
from megafm.tokenizer.rust import check_same
from megafm.tokenizer.words import words
from tests.tokenizer.corpus import sentences

TEXTS = sentences()
VOCAB_SIZE = 600
KINDS = ("bpe", "unigram", "sentencepiece_bpe", "sentencepiece_unigram", "wordpiece")
TERMS = ("Poincaré", "kalo_min", "x-ray")


def trained(kind: str, **recipe: object) -> Tokenizer:
    return train(iter(TEXTS), VOCAB_SIZE, Recipe(kind=kind, **recipe))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def by_kind() -> dict[str, Tokenizer]:
    return {kind: trained(kind, whole=TERMS, reserved=2) for kind in KINDS}


text = st.text(st.characters(exclude_categories=["Cs"]))
piece = st.sampled_from(
    [
        "<0x41>",
        "<|endoftext|>",
        "\r\n",
        "  \t\n  x",
        "12345",
        *TERMS,
        "\u2581",
        "\ufdd0_\ufdd0.\u2581",
    ]
)


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_round_trips(by_kind: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = by_kind[kind]
    assert tokenizer.vocab_size == VOCAB_SIZE

    @settings(max_examples=150, deadline=None)
    @given(text, piece)
    def check(value: str, inside: str) -> None:
        value = f"{value}{inside} {value}"
        ids = tokenizer.encode(value)
        assert tokenizer.decode(ids) == value
        escaped = sum(map(value.count, "\u2581\ufdd0")) if kind.startswith("sentence") else 0
        assert tokenizer.token_bytes()[ids].sum() == len(value.encode()) + escaped
        assert tokenizer.eod_id not in ids

    check()
    assert tokenizer.lossless


@pytest.mark.parametrize("kind", KINDS)
def test_a_stream_of_tokens_shows_no_half_of_a_character(
    by_kind: dict[str, Tokenizer], kind: str
) -> None:
    value = "a\u2581_\ufdd0\ufdd0.\u4e2d\U0001f600\u2581 \u2581"
    stream = StreamingDetokenizer(by_kind[kind].decode)
    pieces = [stream.push(index) for index in by_kind[kind].encode(value)]
    assert "".join(pieces) == value
    assert stream.flush() == ""


@pytest.mark.parametrize("kind", KINDS)
def test_every_byte_has_a_token(by_kind: dict[str, Tokenizer], kind: str) -> None:
    """The bytes of any UTF-8 text come back, those that no training text had included."""
    every = "".join(map(chr, [*range(0x180), 0x7FF, 0x800, 0xFFFF, 0x10000, 0x10FFFF]))
    assert by_kind[kind].decode(by_kind[kind].encode(every)) == every


def test_word_pieces_of_a_long_word_come_back(by_kind: dict[str, Tokenizer]) -> None:
    """Words are cut at 100 bytes, in the middle of a character too."""
    word = "a" + "\u00e9" * 60_000 + "##\u2581##"
    ids = by_kind["wordpiece"].encode(word)
    assert by_kind["wordpiece"].decode(ids) == word
    assert by_kind["wordpiece"].token_bytes()[ids].sum() == len(word.encode())


@pytest.mark.parametrize("kind", KINDS)
def test_terms_are_one_token_as_words_of_their_own(
    by_kind: dict[str, Tokenizer], kind: str
) -> None:
    tokenizer = by_kind[kind]
    for term in TERMS:
        alone = tokenizer.encode(term)
        assert len(alone) == 1
        for inside in (f"({term})", f"so {term}, so", f"\t{term}\n"):
            tokens = tokenizer._inner.encode(inside).tokens
            decoded = [tokenizer.decode([i]).strip() for i in tokenizer.encode(inside)]
            assert term in decoded, tokens
    assert len(tokenizer.encode("kalo_minter")) > 1


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece_unigram"])
def test_reserved_and_special_tokens_come_first_and_are_not_found_in_text(kind: str) -> None:
    tokenizer = trained(kind, special_tokens=("<|tool|>",), reserved=2, pad_to_multiple_of=128)
    names = [tokenizer.decode([i]) for i in range(4)]
    assert names == ["<|endoftext|>", "<|tool|>", "<|reserved_0|>", "<|reserved_1|>"]
    assert tokenizer.vocab_size == 640
    assert tokenizer.decode([639]) == "<|reserved_41|>"
    ids = tokenizer.encode("a<|tool|><|reserved_40|>")
    assert not {1, 2, 3} & set(ids) and max(ids) < 600
    assert (tokenizer.token_bytes()[[0, 1, 2, 3, 639]] == 0).all()


@pytest.mark.parametrize(
    ("digits", "cut"),
    [
        ("single", ["x", "1", "2", "3", "4"]),
        ("groups_of_3", ["x", "123", "4"]),
        ("none", ["x", "1234"]),
    ],
)
def test_digits_are_cut_as_set(digits: str, cut: list[str]) -> None:
    splitter = Split(Regex(words(Recipe(digits=digits))), "isolated")  # type: ignore[arg-type]
    assert [word for word, _ in splitter.pre_tokenize_str("x1234")] == cut


def test_indentation_is_a_word_of_its_own_where_it_is_not_kept() -> None:
    splitter = Split(Regex(words(Recipe(keep_indentation=False))), "isolated")
    assert [word for word, _ in splitter.pre_tokenize_str("a:\n    b")] == ["a", ":\n", "   ", " b"]


@pytest.mark.parametrize("kind", ["unigram", "sentencepiece_bpe", "wordpiece"])
def test_a_vocabulary_that_the_text_does_not_support_names_one_that_works(kind: str) -> None:
    with pytest.raises(ValueError, match=r"tokenizer.vocab_size=90000: .*supports \d+; set"):
        train(iter(TEXTS[:20]), 90000, Recipe(kind=kind))  # type: ignore[arg-type]


def test_settings_that_cannot_work_name_ones_that_do() -> None:
    with pytest.raises(ValueError, match="tokenizer.trainer=rustbpe.*set tokenizer.trainer=token"):
        Recipe(kind="unigram", trainer="rustbpe")
    with pytest.raises(ValueError, match="tokenizer.temperature=0.5.*set tokenizer.temperature=1"):
        Recipe(temperature=0.5)
    with pytest.raises(ValueError, match="' x'"):
        Recipe(whole=(" x",))
    with pytest.warns(UserWarning, match=r"tokenizer.digits.*no effect with tokenizer.cut=gpt2"):
        Recipe(cut="gpt2", digits="single")


def letters(seed: int) -> str:
    """Words of letters of very different frequency, so that few pairs are equally frequent."""
    rng = random.Random(seed)
    return "".join(rng.choices("abcdefgh  ", [2**n for n in range(10)], k=20_000))


def test_rustbpe_trains_the_same_tokens() -> None:
    pytest.importorskip("rustbpe", reason="the extra tokenizers is not installed")
    texts = [letters(seed) for seed in range(5)]
    ours, theirs = (
        train(iter(texts), 300, Recipe(trainer=trainer, special_tokens=("<|tool|>",)))  # type: ignore[arg-type]
        for trainer in ("tokenizers", "rustbpe")
    )
    assert theirs._inner.get_vocab().keys() == ours._inner.get_vocab().keys()
    assert [theirs.decode([number]) for number in (0, 1)] == ["<|endoftext|>", "<|tool|>"]
    for one in (letters(9), TEXTS[0]):
        assert theirs._inner.encode(one).tokens == ours._inner.encode(one).tokens
        assert theirs.decode(theirs.encode(one)) == one


def test_rustbpe_is_refused_where_ties_make_other_tokens() -> None:
    """Bytes of a letter are as frequent as the letter: which pair goes first is a tie."""
    pytest.importorskip("rustbpe", reason="the extra tokenizers is not installed")
    with pytest.raises(ValueError, match=r"tokenizer.trainer=rustbpe: \d+ tokens differ"):
        trained("bpe", trainer="rustbpe")


def test_the_gate_refuses_other_tokens_and_other_cuts() -> None:
    wanted = json.loads(trained("bpe").definition)
    other = json.loads(trained("bpe", digits="single").definition)
    with pytest.raises(ValueError, match=r"tokenizer.trainer=rustbpe: \d+ tokens differ.*set tok"):
        check_same(wanted, other, TEXTS)
    reordered = json.loads(json.dumps(wanted))
    reordered["model"]["merges"].reverse()
    with pytest.raises(ValueError, match="is cut into other tokens than by tokenizers"):
        check_same(wanted, reordered, TEXTS)
