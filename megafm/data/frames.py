"""Zstandard that notices when it is cut off."""

from __future__ import annotations

import io
from types import ModuleType
from typing import IO, Any


class ZstandardFrames(io.RawIOBase):
    """What frames of Zstandard, one after the other, expand to. The package's own reader takes a
    cut frame for the end of the file. A block of four bytes may become 128 kB, so that it is fed
    little.

    Reading raises EOFError: cut off; ValueError: damaged.
    """

    FEED = 1024

    def __init__(self, zstandard: ModuleType, stream: IO[bytes]) -> None:
        self._zstandard = zstandard
        self._stream = stream
        self._input = b""
        self._output = memoryview(b"")
        self._frame: Any = None  # None between two frames

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            self._input = self._input or self._stream.read(self.FEED)
            if not self._input:
                if self._frame is not None:
                    raise EOFError("in the middle of a frame")
                return 0
            self._output = memoryview(self._expand())
        count = min(len(buffer), len(self._output))
        buffer[:count], self._output = self._output[:count], self._output[count:]
        return count

    def _expand(self) -> bytes:
        if self._frame is None:
            self._frame = self._zstandard.ZstdDecompressor().decompressobj()
        try:
            output = self._frame.decompress(self._input)
        except self._zstandard.ZstdError as error:
            raise ValueError(str(error)) from error
        self._input = b""
        if self._frame.eof:
            self._input, self._frame = self._frame.unused_data, None
        return output
