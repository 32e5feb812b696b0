"""To and from Hugging Face folders: config.json, safetensors, tokenizer files.

One table of names and one of config fields serve both directions. Needs no transformers.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from megafm.model.config import ModelConfig, RopeScaling
from megafm.model.decoder import Decoder, build

# ours -> theirs; {i} is the layer.
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
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}

# ours -> (theirs, transformers' default where the key may be absent from config.json).
REQUIRED = object()
CONFIG_FIELDS: dict[str, tuple[str, Any]] = {
    "vocab_size": ("vocab_size", REQUIRED),
    "dim": ("hidden_size", REQUIRED),
    "num_layers": ("num_hidden_layers", REQUIRED),
    "num_heads": ("num_attention_heads", REQUIRED),
    "num_kv_heads": ("num_key_value_heads", None),
    "head_dim": ("head_dim", None),
    "ffn_dim": ("intermediate_size", REQUIRED),
    "max_seq_len": ("max_position_embeddings", REQUIRED),
    "norm_eps": ("rms_norm_eps", 1e-6),
    "tie_embeddings": ("tie_word_embeddings", False),
    "init_std": ("initializer_range", 0.02),
}

# RopeScaling's fields by kind: ours -> theirs.
ROPE_FIELDS = {
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "original_max_seq_len": "original_max_position_embeddings",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
    },
    "yarn": {
        "factor": "factor",
        "original_max_seq_len": "original_max_position_embeddings",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "attention_factor": "attention_factor",
    },
}

# Keys of config.json that change the maths and that this decoder has at one value only.
FIXED = {
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "attention_dropout": 0.0,
    "partial_rotary_factor": 1.0,
}

MAX_SHARD_BYTES = 5_000_000_000
END_OF_TEXT = "<|endoftext|>"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class Architecture:
    """A class of transformers that computes what some configs of ours do.

    Attributes:
        holds: whether it can express a config.
        read_window: config.json -> the sliding window.
        write: the keys of config.json beyond CONFIG_FIELDS.
    """

    name: str
    model_type: str
    qk_norm: bool
    holds: Callable[[ModelConfig], bool]
    read_window: Callable[[Mapping[str, Any]], int | None]
    write: Callable[[ModelConfig], dict[str, Any]]


def _read_qwen3_window(values: Mapping[str, Any]) -> int | None:
    if not values.get("use_sliding_window", False):
        return None
    full_layers = values.get("max_window_layers", 28)
    if full_layers >= values["num_hidden_layers"]:
        return None
    if full_layers > 0:
        raise ValueError(
            f"max_window_layers={full_layers}: a window in some layers only is not supported; only "
            "0 (a window everywhere) or use_sliding_window=false"
        )
    return values.get("sliding_window", 4096)


def _write_qwen3_window(config: ModelConfig) -> dict[str, Any]:
    windowed = config.window is not None
    return {
        "use_sliding_window": windowed,
        "sliding_window": config.window,
        "max_window_layers": 0 if windowed else config.num_layers,
    }


# In the order in which an export prefers them.
ARCHITECTURES = (
    Architecture(
        "LlamaForCausalLM",
        "llama",
        qk_norm=False,
        # transformers refuses a LlamaConfig whose width is no multiple of its heads
        holds=lambda config: config.window is None and config.dim % config.num_heads == 0,
        read_window=lambda values: None,
        write=lambda config: {"attention_bias": False, "mlp_bias": False},
    ),
    Architecture(
        "MistralForCausalLM",
        "mistral",
        qk_norm=False,
        holds=lambda config: True,
        read_window=lambda values: values.get("sliding_window", 4096),
        write=lambda config: {"sliding_window": config.window},
    ),
    Architecture(
        "Qwen3ForCausalLM",
        "qwen3",
        qk_norm=True,
        holds=lambda config: True,
        read_window=_read_qwen3_window,
        write=lambda config: {"attention_bias": False, **_write_qwen3_window(config)},
    ),
)


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
    by_their_name = {their_name(name): name for name, _ in model.named_parameters()}
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in _read_tensors(folder):
        if name in by_their_name:
            tensors[by_their_name[name]] = tensor.to(device=device, dtype=dtype)
        elif not _is_redundant(name, config):
            raise ValueError(f"{folder}: this decoder has no place for the tensor {name!r}")
    _check_tensors(folder, model, tensors)
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

    Args:
        tokenizer_dir: its files are copied; the end-of-text token becomes eos and bos.
        dtype: of the tensors; by default that of the model.
    """
    assert isinstance(model, Decoder)
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        their_name(name): parameter.detach().to("cpu", dtype).contiguous()
        for name, parameter in model.named_parameters()
    }
    token = None if tokenizer_dir is None else _copy_tokenizer(Path(tokenizer_dir), folder, model)
    ids = {"bos_token_id": token, "eos_token_id": token}
    stored = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    values = to_hf_config(model.config) | {"torch_dtype": stored, "dtype": stored} | ids
    _write_json(folder / "config.json", values)
    _write_json(folder / "generation_config.json", {"do_sample": True, **ids})
    _write_tensors(folder, tensors)


