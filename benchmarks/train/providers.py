"""The same decoder by every library: a module from tokens and targets to the mean loss."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.train.decoder import PlainDecoder
from megafm.model import Decoder, ModelConfig, build

OURS = "megafm"
COMPILED = " compiled"  # ends the name of a provider that torch.compile is given


@dataclasses.dataclass(frozen=True)
class Size:
    """The model and the batch of one step, over all ranks."""

    model: ModelConfig
    seq_len: int
    batch: int


FULL = Size(
    ModelConfig(
        vocab_size=8192,
        dim=256,
        num_layers=8,
        num_heads=8,
        num_kv_heads=4,
        head_dim=32,
        ffn_dim=688,
        max_seq_len=512,
        tie_embeddings=False,
    ),
    seq_len=512,
    batch=8,
)
QUICK = Size(
    dataclasses.replace(FULL.model, vocab_size=64, dim=32, num_layers=1, head_dim=4, ffn_dim=48),
    seq_len=16,
    batch=2,
)


class FromLogits(nn.Module):
    """What a library's training script does with the logits of its model."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = self.model(tokens)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class Mean(nn.Module):
    """Our loss, a sum, over the number of this rank's tokens."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.model.loss(tokens, targets) / targets.numel()


def megafm(size: Size) -> nn.Module:
    return Mean(build(size.model))


def nano_gpt(size: Size) -> nn.Module:
    return PlainDecoder(size.model, size.seq_len)


def transformers(size: Size) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    class ByLabels(nn.Module):
        """The library's own loss; it shifts the labels itself, so they go in unshifted."""

        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=tokens, labels=tokens, use_cache=False).loss

    config = size.model
    return ByLabels(
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=config.vocab_size,
                hidden_size=config.dim,
                num_hidden_layers=config.num_layers,
                num_attention_heads=config.num_heads,
                num_key_value_heads=config.num_kv_heads,
                head_dim=config.head_dim,
                intermediate_size=config.ffn_dim,
                max_position_embeddings=size.seq_len,
                rms_norm_eps=config.norm_eps,
                tie_word_embeddings=False,
                attn_implementation="sdpa",
            )
        )
    )


def litgpt(size: Size) -> nn.Module:
    from litgpt import GPT, Config

    config = size.model
    return FromLogits(
        GPT(
            Config(
                vocab_size=config.vocab_size,
                padded_vocab_size=config.vocab_size,
                block_size=size.seq_len,
                n_layer=config.num_layers,
                n_embd=config.dim,
                n_head=config.num_heads,
                n_query_groups=config.num_kv_heads,
                head_size=config.head_dim,
                intermediate_size=config.ffn_dim,
                rotary_percentage=1.0,
                parallel_residual=False,
                bias=False,
                norm_class_name="RMSNorm",
                norm_eps=config.norm_eps,
                mlp_class_name="LLaMAMLP",
            )
        )
    )


def torchtitan(size: Size) -> nn.Module:
    """Its Llama 3; on SDPA, since its own FlexAttention has no backward on a CPU."""
    from torchtitan.models import llama3
    from torchtitan.models.common.attention import ScaledDotProductAttention

    config = size.model
    layers = llama3._build_llama3_layers(
        n_layers=config.num_layers,
        dim=config.dim,
        n_heads=config.num_heads,
        n_kv_heads=config.num_kv_heads,
        hidden_dim=config.ffn_dim,
        fuse_qkv=True,
        attn_backend="flex",
        rope=llama3.ComplexRoPE.Config(dim=config.head_dim, max_seq_len=size.seq_len),
    )
    for layer in layers:
        layer.attention.inner_attention = ScaledDotProductAttention.Config()
    dim, vocab = config.dim, config.vocab_size
    model = llama3.Llama3Model.Config(
        dim=dim,
        vocab_size=vocab,
        tok_embeddings=llama3.Embedding.Config(
            num_embeddings=vocab, embedding_dim=dim, param_init=llama3._EMBEDDING_INIT
        ),
        norm=llama3.RMSNorm.Config(normalized_shape=dim, param_init=llama3._NORM_INIT),
        lm_head=llama3.Linear.Config(
            in_features=dim, out_features=vocab, param_init=llama3._output_linear_init(dim)
        ),
        layers=layers,
    ).build()
    model.init_states()
    return FromLogits(model)


PROVIDERS: dict[str, Callable[[Size], nn.Module]] = {
    OURS: megafm,
    "nanoGPT-style": nano_gpt,
    "transformers": transformers,
    "litgpt": litgpt,
    "torchtitan": torchtitan,
}
NAMES = (OURS, *(name + end for name in PROVIDERS if name != OURS for end in ("", COMPILED)))
MODULES = {"transformers": "transformers", "litgpt": "litgpt", "torchtitan": "torchtitan"}


def missing(name: str) -> str | None:
    """Why a provider cannot be measured here, or None."""
    module = MODULES.get(name.removesuffix(COMPILED))
    if module is None or importlib.util.find_spec(module):
        return None
    return f"{module} is not installed"


def make(name: str, size: Size) -> nn.Module:
    """The module of a provider, on the CPU, float32."""
    torch.manual_seed(0)
    return PROVIDERS[name.removesuffix(COMPILED)](size)
