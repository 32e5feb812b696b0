"""To and from Hugging Face folders: config.json, safetensors, tokenizer files.

One table of names serves both directions. Needs no transformers.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from megafm.files import publish, staging
from megafm.model.config import ModelConfig
from megafm.model.decoder import Decoder, build
from megafm.model.hf_config import read_config, to_hf_config

# ours -> theirs; {i} is the layer, {e} the expert: ours are one tensor, theirs one each.
TENSOR_NAMES = {
    "embedding.weight": "model.embed_tokens.weight",
    "blocks.{i}.attention_norm.weight": "model.layers.{i}.input_layernorm.weight",
    "blocks.{i}.attention.wq.weight": "model.layers.{i}.self_attn.q_proj.weight",
    "blocks.{i}.attention.wk.weight": "model.layers.{i}.self_attn.k_proj.weight",
    "blocks.{i}.attention.wv.weight": "model.layers.{i}.self_attn.v_proj.weight",
    "blocks.{i}.attention.wo.weight": "model.layers.{i}.self_attn.o_proj.weight",
    "blocks.{i}.attention.q_norm.weight": "model.layers.{i}.self_attn.q_norm.weight",
    "blocks.{i}.attention.k_norm.weight": "model.layers.{i}.self_attn.k_norm.weight",
    "blocks.{i}.ffn_norm.weight": "model.layers.{i}.post_attention_layernorm.weight",
    "blocks.{i}.ffn.w_gate.weight": "model.layers.{i}.mlp.gate_proj.weight",
    "blocks.{i}.ffn.w_up.weight": "model.layers.{i}.mlp.up_proj.weight",
    "blocks.{i}.ffn.w_down.weight": "model.layers.{i}.mlp.down_proj.weight",
    "blocks.{i}.ffn.router.weight": "model.layers.{i}.mlp.gate.weight",
    "blocks.{i}.ffn.experts.w_gate.weight": "model.layers.{i}.mlp.experts.{e}.gate_proj.weight",
    "blocks.{i}.ffn.experts.w_up.weight": "model.layers.{i}.mlp.experts.{e}.up_proj.weight",
    "blocks.{i}.ffn.experts.w_down.weight": "model.layers.{i}.mlp.experts.{e}.down_proj.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}

MAX_SHARD_BYTES = 5_000_000_000
Read = Callable[[list[str]], Iterable[torch.Tensor]]  # parameters, by their names here
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "chat_template.jinja"),
)
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def from_hf(
    path: str | Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Decoder:
    """The model of a Hugging Face folder, in the dtype it is stored in unless `dtype` is given.

    Raises:
        ValueError: an architecture or a setting that this decoder does not have, a missing file,
            or tensors that do not fit; names it.
    """
    folder = Path(path)
    config = read_config(folder)
    with torch.device("meta"):
        model = build(config)
    wanted = {
        theirs: piece.shape
        for name, parameter in model.named_parameters()
        for theirs, piece in _pieces(name, parameter)
    }
    found: dict[str, torch.Tensor] = {}
    for name, tensor in _read_tensors(folder):
        if name in wanted:
            found[name] = tensor.to(device=device, dtype=dtype)
        elif not _is_redundant(name, config):
            raise ValueError(f"{folder}: this decoder has no place for the tensor {name!r}")
    _check_tensors(folder, wanted, found)
    tensors = {
        name: torch.zeros_like(value, device=device)  # what balances experts starts anew
        for name, value in model.state_dict().items()
    }
    for name, parameter in model.named_parameters():
        pieces = [found.pop(theirs) for theirs, _ in _pieces(name, parameter)]
        tensors[name] = torch.stack(pieces) if parameter.ndim == 3 else pieces[0]
    model.load_state_dict(tensors, assign=True)
    return model.to(device)  # the rotary tables


def to_hf(
    model: nn.Module,
    path: str | Path,
    tokenizer_dir: str | Path | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write `model` (a Decoder) as a folder that transformers 4 and 5 load.

    An older model in the folder is replaced once all of the new one is on the disk.

    Args:
        tokenizer_dir: its files are copied; tokenizer_config.json names the bos and eos tokens.
        dtype: of the tensors; by default that of the model.

    Raises:
        OSError: with the folder's name, e.g. of a full disk.
    """
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    write_hf(model, lambda names: [parameters[n] for n in names], path, tokenizer_dir, dtype=dtype)