def their_name(name: str) -> str:
    """The Hugging Face name of a parameter of ours."""
    numbers = re.findall(r"\.(\d+)\.", name)
    theirs = TENSOR_NAMES[re.sub(r"\.\d+\.", ".{i}.", name)]
    return theirs.format(i=numbers[0]) if numbers else theirs


def read_config(folder: Path) -> ModelConfig:
    """The ModelConfig of a Hugging Face folder; ValueError says what it asks for in vain."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: not a Hugging Face config.json ({error})") from error
    try:
        return from_hf_config(values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_hf_config(values: Mapping[str, Any]) -> ModelConfig:
    """Translate the content of config.json, in the layout of transformers 4 or 5."""
    architecture = _architecture(values)
    for key, only in FIXED.items():
        if values.get(key, only) not in (only, None):
            raise ValueError(f"{key}={values[key]}: this decoder has only {key}={only}")
    fields = {}
    for ours, (theirs, default) in CONFIG_FIELDS.items():
        value = values.get(theirs)
        fields[ours] = default if value is None else value
        if fields[ours] is REQUIRED:
            raise ValueError(f"the key {theirs} is missing")
    if fields["num_kv_heads"] is None:
        fields["num_kv_heads"] = fields["num_heads"]
    if fields["head_dim"] is None:
        fields["head_dim"] = fields["dim"] // fields["num_heads"]
    rope_base, rope_scaling = _read_rope(values)
    return ModelConfig(
        **fields,
        rope_base=rope_base,
        rope_scaling=rope_scaling,
        qk_norm=architecture.qk_norm,
        window=architecture.read_window(values),
    )


def to_hf_config(config: ModelConfig) -> dict[str, Any]:
    """The content of config.json: rotary settings both as transformers 4 and as 5 keep them."""
    architecture = next(a for a in ARCHITECTURES if a.qk_norm == config.qk_norm and a.holds(config))
    values: dict[str, Any] = {
        "architectures": [architecture.name],
        "model_type": architecture.model_type,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
    }
    values |= {theirs: getattr(config, ours) for ours, (theirs, _) in CONFIG_FIELDS.items()}
    values |= architecture.write(config)
    base, scaling = _write_rope(config)
    values["rope_theta"] = base
    values["rope_scaling"] = scaling
    values["rope_parameters"] = {**(scaling or {"rope_type": "default"}), "rope_theta": base}
    return values


def _architecture(values: Mapping[str, Any]) -> Architecture:
    names = values.get("architectures") or []
    for architecture in ARCHITECTURES:
        if architecture.name in names or (
            not names and values.get("model_type") == architecture.model_type
        ):
            return architecture
    asked = ", ".join(names) or values.get("model_type", "none")
    known = ", ".join(architecture.name for architecture in ARCHITECTURES)
    raise ValueError(f"architecture {asked}: not one that megafm reads; those are {known}")


def _read_rope(values: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    base = rope.get("rope_theta", values.get("rope_theta", 10000.0))
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind in ("default", "dynamic"):
        # dynamic acts beyond max_position_embeddings, where this decoder ends
        return base, None
    if kind not in ROPE_FIELDS:
        raise ValueError(
            f"rope_type={kind}: not supported; default, dynamic, {', '.join(ROPE_FIELDS)} are"
        )
    names = ROPE_FIELDS[kind]
    extra = set(rope) - set(names.values()) - {"rope_type", "type", "rope_theta"}
    extra -= {key for key in extra if rope[key] is None or FIXED.get(key) == rope[key]}
    if kind == "yarn" and rope.get("truncate") is True:
        extra.discard("truncate")  # its default, and what this decoder does
    if extra:
        raise ValueError(f"rope scaling {kind} with {', '.join(sorted(extra))}: not supported")
    fields = {ours: rope[theirs] for ours, theirs in names.items() if theirs in rope}
    if "original_max_seq_len" in names:
        fields.setdefault("original_max_seq_len", values["max_position_embeddings"])
    return base, RopeScaling(kind=kind, **{k: v for k, v in fields.items() if v is not None})


def _write_rope(config: ModelConfig) -> tuple[float, dict[str, Any] | None]:
    scaling = config.rope_scaling
    if scaling is None:
        return config.rope_base, None
    if scaling.kind == "ntk":  # which is nothing but a larger base
        return config.rope_base * scaling.factor ** (config.head_dim / (config.head_dim - 2)), None
    fields = {t: getattr(scaling, ours) for ours, t in ROPE_FIELDS[scaling.kind].items()}
    written = {key: value for key, value in fields.items() if value is not None}
    return config.rope_base, {"rope_type": scaling.kind} | written


def _read_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    if (folder / INDEX).is_file():
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
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
        with safe_open(path, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a dict)
                yield name, tensors.get_tensor(name)


def _is_redundant(name: str, config: ModelConfig) -> bool:
    """Tensors that some exports repeat: the tied head, and the frequencies of old ones."""
    tied_head = config.tie_embeddings and name == TENSOR_NAMES["head.weight"]
    return tied_head or name.endswith("rotary_emb.inv_freq")


def _check_tensors(folder: Path, model: Decoder, tensors: Mapping[str, torch.Tensor]) -> None:
    for name, parameter in model.named_parameters():
        if name not in tensors:
            raise ValueError(f"{folder}: the tensor {their_name(name)!r} is missing")
        if tensors[name].shape != parameter.shape:
            raise ValueError(
                f"{folder}: {their_name(name)} has shape {tuple(tensors[name].shape)}, config.json "
                f"asks for {tuple(parameter.shape)}"
            )


def _write_tensors(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """One file, or numbered shards and their index once it would exceed MAX_SHARD_BYTES."""
    for stale in (*folder.glob("model*.safetensors"), folder / INDEX):
        stale.unlink(missing_ok=True)
    shards: list[dict[str, torch.Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if filled and filled + tensor.nbytes > MAX_SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    if len(shards) == 1:
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in tensors.values())
    _write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _copy_tokenizer(source: Path, folder: Path, model: Decoder) -> int | None:
    """Copy the tokenizer's files; returns the id of the end-of-text token if it has one."""
    path = source / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"tokenizer.dir={source}: has no tokenizer.json")
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (source / file).is_file():
            shutil.copyfile(source / file, folder / file)
    added = json.loads(path.read_text(encoding="utf-8")).get("added_tokens", [])
    token = next((t["id"] for t in added if t["content"] == END_OF_TEXT), None)
    if not (source / "tokenizer_config.json").is_file():
        special = {} if token is None else {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
        settings = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model.config.max_seq_len,
            "clean_up_tokenization_spaces": False,
            **special,
        }
        _write_json(folder / "tokenizer_config.json", settings)
    return token


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
