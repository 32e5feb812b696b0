from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from megafm.config import compose
from megafm.generate import GenerateJob, append_samples, generate_samples
from megafm.paths import SavedRun
from tests.tiny_run import make_tiny_run


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_run(tmp_path_factory.mktemp("run"))


def job(run_dir: Path, **changes: object) -> GenerateJob:
    defaults = {"run": SavedRun(str(run_dir)), "max_new_tokens": 12, "device": "cpu"}
    return GenerateJob(**{**defaults, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", ["", "def ", "\u00e9\U0001f600 = <|endoftext|>"])
def test_prompt_and_text_are_streamed_whole(
    run_dir: Path, prompt: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (sample,) = generate_samples(job(run_dir, prompt=prompt))
    captured = capsys.readouterr()
    assert captured.out == prompt + sample["text"] + "\n"
    assert "tokens/s" in captured.err


def test_a_seed_reproduces_and_samples_differ(run_dir: Path) -> None:
    first = generate_samples(job(run_dir, num_samples=2, temperature=1.5))
    again = generate_samples(job(run_dir, num_samples=2, temperature=1.5))
    assert first == again
    assert first[0]["text"] != first[1]["text"]
    alone = generate_samples(job(run_dir, seed=1235, temperature=1.5))
    assert alone == first[1:]


def test_greedy_does_not_depend_on_the_seed(run_dir: Path) -> None:
    texts = [s["text"] for s in generate_samples(job(run_dir, num_samples=2, temperature=0))]
    assert texts[0] == texts[1]


def test_saved_samples_carry_prompt_text_and_settings(tmp_path: Path) -> None:
    make_tiny_run(tmp_path)
    samples = generate_samples(job(tmp_path, prompt="x", save=True, seed=1))
    generate_samples(job(tmp_path, prompt="x", save=True, seed=2))
    generate_samples(job(tmp_path, prompt="x", save=True, seed=1))  # the same once more
    saved = json.loads((tmp_path / "samples.json").read_text())
    assert [sample["settings"]["seed"] for sample in saved] == [2, 1]
    assert saved[1] == samples[0]
    assert saved[0]["settings"]["step"] == 7


def test_samples_are_only_written_on_request(tmp_path: Path) -> None:
    make_tiny_run(tmp_path)
    generate_samples(job(tmp_path))
    assert not (tmp_path / "samples.json").exists()


def test_a_prompt_can_come_from_a_file_or_standard_input(
    run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompt").write_text("a = 1\n")
    from_file = generate_samples(job(run_dir, prompt_file=str(tmp_path / "prompt")))
    monkeypatch.setattr("sys.stdin", io.StringIO("a = 1\n"))
    assert generate_samples(job(run_dir, prompt_file="-")) == from_file
    assert from_file == generate_samples(job(run_dir, prompt="a = 1\n"))


def test_a_prompt_file_that_is_not_text_is_refused(run_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "prompt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="prompt_file=.*not UTF-8"):
        generate_samples(job(run_dir, prompt_file=str(tmp_path / "prompt")))
    with pytest.raises(ValueError, match="prompt_file=.*No such file"):
        generate_samples(job(run_dir, prompt_file=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match=r"prompt='\\udcff': not UTF-8"):  # as argv brings it
        generate_samples(job(run_dir, prompt="\udcff"))


def test_going_beyond_the_trained_length_warns(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    generate_samples(job(run_dir, max_new_tokens=20))
    assert "trained on 16" in capsys.readouterr().err


def test_a_terminal_is_shown_escape_codes_and_does_not_obey_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from megafm import generate

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert generate._printable("a\x1b[31m\tb\n\u00e9") == "a\\x1b[31m\tb\n\u00e9"


def test_appending_keeps_what_others_wrote(tmp_path: Path) -> None:
    one, two = ({"prompt": p, "text": "", "settings": {}} for p in "ab")
    append_samples(tmp_path, [one])
    append_samples(tmp_path, [two])
    assert json.loads((tmp_path / "samples.json").read_text()) == [one, two]


def test_hydra_composes_the_job_with_a_quoted_prompt() -> None:
    assert compose("generate", GenerateJob, []) == GenerateJob()
    found = compose("generate", GenerateJob, ["prompt='def f(x):\n'", "top_k=5"])
    assert (found.prompt, found.top_k) == ("def f(x):\n", 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_samples": 0}, "num_samples=0"),
        ({"prompt": "a", "prompt_file": "b"}, "prompt_file=b: there is a prompt too"),
    ],
)
def test_settings_that_contradict_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerateJob(**changes)