def write_hf(
    model: nn.Module,
    read: Read,
    path: str | Path,
    tokenizer_dir: str | Path | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """As `to_hf`, of a model whose parameters lie elsewhere: `model` may be on meta.

    Args:
        read: gives parameters by their names; asked for those of one file at a time, so that never
            more than MAX_SHARD_BYTES (or one parameter) of them are in memory.
    """
    assert isinstance(model, Decoder)
    folder = Path(path)
    ids: dict[str, int | None] = {"bos_token_id": None, "eos_token_id": None}
    dtype = dtype or model.embedding.weight.dtype
    stored = str(dtype).removeprefix("torch.")
    values = to_hf_config(model.config) | {"torch_dtype": stored, "dtype": stored}
    with staging(folder) as stage:
        if tokenizer_dir is not None:
            ids = _copy_tokenizer(Path(tokenizer_dir), stage)
        _write_json(stage / CONFIG, values | ids)
        _write_json(stage / "generation_config.json", {"do_sample": True, **ids})
        try:
            _write_tensors(stage, model, read, dtype)
        except SafetensorError as error:
            raise OSError(f"{folder}: could not write the tensors ({error})") from error
        for stale in (folder / CONFIG, *folder.glob("model*.safetensors"), folder / INDEX):
            stale.unlink(missing_ok=True)
        publish(stage, folder, last=CONFIG)


def their_name(name: str, expert: int = 0) -> str:
    """The Hugging Face name of a parameter of ours, or of one expert in it."""
    numbers = re.findall(r"\.(\d+)\.", name)
    theirs = TENSOR_NAMES[re.sub(r"\.\d+\.", ".{i}.", name)]
    return theirs.format(i=numbers[0], e=expert) if numbers else theirs


def _pieces(name: str, parameter: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """A parameter of ours as what is stored of it, by its Hugging Face name."""
    pieces = parameter.unbind() if parameter.ndim == 3 else (parameter,)
    for expert, piece in enumerate(pieces):
        yield their_name(name, expert), piece


def _read_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    if (folder / INDEX).is_file():
        index = _read_json(folder / INDEX)
        files = sorted(set(index["weight_map"].values()))
    else:
        files = [WEIGHTS]
    for file in files:
        path = folder / file
        if not path.is_file():
            raise ValueError(
                f"{path}: missing; weights are read from {WEIGHTS} or from {INDEX} and "
                "its shards, never from pickles: save them with safe_serialization=True"
            )
        try:
            with safe_open(path, framework="pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dict)
                    yield name, tensors.get_tensor(name)
        except SafetensorError as error:
            raise ValueError(f"{path}: damaged ({error}); copy or export it again") from error


def _is_redundant(name: str, config: ModelConfig) -> bool:
    """Tensors that some exports repeat: the tied head, and the frequencies of old ones."""
    tied_head = config.tie_embeddings and name == TENSOR_NAMES["head.weight"]
    return tied_head or name.endswith("rotary_emb.inv_freq")


def _check_tensors(
    folder: Path, wanted: Mapping[str, torch.Size], found: Mapping[str, torch.Tensor]
) -> None:
    for name, shape in wanted.items():
        if name not in found:
            raise ValueError(f"{folder}: the tensor {name!r} is missing")
        if found[name].shape != shape:
            raise ValueError(
                f"{folder}: {name} has shape {tuple(found[name].shape)}, config.json asks for "
                f"{tuple(shape)}"
            )


def _write_tensors(folder: Path, model: nn.Module, read: Read, dtype: torch.dtype) -> None:
    """One file, or numbered shards and their index once it would exceed MAX_SHARD_BYTES."""
    sizes = {name: p.numel() * dtype.itemsize for name, p in model.named_parameters()}
    shards = _shards(sizes)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {
            theirs: piece.to("cpu", dtype).contiguous()
            for name, tensor in zip(names, read(names), strict=True)
            for theirs, piece in _pieces(name, tensor)
        }
        save_file(tensors, folder / (file if len(shards) > 1 else WEIGHTS), {"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        _write_json(folder / INDEX, index)


def _shards(sizes: Mapping[str, int]) -> list[list[str]]:
    """Names in their order, in groups of at most MAX_SHARD_BYTES, or of one name."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if filled and filled + size > MAX_SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _copy_tokenizer(source: Path, folder: Path) -> dict[str, int | None]:
    """Copy the tokenizer's files; returns the ids of the tokens that begin and end a text."""
    path = source / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"tokenizer.dir={source}: has no tokenizer.json")
    for file in TOKENIZER_FILES:
        if (source / file).is_file():
            shutil.copyfile(source / file, folder / file)
    settings_path = source / "tokenizer_config.json"
    settings = _read_json(settings_path) if settings_path.is_file() else {}
    ids = {token["content"]: token["id"] for token in _read_json(path).get("added_tokens", [])}

    def id_of(role: str) -> int | None:
        token = settings.get(role)
        return ids.get(token["content"] if isinstance(token, dict) else token)

    return {"bos_token_id": id_of("bos_token"), "eos_token_id": id_of("eos_token")}


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
