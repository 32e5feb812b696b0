"""The bytes of all tensors alive, over time and by what they are for: of real or of fake tensors.

Memory is counted by storage, as torch's dispatcher hands tensors out: views count once, what a
kernel allocates and frees inside is not seen. An allocator rounds sizes up and fragments, so a
device uses more than this.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary

from megafm.plan.dispatch import takes_wrapped, unwrapped

# In the order in which a picture stacks them. Activations are all that the forward pass makes,
# other what set-up, backward pass and optimizer make: tables, buffers, temporaries.
CATEGORIES = ("parameters", "optimizer", "gradients", "gathered", "activations", "other")


@dataclass
class Block:
    """The memory of one storage; `category` may be known only later."""

    num_bytes: int
    category: str


@dataclass(frozen=True)
class Event:
    """A block comes (change > 0) or goes, in bytes."""

    block: Block
    change: int


class MemoryTrace(TorchDispatchMode):
    """Context manager that records when the storages on a device that are made inside come and go.

    Attributes:
        making: the category of what is made from now on, unless it is labelled.
        marks: (name, number of events before it): where a phase began.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device_type = device.type
        self.making = "other"
        self.events: list[Event] = []
        self.marks: list[tuple[str, int]] = []
        self._recording = False
        self._blocks: WeakIdKeyDictionary = WeakIdKeyDictionary()  # by storage

    def mark(self, phase: str, making: str) -> None:
        self.making = making
        self.marks.append((phase, len(self.events)))

    def label(self, category: str, tensors: Iterable[torch.Tensor]) -> None:
        """What the storages of `tensors` were for, from when they were made."""
        for tensor in tensors:
            block = self._blocks.get(unwrapped(tensor).untyped_storage())
            if block is not None:
                block.category = category

    def alive(self) -> np.ndarray:
        """Bytes alive after each event: (events, categories) int64, in the order of CATEGORIES."""
        changes = np.zeros((len(self.events), len(CATEGORIES)), dtype=np.int64)
        for row, event in zip(changes, self.events, strict=True):
            row[CATEGORIES.index(event.block.category)] = event.change
        return changes.cumsum(axis=0)

    def __enter__(self) -> MemoryTrace:
        trace, resize = self, torch.UntypedStorage.resize_

        def recorded(storage: torch.UntypedStorage, size: int) -> Any:
            result = resize(storage, size)
            trace._resized(storage)
            return result

        # FSDP2 frees gathered parameters and takes memory for them by this, not by an op.
        self._patch = mock.patch.object(torch.UntypedStorage, "resize_", recorded)
        self._patch.start()
        self._recording = True
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        self._recording = False
        self._patch.stop()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if takes_wrapped(types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        if _allocates(func):
            for value in tree_iter(result):
                if isinstance(value, torch.Tensor):
                    self._made(unwrapped(value))
        return result

    def _made(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage not in self._blocks and tensor.device.type == self.device_type:
            block = self._blocks[storage] = Block(storage.nbytes(), self.making)
            self.events.append(Event(block, block.num_bytes))
            weakref.finalize(storage, self._change, block, 0)

    def _resized(self, storage: torch.UntypedStorage) -> None:
        block = self._blocks.get(storage)
        if block is not None:
            block.category = "gathered"
            self._change(block, storage.nbytes())

    def _change(self, block: Block, num_bytes: int) -> None:
        if self._recording and num_bytes != block.num_bytes:
            self.events.append(Event(block, num_bytes - block.num_bytes))
            block.num_bytes = num_bytes


@functools.cache
def _allocates(func: Any) -> bool:
    """Whether an op returns anything but views of what it takes."""
    return any(returned.alias_info is None for returned in func._schema.returns)
