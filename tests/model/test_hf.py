"""Against transformers: the same logits and gradients, and folders that both sides read."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from megafm.model import ModelConfig, MoeConfig, RopeScaling, build, from_hf, hf, to_hf
from megafm.model.hf import their_name
from megafm.model.hf_config import from_hf_config, to_hf_config

transformers = pytest.importorskip("transformers", reason="pip install 'megafm[hf]'")

SMALL = ModelConfig(
    vocab_size=97,
    dim=64,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    ffn_dim=112,
    max_seq_len=128,
    norm_eps=1e-5,
    init_std=0.1,
    tie_embeddings=False,
)
MOE = MoeConfig(num_experts=6, num_experts_per_token=2, ffn_dim=40, aux_loss=0.01)
LLAMA3 = RopeScaling(
    kind="llama3", factor=8.0, original_max_seq_len=32, low_freq_factor=1.0, high_freq_factor=4.0
)
YARN = RopeScaling(kind="yarn", factor=4.0, original_max_seq_len=32)
CONFIGS = {
    "llama": SMALL,
    "llama-mha": dataclasses.replace(SMALL, num_kv_heads=4),
    "llama-tied": dataclasses.replace(SMALL, tie_embeddings=True),
    "llama-rope-llama3": dataclasses.replace(SMALL, rope_scaling=LLAMA3, rope_base=500000.0),
    "llama-rope-yarn": dataclasses.replace(SMALL, rope_scaling=YARN),
    "llama-rope-yarn-attention-factor": dataclasses.replace(
        SMALL, rope_scaling=dataclasses.replace(YARN, attention_factor=1.3, beta_fast=16.0)
    ),
    "llama-rope-linear": dataclasses.replace(SMALL, rope_scaling=RopeScaling("linear", 2.0)),
    "llama-rope-ntk": dataclasses.replace(SMALL, rope_scaling=RopeScaling("ntk", 2.0)),
    "qwen3": dataclasses.replace(SMALL, qk_norm=True, head_dim=32),
    "qwen3-tied": dataclasses.replace(SMALL, qk_norm=True, tie_embeddings=True),
    "qwen3-window": dataclasses.replace(SMALL, qk_norm=True, window=7),
    "qwen3moe": dataclasses.replace(SMALL, qk_norm=True, moe=MOE),
    "qwen3moe-dense-first": dataclasses.replace(
        SMALL,
        qk_norm=True,
        moe=dataclasses.replace(MOE, num_dense_layers=1, normalize_weights=False),
    ),
    "mistral-window": dataclasses.replace(SMALL, window=7),
    "mistral-window-one": dataclasses.replace(SMALL, window=1),
    "mistral-tied": dataclasses.replace(SMALL, window=7, tie_embeddings=True),
    "mistral-odd-width": dataclasses.replace(SMALL, dim=66, tie_embeddings=True),
}


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_gradients_equal_those_of_transformers(name, attention, tmp_path):
    ours = random_model(CONFIGS[name])
    to_hf(ours, tmp_path)
    theirs = load_theirs(tmp_path, attn_implementation=attention)
    assert type(theirs).__name__.lower().startswith(name.split("-")[0])
    tokens = torch.randint(97, (2, 41), generator=torch.Generator().manual_seed(1))
    inputs, targets = tokens[:, :-1], tokens[:, 1:]

    logits, their_logits = ours(inputs), theirs(inputs).logits
    assert logits.std() > 0.5  # a comparison of small numbers would show nothing
    torch.testing.assert_close(logits, their_logits, atol=2e-5, rtol=0)

    ours.loss(inputs, targets).backward()
    loss = torch.nn.functional.cross_entropy(their_logits.flatten(0, 1), targets.flatten())
    (loss * targets.numel()).backward()
    gradients = their_gradients(theirs)
    for parameter_name, parameter in ours.named_parameters():
        gradient = gradients.pop(their_name(parameter_name))
        scale = gradient.abs().max().clamp(min=1.0)
        torch.testing.assert_close(
            parameter.grad / scale, gradient / scale, atol=1e-5, rtol=0, msg=parameter_name
        )
    assert not gradients


def their_gradients(model):
    """By the names of the files; transformers 5 stacks the experts, which `their_name` finds by the
    first one's name."""
    gradients = {}
    for name, parameter in model.named_parameters():
        if name.endswith("experts.gate_up_proj"):
            for half, gradient in zip(("gate", "up"), parameter.grad.chunk(2, dim=1), strict=True):
                gradients[name.replace("gate_up_proj", f"0.{half}_proj.weight")] = gradient
        elif name.endswith("experts.down_proj"):
            gradients[name.replace("down_proj", "0.down_proj.weight")] = parameter.grad
        else:
            gradients[name] = parameter.grad
    return gradients


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "llama-rope-ntk"])
def test_round_trip_keeps_config_and_every_bit(name, tmp_path):
    ours = random_model(CONFIGS[name])
    to_hf(ours, tmp_path / "ours")
    load_theirs(tmp_path / "ours").save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        back = from_hf(tmp_path / folder)
        assert back.config == ours.config
        assert_same_weights(back, ours)


