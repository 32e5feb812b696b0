"""Continue one sequence, token by token, with a key/value cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from megafm.infer.sampler import Sampling, sample
from megafm.model import Decoder, KVCache


@torch.inference_mode()
def generate(
    model: Decoder,
    prompt: list[int],
    *,
    eod_id: int,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    seed: int = 0,
    vocab_size: int | None = None,
) -> Iterator[int]:
    """Yield new tokens until the model ends the document or `max_new_tokens` are there.

    The model reads eod_id before the prompt, as before every document of its training; the end of
    document that stops it is not yielded. The repetition penalty sees the prompt and the new
    tokens. Same arguments, same device: same tokens.

    Args:
        prompt: token ids; may be empty.
        vocab_size: ids from here on are never drawn (a model may have more rows than its tokenizer
            has tokens).

    Raises:
        ValueError: prompt and new tokens together do not fit the context of the model.
    """
    sampling = sampling or Sampling()
    check_context(len(prompt), max_new_tokens, model.config.max_seq_len)
    device = next(model.parameters()).device
    generator = torch.Generator(device).manual_seed(seed)
    cache = KVCache(len(prompt) + max_new_tokens)
    unread = torch.tensor([[eod_id, *prompt]], device=device)
    text = unread[:, 1:]
    for _ in range(max_new_tokens):
        logits = model(unread, cache=cache)[:, -1, :vocab_size]
        unread = sample(logits, text, sampling, generator)[:, None]
        token = int(unread)
        if token == eod_id:
            return
        text = torch.cat([text, unread], dim=1)
        yield token


def check_context(prompt_tokens: int, max_new_tokens: int, max_seq_len: int) -> None:
    """The model reads an end of document, the prompt, and all new tokens but the last."""
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens}: must be at least 1; set 200")
    room = max_seq_len - prompt_tokens
    if room < 1:
        raise ValueError(
            f"prompt: {prompt_tokens} tokens leave no room in a context of {max_seq_len}; "
            f"give at most {max_seq_len - 1} tokens"
        )
    if max_new_tokens > room:
        raise ValueError(
            f"max_new_tokens={max_new_tokens}: with a prompt of {prompt_tokens} tokens it exceeds "
            f"the context of {max_seq_len}; set max_new_tokens={room}"
        )
