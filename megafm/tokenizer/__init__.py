"""Text to token ids and back: byte-level BPE."""

from megafm.tokenizer.bpe import Tokenizer, train

__all__ = ["Tokenizer", "train"]
