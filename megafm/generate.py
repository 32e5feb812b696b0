"""`megafm generate`: stream text from a trained model to the terminal."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megafm.config import job
from megafm.files import write_text
from megafm.ops import OpsConfig
from megafm.paths import SavedRun

if TYPE_CHECKING:
    from megafm.infer.load import LoadedRun
    from megafm.infer.sampler import Sampling

SAMPLES_FILE = "samples.json"


@dataclass(frozen=True)
class GenerateJob:
    """
    Attributes:
        prompt: text to continue; empty starts a new document. Quote what Hydra would read:
            prompt='"def f(x):"'.
        prompt_file: read the prompt from this file instead; - is standard input.
        num_samples: texts to write; sample i is drawn with seed + i.
        save: append prompt, text and settings to samples.json in the run folder, for the report.
        temperature, top_k, top_p, repetition_penalty: see megafm.infer.sampler.Sampling.
    """

    what: str = "sample text from a trained model"
    run: SavedRun = field(default_factory=SavedRun)
    prompt: str = ""
    prompt_file: str | None = None
    max_new_tokens: int = 200
    num_samples: int = 1
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    seed: int = 1234
    save: bool = False
    device: str = "auto"
    ops: OpsConfig = field(default_factory=OpsConfig)

    def __post_init__(self) -> None:
        if self.num_samples < 1:
            raise ValueError(f"num_samples={self.num_samples}: must be at least 1; set 1")
        if self.prompt and self.prompt_file:
            raise ValueError(f"prompt_file={self.prompt_file}: there is a prompt too; set only one")


@job("generate")
def main(config: GenerateJob) -> None:
    generate_samples(config)


def generate_samples(config: GenerateJob) -> list[dict[str, Any]]:
    """Run the job; returns the samples as samples.json holds them: prompt, text, settings.

    Raises:
        ValueError: a setting cannot work, or there is no complete checkpoint or tokenizer.
    """
    from megafm import ops
    from megafm.device import resolve_device, set_up_cpu
    from megafm.infer.load import load_run
    from megafm.infer.sampler import Sampling

    names = (item.name for item in dataclasses.fields(Sampling))
    sampling = Sampling(**{name: getattr(config, name) for name in names})
    prompt = _read_prompt(config)
    samples = []
    ops.configure(config.ops)
    device = resolve_device(config.device)
    if device.type == "cpu":
        set_up_cpu()
    loaded = load_run(config.run, device)
    _warn_beyond_training(loaded, len(loaded.tokenizer.encode(prompt)) + config.max_new_tokens)
    for seed in range(config.seed, config.seed + config.num_samples):
        text = _stream_one(loaded, prompt, sampling, config.max_new_tokens, seed)
        settings = {
            "step": loaded.info.step,
            "max_new_tokens": config.max_new_tokens,
            **dataclasses.asdict(sampling),
            "seed": seed,
        }
        samples.append({"prompt": prompt, "text": text, "settings": settings})
    if config.save:
        append_samples(config.run.dir, samples)
    return samples


def stream_text(
    loaded: LoadedRun, prompt: str, sampling: Sampling, max_new_tokens: int, seed: int
) -> Iterator[str]:
    """The continuation of `prompt`, one piece a token (some empty), whole characters only."""
    from megafm.infer.detokenizer import StreamingDetokenizer
    from megafm.infer.generate import generate

    tokenizer = loaded.tokenizer
    detokenizer = StreamingDetokenizer(tokenizer.decode)
    tokens = generate(
        loaded.model,
        tokenizer.encode(prompt),
        eod_id=tokenizer.eod_id,
        max_new_tokens=max_new_tokens,
        sampling=sampling,
        seed=seed,
        vocab_size=tokenizer.vocab_size,
    )
    for token in tokens:
        yield detokenizer.push(token)
    yield detokenizer.flush()


def append_samples(run_dir: str | Path, samples: list[dict[str, Any]]) -> Path:
    """Add to samples.json of a run, in place of those with the same prompt and settings."""
    path = Path(run_dir) / SAMPLES_FILE
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    new = [(sample["prompt"], sample["settings"]) for sample in samples]
    kept = [sample for sample in old if (sample["prompt"], sample["settings"]) not in new]
    write_text(path, json.dumps(kept + samples, indent=2) + "\n")
    return path


def _read_prompt(config: GenerateJob) -> str:
    try:
        if config.prompt_file is None:
            text = config.prompt
        elif config.prompt_file == "-":
            text = sys.stdin.read()
        else:
            text = Path(config.prompt_file).read_text(encoding="utf-8")
        text.encode()  # bytes that a terminal could not decode arrive as lone surrogates
        return text
    except (OSError, UnicodeError) as error:
        why = "not UTF-8 text" if isinstance(error, UnicodeError) else error.strerror
        if config.prompt_file is None:
            raise ValueError(f"prompt={config.prompt!a}: {why}; give valid text") from error
        raise ValueError(
            f"prompt_file={config.prompt_file}: {why}; name a text file, or - for standard input"
        ) from error


def _warn_beyond_training(loaded: LoadedRun, tokens: int) -> None:
    trained = loaded.info.seq_len
    if 0 < trained < tokens:
        print(
            f"megafm: prompt and new tokens may reach {tokens}, the model was trained on {trained} "
            "at a time: expect worse text beyond",
            file=sys.stderr,
        )


def _stream_one(
    loaded: LoadedRun, prompt: str, sampling: Sampling, max_new_tokens: int, seed: int
) -> str:
    """Show prompt and continuation as they come, and how fast on stderr; returns the latter."""
    dim, plain = ("\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "")
    sys.stdout.write(f"{dim}{_printable(prompt)}{plain}")
    pieces = []
    start = time.perf_counter()
    for piece in stream_text(loaded, prompt, sampling, max_new_tokens, seed):
        pieces.append(piece)
        sys.stdout.write(_printable(piece))
        sys.stdout.flush()
    seconds = time.perf_counter() - start
    count = len(pieces) - 1  # the last one only flushes
    print(flush=True)
    rate = f"{count / seconds:,.0f} tokens/s"
    print(f"{dim}[{count} tokens, {rate}, seed {seed}]{plain}", file=sys.stderr, flush=True)
    return "".join(pieces)


def _printable(text: str) -> str:
    """A model can emit escape codes; on a terminal they are shown, not obeyed."""
    if not sys.stdout.isatty():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)


if __name__ == "__main__":
    main()
