"""Text from tokens one at a time, without ever showing half a character."""

from __future__ import annotations

from collections.abc import Callable

REPLACEMENT = "\ufffd"  # what decoding gives for bytes that are not (yet) UTF-8


class StreamingDetokenizer:
    """Turns a stream of tokens into pieces of text whose concatenation decodes the whole.

    A token of a byte-level vocabulary may end inside a character. Such an end decodes to one
    replacement character, or by byte fallback to one for each byte; they are held back until the
    tokens after them tell what they are.
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self.decode = decode
        self.pending: list[int] = []
        self.shown = 0  # characters of decode(pending) already given out

    def push(self, token: int) -> str:
        """The text that `token` completes; may be empty."""
        self.pending.append(token)
        text = self.decode(self.pending)
        whole = text.rstrip(REPLACEMENT)
        piece = whole[self.shown :]
        self.shown += len(piece)
        if whole == text:
            self.pending, self.shown = [], 0
        return piece

    def flush(self) -> str:
        """What is left at the end of the stream: a character that never became complete."""
        piece = self.decode(self.pending)[self.shown :] if self.pending else ""
        self.pending, self.shown = [], 0
        return piece
