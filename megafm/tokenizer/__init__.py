"""Text to token ids and back: trained here or imported, with chat templates."""

from megafm.tokenizer.config import Recipe
from megafm.tokenizer.tokenizer import END_OF_DOCUMENT, Tokenizer
from megafm.tokenizer.training import train

__all__ = ["END_OF_DOCUMENT", "Recipe", "Tokenizer", "train"]
