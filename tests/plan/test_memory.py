from __future__ import annotations

import torch

from megafm.plan.memory import CATEGORIES, MemoryTrace

CPU = torch.device("cpu")


def totals(trace: MemoryTrace) -> list[int]:
    return trace.alive().sum(axis=1).tolist()


def test_storages_count_once_from_when_they_are_made_to_when_they_are_freed() -> None:
    with MemoryTrace(CPU) as trace:
        x = torch.zeros(256)
        views = [x.view(16, 16), x.detach(), x[3:]]
        del x
        y = torch.ones(64)
        del views
        del y
    assert totals(trace) == [1024, 1280, 256, 0]


def test_labels_hold_from_the_start_and_other_categories_keep_theirs() -> None:
    with MemoryTrace(CPU) as trace:
        x = torch.zeros(8)
        trace.mark("forward", "activations")
        y = x + 1
        trace.label("parameters", [x[2:]])
    most = dict(zip(CATEGORIES, trace.alive().max(axis=0).tolist(), strict=True))
    assert most == dict.fromkeys(CATEGORIES, 0) | {"parameters": 32, "activations": 32}
    assert trace.marks == [("forward", 1)] and len(y) == 8


def test_a_storage_that_is_emptied_and_filled_again_is_gathered() -> None:
    with MemoryTrace(CPU) as trace:
        x = torch.zeros(8)
        x.untyped_storage().resize_(0)
        x.untyped_storage().resize_(64)
    assert trace.alive()[:, CATEGORIES.index("gathered")].tolist() == [32, 0, 64]
    resize = torch.UntypedStorage.resize_
    with MemoryTrace(CPU):
        pass
    assert torch.UntypedStorage.resize_ is resize


def test_what_is_made_elsewhere_or_later_does_not_count() -> None:
    with MemoryTrace(CPU) as trace:
        torch.empty(8, device="meta")
        x = torch.zeros(8)
    del x
    torch.zeros(8)
    assert totals(trace) == [32]
