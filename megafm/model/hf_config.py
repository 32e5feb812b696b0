"""config.json of Hugging Face folders <-> ModelConfig; one table of fields for both directions."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megafm.model.config import ModelConfig, MoeConfig, RopeScaling

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

# The same for MoeConfig, in Qwen3's names.
MOE_FIELDS: dict[str, tuple[str, Any]] = {
    "num_experts": ("num_experts", REQUIRED),
    "num_experts_per_token": ("num_experts_per_tok", 8),
    "ffn_dim": ("moe_intermediate_size", 768),
    "normalize_weights": ("norm_topk_prob", False),
    "aux_loss": ("router_aux_loss_coef", 0.001),
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
    "decoder_sparse_step": 1,
}


@dataclass(frozen=True)
class Architecture:
    """A class of transformers that computes what some configs of ours do.

    Attributes:
        holds: whether it can express a config.
        moe: whether its feed-forward is a mixture of experts.
        read_window: config.json -> the sliding window.
        write: the keys of config.json beyond CONFIG_FIELDS.
    """

    name: str
    model_type: str
    qk_norm: bool
    holds: Callable[[ModelConfig], bool]
    read_window: Callable[[Mapping[str, Any]], int | None]
    write: Callable[[ModelConfig], dict[str, Any]]
    moe: bool = False


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


def _no_window(values: Mapping[str, Any]) -> None:
    if values.get("use_sliding_window", False):
        raise ValueError("use_sliding_window=True: not supported together with experts")


def _is_qwen3_moe(config: ModelConfig) -> bool:
    """Whether config.moe sets nothing but what MOE_FIELDS and mlp_only_layers say."""
    assert config.moe is not None
    said = {name: getattr(config.moe, name) for name in (*MOE_FIELDS, "num_dense_layers")}
    return config.moe == MoeConfig(**said) and config.window is None


def _write_qwen3_moe(config: ModelConfig) -> dict[str, Any]:
    written = {theirs: getattr(config.moe, ours) for ours, (theirs, _) in MOE_FIELDS.items()}
    layers = list(range(config.num_dense_layers))
    return {"attention_bias": False, "mlp_only_layers": layers, "decoder_sparse_step": 1, **written}


def _read_qwen3_moe(values: Mapping[str, Any]) -> MoeConfig:
    dense = values.get("mlp_only_layers") or []
    if sorted(dense) != list(range(len(dense))):
        raise ValueError(f"mlp_only_layers={dense}: only the first layers can be dense")
    values = {"num_experts": values.get("num_local_experts"), **values}  # transformers 5's name
    return MoeConfig(num_dense_layers=len(dense), **_read_fields(values, MOE_FIELDS))


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
    Architecture(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        qk_norm=True,
        holds=_is_qwen3_moe,
        read_window=_no_window,
        write=_write_qwen3_moe,
        moe=True,
    ),
)


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
    fields = _read_fields(values, CONFIG_FIELDS)
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
        moe=_read_qwen3_moe(values) if architecture.moe else None,
    )


def _read_fields(values: Mapping[str, Any], names: Mapping[str, tuple[str, Any]]) -> dict[str, Any]:
    fields = {}
    for ours, (theirs, default) in names.items():
        value = values.get(theirs)
        fields[ours] = default if value is None else value
        if fields[ours] is REQUIRED:
            raise ValueError(f"the key {theirs} is missing")
    return fields


def to_hf_config(config: ModelConfig) -> dict[str, Any]:
    """The content of config.json: rotary settings both as transformers 4 and as 5 keep them.

    Raises:
        ValueError: no class of transformers that is known here computes `config`.
    """
    kind = config.qk_norm, config.moe is not None
    candidates = (a for a in ARCHITECTURES if (a.qk_norm, a.moe) == kind and a.holds(config))
    architecture = next(candidates, None)
    if architecture is None:
        raise ValueError(
            f"model.moe={config.moe}, model.qk_norm={config.qk_norm}, model.window="
            f"{config.window}: experts are exported as Qwen3MoeForCausalLM has them; set "
            "model.qk_norm=true, model.window=null, and of model.moe nothing but "
            f"{', '.join(MOE_FIELDS)} and num_dense_layers"
        )
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