def test_config_json_is_read_by_transformers_4_and_5():
    """4 keeps rope_theta and rope_scaling at the top, 5 all of it in rope_parameters."""
    config = CONFIGS["llama-rope-llama3"]
    values = to_hf_config(config)
    only_4 = {key: value for key, value in values.items() if key != "rope_parameters"}
    only_5 = {k: v for k, v in values.items() if k not in ("rope_theta", "rope_scaling")}
    assert from_hf_config(only_4) == config
    assert from_hf_config(only_5) == config
    read = [transformers.LlamaConfig(**layout).rope_parameters for layout in (only_4, only_5)]
    assert read[0] == read[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dtype_is_kept_unless_another_is_asked_for(dtype, tmp_path):
    to_hf(random_model(SMALL), tmp_path, dtype=dtype)
    assert load_theirs(tmp_path, dtype="auto").dtype == dtype
    assert from_hf(tmp_path).norm.weight.dtype == dtype
    assert from_hf(tmp_path, dtype=torch.float32).norm.weight.dtype == torch.float32


def test_large_models_are_sharded(tmp_path, monkeypatch):
    monkeypatch.setattr(hf, "MAX_SHARD_BYTES", 100_000)
    ours = random_model(SMALL)
    to_hf(ours, tmp_path)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2 and not (tmp_path / "model.safetensors").exists()
    assert all(shard.stat().st_size < 110_000 for shard in shards)
    assert_same_weights(from_hf(tmp_path), ours)
    assert_same_logits(load_theirs(tmp_path), ours)
    monkeypatch.undo()
    to_hf(ours, tmp_path)  # over the shards: none is left behind
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]


def test_repeated_tied_head_is_accepted(tmp_path):
    from safetensors.torch import load_file, save_file

    to_hf(random_model(CONFIGS["llama-tied"]), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    from_hf(tmp_path)


def test_tokenizer_travels_with_the_model(tmp_path):
    from megafm import tokenizer

    words = tokenizer.train(iter(["def f(x):\n    return x\n"]), 257)
    words.save(tmp_path / "tokenizer")
    config = dataclasses.replace(SMALL, vocab_size=257)
    to_hf(random_model(config), tmp_path / "hf", tmp_path / "tokenizer")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs("def f").input_ids == words.encode("def f")
    assert theirs.eos_token_id == words.eod_id
    generation = transformers.GenerationConfig.from_pretrained(tmp_path / "hf")
    assert generation.eos_token_id == words.eod_id
    assert load_theirs(tmp_path / "hf").config.eos_token_id == words.eod_id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["FalconForCausalLM"]}, "FalconForCausalLM.*LlamaForCausalLM, Mistral"),
        ({"attention_bias": True}, "attention_bias=True: this decoder has only"),
        ({"hidden_act": "gelu"}, "hidden_act=gelu"),
        ({"rope_scaling": {"rope_type": "longrope"}, "rope_parameters": None}, "longrope.*yarn"),
        ({"hidden_size": None}, "hidden_size is missing"),
    ],
)
def test_what_this_decoder_lacks_is_refused_by_name(changes, message, tmp_path):
    to_hf(random_model(SMALL), tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message) as caught:
        from_hf(tmp_path)
    assert "config.json" in str(caught.value)


