from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from megafm.tokenizer import Recipe, Tokenizer, train
from megafm.tokenizer.words import words
from tests.data.helpers import program, small_tokenizer

TOKENIZER = small_tokenizer(320)
END = "<|endoftext|>"
text = st.text(st.characters(exclude_categories=["Cs"]))


@settings(max_examples=300, deadline=None)
@given(text)
def test_any_text_round_trips(value: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(value)) == value


@settings(max_examples=200, deadline=None)
@given(
    text, st.sampled_from(["", END, "\r\n", "    x\n\n\t y", "0123456789", "a_b.C(d):\n        e"])
)
def test_token_bytes_add_up_to_the_bytes_of_the_text(value: str, piece: str) -> None:
    value = value + piece + value
    ids = TOKENIZER.encode(value)
    assert TOKENIZER.token_bytes()[ids].sum() == len(value.encode())


def test_token_bytes_are_the_lengths_of_the_decoded_tokens() -> None:
    sizes = TOKENIZER.token_bytes()
    assert sizes.shape == (TOKENIZER.vocab_size,)
    assert sizes[TOKENIZER.eod_id] == 0
    checked = 0
    for index in range(TOKENIZER.vocab_size):
        decoded = TOKENIZER.decode([index])
        if index != TOKENIZER.eod_id and "\ufffd" not in decoded:
            assert sizes[index] == len(decoded.encode())
            checked += 1
    assert checked > 180
    assert (sizes[1:] > 0).all()


def test_the_end_token_in_a_text_is_ordinary_text() -> None:
    ids = TOKENIZER.encode(f"a{END}b")
    assert TOKENIZER.eod_id not in ids
    assert TOKENIZER.decode(ids) == f"a{END}b"
    assert TOKENIZER.decode([TOKENIZER.eod_id]) == END


def test_a_batch_is_its_texts_one_by_one() -> None:
    texts = ["", "x = 1\n", program(3), "\U0001f600" * 3]
    assert TOKENIZER.encode_batch(texts) == [TOKENIZER.encode(one) for one in texts]


def test_words_are_cut_as_python_code_repeats_them() -> None:
    code = "def a_b(self, x1=2024):\n        return self.size  # no\n\n\n    y"
    cut = Split(Regex(words(Recipe())), "isolated").pre_tokenize_str(code)
    assert [word for word, _ in cut] == (
        ["def", " a", "_b", "(self", ",", " x", "1", "=", "202", "4", "):\n        ", "return"]
        + [" self", ".size", " ", " #", " no", "\n\n\n    ", "y"]
    )


def test_training_depends_on_the_texts_alone() -> None:
    programs = [program(number) for number in range(20)]
    shuffled = random.Random(1).sample(programs, len(programs))
    assert train(iter(shuffled), 320).hash == TOKENIZER.hash
    command = "from tests.data.helpers import small_tokenizer; print(small_tokenizer(320).hash)"
    environment = {**os.environ, "RAYON_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == TOKENIZER.hash


def test_save_and_load_keep_the_hash_of_the_file(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path / "one")
    loaded = Tokenizer.load(tmp_path / "one")
    loaded.save(tmp_path / "two")
    data = (tmp_path / "two" / "tokenizer.json").read_bytes()
    assert hashlib.sha256(data).hexdigest() == loaded.hash == TOKENIZER.hash
    assert loaded.encode(program(5)) == TOKENIZER.encode(program(5))
    assert loaded.eod_id == TOKENIZER.eod_id


def test_transformers_loads_it_and_agrees(tmp_path: Path) -> None:
    TOKENIZER.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.eos_token_id == theirs.bos_token_id == TOKENIZER.eod_id
    for value in (program(7), " \u00e9\n\t\U0001f600 don't  ", ""):
        assert theirs.encode(value) == TOKENIZER.encode(value)
        assert theirs.decode(theirs.encode(value)) == value


def test_a_vocabulary_larger_than_the_corpus_supports_names_one_that_works() -> None:
    with pytest.raises(ValueError, match=r"tokenizer.vocab_size=5000: .*supports (\d+)") as error:
        train(iter([program(1)]), 5000)
    supported = int(str(error.value).split("set tokenizer.vocab_size=")[1].split()[0])
    assert train(iter([program(1)]), supported).vocab_size == supported


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="tokenizer.vocab_size=256.*set tokenizer.vocab_size=257"):
        train(iter(["text"]), 256)
    assert (
        train(iter(["text"]), 257).decode(train(iter(["text"]), 257).encode("\u00e9")) == "\u00e9"
    )


def test_a_missing_or_foreign_tokenizer_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="tokenizer.dir=.*no tokenizer.json.*run: megafm tokenizer"
    ):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"tokenizer.json: not a tokenizer.*run: megafm tokenizer"):
        Tokenizer.load(tmp_path)
