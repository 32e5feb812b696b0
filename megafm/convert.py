"""`megafm convert`: a run's model as a Hugging Face folder, or such a folder as a new run."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from megafm.config import job, to_dict
from megafm.paths import SavedRun

if TYPE_CHECKING:
    import torch
    from torch import nn

    from megafm.model import ModelConfig

MAX_DIFFERENCE = 1e-4  # of logits in fp32 between this decoder and transformers


@dataclass(frozen=True)
class ConvertJob:
    """
    Attributes:
        to: "hf" writes the model of run.dir to `output`; "megafm" makes the Hugging Face folder
            `input` the step 0 of a new run.dir.
        output: None is run.dir/hf.
        dtype: of the written tensors; None keeps that of the model.
        verify: compare logits with transformers, where it is installed; that takes the whole model
            into memory twice, which writing does not.
    """

    what: str = "to and from the Hugging Face format"
    to: Literal["hf", "megafm"] = "hf"
    run: SavedRun = field(default_factory=SavedRun)
    input: str | None = None
    output: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    verify: bool = True

    def __post_init__(self) -> None:
        if self.to == "megafm" and self.input is None:
            raise ValueError("input=null: to=megafm reads a Hugging Face folder; set input=DIR")
        if self.to == "hf" and self.input is not None:
            raise ValueError(
                f"input={self.input}: to=hf reads run.dir; set input=null or to=megafm"
            )
        if self.to == "megafm" and self.output is not None:
            raise ValueError(
                f"output={self.output}: to=megafm writes run.dir; set run.dir={self.output}"
            )


@job("convert")
def main(config: ConvertJob) -> None:
    if config.to == "hf":
        export(config)
    else:
        import_run(config)


def export(config: ConvertJob) -> None:
    """run.dir -> a folder that transformers loads, a file of it at a time.

    Raises:
        ValueError: there is no such checkpoint, the tokenizer beside it is not its own, or
            transformers computes other logits from the folder.
    """
    from megafm.checkpoint import load_model, open_model, read_parameters
    from megafm.infer.load import load_tokenizer
    from megafm.model.hf import write_hf

    folder, info, model = open_model(config.run.dir, config.run.step)
    if info.tokenizer_hash is not None:
        load_tokenizer(config.run.dir, info)  # for its check: a foreign one would be exported
    output = Path(config.output or Path(config.run.dir) / "hf")
    tokenizer = Path(config.run.dir) / "tokenizer"
    dtype = None if config.dtype is None else _dtype(config.dtype)
    write_hf(
        model,
        lambda names: read_parameters(folder, model, names),
        output,
        tokenizer if tokenizer.is_dir() else None,
        dtype=dtype,
    )
    size = sum(path.stat().st_size for path in output.glob("*.safetensors"))
    print(f"{output}: step {info.step} of {config.run.dir}, {size / 1e6:,.1f} MB of safetensors")
    if config.verify:
        verify(load_model(folder)[0].to(dtype), output)


def import_run(config: ConvertJob) -> None:
    """A Hugging Face folder -> step 0 of a new run folder, with its tokenizer.

    Raises:
        ValueError: the folder is not one that this decoder can be, or the run is not new.
    """
    import torch

    import megafm
    from megafm.checkpoint import CheckpointInfo, latest, save_model
    from megafm.model import from_hf, num_parameters
    from megafm.model.hf import TOKENIZER_FILES

    assert config.input is not None  # checked by ConvertJob
    source, run_dir = Path(config.input), Path(config.run.dir)
    existing = latest(run_dir)
    if existing is not None:
        raise ValueError(f"run.dir={run_dir}: holds {existing.name} already; set a new run.dir")
    model = from_hf(source, dtype=None if config.dtype is None else _dtype(config.dtype))
    info = CheckpointInfo(
        model=model.config,
        tokenizer_hash=_tokenizer_hash(source),
        megafm_version=megafm.__version__,
        torch_version=torch.__version__,
    )
    folder = save_model(run_dir, model, info)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            (run_dir / "tokenizer").mkdir(exist_ok=True)
            shutil.copyfile(source / name, run_dir / "tokenizer" / name)
    print(f"{folder}: {num_parameters(model.config):,} parameters from {source}")
    print(f"train it on: megafm train run.dir={run_dir} {_overrides(model.config)}")
    if config.verify:
        verify(model, source)


def verify(model: nn.Module, folder: Path) -> None:
    """Print the largest difference of logits on random tokens between `model` and transformers.

    Raises:
        ValueError: it is MAX_DIFFERENCE or more.
    """
    import torch

    from megafm.model import Decoder

    assert isinstance(model, Decoder)
    if importlib.util.find_spec("transformers") is None:
        print("not verified: transformers is missing; pip install 'megafm[hf]'")
        return
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    config = model.config
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(
        config.vocab_size, (2, min(256, config.max_seq_len)), generator=generator
    )
    with torch.no_grad():
        difference = (model.float()(tokens) - theirs(tokens).logits).abs().max().item()
    print(
        f"verified with transformers {transformers.__version__}: logits of {tokens.numel()} random "
        f"tokens differ by at most {difference:.1e} (fp32)"
    )
    if not difference < MAX_DIFFERENCE:
        raise ValueError(
            f"{folder}: transformers computes other logits (largest difference {difference:.1e}, "
            f"allowed {MAX_DIFFERENCE:.0e}); do not use this folder"
        )


def _dtype(name: str) -> torch.dtype:
    import torch

    return getattr(torch, name)


def _tokenizer_hash(folder: Path) -> str | None:
    """None, and a line that says why, for a tokenizer that megafm cannot use."""
    from megafm.tokenizer import Tokenizer

    try:
        return Tokenizer.load(folder).hash
    except ValueError as error:
        print(f"tokenizer: {error}")
        return None


def _overrides(config: ModelConfig) -> str:
    """The overrides that name this model, every field: a preset may set any of them."""
    return " ".join(f"model.{name}={_quote(value)}" for name, value in to_dict(config).items())


def _quote(value: Any) -> str:
    """As Hydra reads it, behind a shell."""
    if isinstance(value, dict):
        return "'{" + ",".join(f"{key}:{_quote(item)}" for key, item in value.items()) + "}'"
    return {None: "null", True: "true", False: "false"}.get(value, str(value))


if __name__ == "__main__":
    main()