def test_window_in_some_layers_is_refused():
    values = to_hf_config(CONFIGS["qwen3-window"]) | {"max_window_layers": 2}
    with pytest.raises(ValueError, match="max_window_layers=2"):
        from_hf_config(values)


def test_experts_that_transformers_has_no_class_for_are_refused():
    for changes in ({"scoring": "sigmoid"}, {"num_shared_experts": 1}, {"weight_scale": 2.0}):
        moe = dataclasses.replace(MOE, **changes)
        with pytest.raises(ValueError, match="exported as Qwen3MoeForCausalLM has them"):
            to_hf_config(dataclasses.replace(SMALL, qk_norm=True, moe=moe))
    values = to_hf_config(CONFIGS["qwen3moe"])
    with pytest.raises(ValueError, match="mlp_only_layers=.1.: only the first"):
        from_hf_config(values | {"mlp_only_layers": [1]})
    with pytest.raises(ValueError, match="decoder_sparse_step=2: this decoder has only"):
        from_hf_config(values | {"decoder_sparse_step": 2})
    with pytest.raises(ValueError, match="use_sliding_window=True"):
        from_hf_config(values | {"use_sliding_window": True})


def test_missing_or_misshapen_tensors_are_named(tmp_path):
    from safetensors.torch import load_file, save_file

    to_hf(random_model(SMALL), tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    gone = tensors.pop("model.norm.weight")
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"'model\.norm\.weight' is missing"):
        from_hf(tmp_path)
    save_file(tensors | {"model.norm.weight": gone[:-1].clone()}, path)
    with pytest.raises(ValueError, match=r"model\.norm\.weight has shape \(63,\)"):
        from_hf(tmp_path)
    save_file(tensors | {"model.norm.weight": gone, "extra.bias": gone.clone()}, path)
    with pytest.raises(ValueError, match=r"no place for the tensor 'extra\.bias'"):
        from_hf(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors: missing"):
        from_hf(tmp_path)


def random_model(config: ModelConfig):
    """Norms are random too: at one they would hide a wrong order of tensors."""
    model = build(config, seed=3)
    generator = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            parameter.data.uniform_(0.5, 1.5, generator=generator)
    return model


def load_theirs(folder, **options):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, **options)


def assert_same_weights(model, expected):
    weights = dict(model.named_parameters())
    for name, parameter in expected.named_parameters():
        assert torch.equal(weights.pop(name), parameter), name
    assert not weights


@torch.no_grad()
def assert_same_logits(theirs, ours):
    tokens = torch.arange(20)[None]
    torch.testing.assert_close(theirs(tokens).logits, ours(tokens), atol=2e-5, rtol=0)


def test_a_full_disk_leaves_the_export_that_was_there(tmp_path, monkeypatch):
    to_hf(random_model(SMALL), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*arguments, **options):
        raise hf.SafetensorError("No space left on device")

    monkeypatch.setattr(hf, "save_file", full)
    with pytest.raises(OSError, match=f"{tmp_path.name}: could not write the tensors .No space"):
        to_hf(random_model(dataclasses.replace(SMALL, num_layers=1)), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_weights_that_are_cut_off_are_named(tmp_path):
    to_hf(random_model(SMALL), tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="model.safetensors: damaged"):
        from_hf(tmp_path)
