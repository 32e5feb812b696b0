"""megafm: raw text to a trained, aligned, evaluated and served foundation model."""

__version__ = "0.1.0"
